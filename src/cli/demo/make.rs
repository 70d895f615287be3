//! The demo's store: made without root, the same on every machine.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use snapcask::{
    Digest, Result,
    error::IoContext,
    layer::clone::{Beneath, clone_contents},
    temporary,
};

/// The snapshots, oldest first.
pub const NAMES: [&str; 3] = ["base", "packages", "configured"];

/// Logical size of a disk.
const DISK: u64 = 1 << 30;
/// Pieces of the first disk, and the size of each: 6 MiB in all.
const PIECES: u64 = 96;
const PIECE: u64 = 64 << 10;
const BLOCK: u64 = 4096;
/// Blocks that a child changes: 2 MiB.
const CHANGED: u64 = 512;
/// The reference of the image, and its layer's type.
const IMAGE: &str = "docker.io/library/demo:1";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const UUID: &str = "5eed5eed-5eed-4eed-8eed-5eed5eed5eed";

/// Makes the store; returns what its disks are, for people.
pub fn store(store: &Path) -> Result<&'static str> {
    let image = image(&store.join("cache"))?;
    let mut formatted = false;
    let mut parent: Option<(PathBuf, Digest)> = None;
    for (number, name) in (0..).zip(NAMES) {
        let folder = store.join("snapshots").join(name);
        create_folders(&folder)?;
        let path = folder.join("upper.ext4");
        let disk = File::create_new(&path).context("create", &path)?;
        disk.set_len(DISK).context("set the size of", &path)?;
        let write = |seed, length, offset| disk.write_all_at(&data(seed, length), offset).context("write", &path);
        match &parent {
            None => {
                formatted = format(&path);
                for piece in 0..PIECES {
                    write(piece + 1, PIECE, place(piece))?;
                }
            }
            Some((below, _)) => {
                clone_contents(&Beneath::open(below)?, &disk, &path, DISK, &|_| Ok(()))?;
                for (change, (seed, offset)) in changes(number).enumerate() {
                    // Now and then something is deleted: its block becomes zero, and a hole.
                    match change % 64 {
                        0 => disk.write_all_at(&[0; BLOCK as usize], offset).context("write", &path)?,
                        _ => write(seed, BLOCK, offset)?,
                    }
                }
            }
        }
        let descriptor = descriptor(name, number, parent.as_ref().map(|(_, digest)| digest), &image);
        let file = folder.join("manifest.json");
        fs::write(&file, &descriptor).context("write", &file)?;
        parent = Some((path, Digest::of(descriptor.as_bytes())));
    }
    Ok(if formatted {
        "ext4 by mkfs.ext4, with data in free blocks"
    } else {
        "raw blocks of data (mkfs.ext4 is not here; the bundle is the same kind)"
    })
}

/// Makes an ext4 filesystem in the sparse file; `false` if there is no working `mkfs.ext4`: the demo does without.
fn format(disk: &Path) -> bool {
    ["mkfs.ext4", "/sbin/mkfs.ext4", "/usr/sbin/mkfs.ext4"].into_iter().any(|program| {
        Command::new(program)
            .args(["-F", "-q", "-U", UUID, "-E"])
            .arg(format!("hash_seed={UUID},lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0"))
            .arg(disk)
            .envs([("SOURCE_DATE_EPOCH", "1777593600"), ("E2FSPROGS_FAKE_TIME", "1777593600")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Where a piece of the first disk stands: scattered over the block groups of 128 MiB, away from what ext4 keeps at
/// their beginning (and from the groups of the inode tables and the journal), so that the filesystem stays sound.
fn place(piece: u64) -> u64 {
    const GROUPS: [u64; 6] = [1, 2, 3, 5, 6, 7];
    let (group, row) = (GROUPS[(piece % 6) as usize], piece / 6);
    group * (128 << 20) + (32 << 20) + row * (5 << 20)
}

/// What a child changes: half of it in the parent's pieces, half in new places; seeds and offsets, no offset twice.
fn changes(child: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..CHANGED).map(move |change| {
        let turn = change / 2;
        let offset = if change % 2 == 0 {
            let block = (turn * 5 + child * 700) % (PIECES * PIECE / BLOCK);
            place(block / (PIECE / BLOCK)) + block % (PIECE / BLOCK) * BLOCK
        } else {
            place(turn % PIECES) + (1 << 20) + (turn / PIECES + child * 8) * BLOCK
        };
        (child * 10_000 + change, offset)
    })
}

/// Pseudo-random bytes (xorshift64*'s steps), every other block text-like so that it compresses as real disks do.
fn data(seed: u64, length: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        let text = (bytes.len() as u64 / BLOCK + seed) % 2 == 1;
        bytes.extend(if text { word.map(|b| b'a' + b % 4) } else { word });
    }
    bytes.truncate(length as usize);
    bytes
}

/// Not once the demo was interrupted: what was removed would be made again.
fn create_folders(folder: &Path) -> Result<()> {
    temporary::publish(|| fs::create_dir_all(folder)).context("create", folder)
}

/// The canonical form of generation `v066`: this field order, compact.
fn descriptor(name: &str, number: u64, parent: Option<&Digest>, image: &Digest) -> String {
    let parent = parent.map_or("null".into(), |d| format!("\"{d}\""));
    let day = number + 1;
    format!(
        r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"{IMAGE}","manifest_digest":"{image}"}},"parent":{parent},"created_at":"2026-05-{day:02}T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":{DISK},"integrity":null}},"source_sandbox":"{name}"}}"#
    )
}

/// One image of one layer in the cache; returns its manifest's digest.
fn image(cache: &Path) -> Result<Digest> {
    let (layer, fsmeta) = (data(99, 1 << 20), data(7, BLOCK));
    let diff_id = Digest::of(&layer);
    let size = layer.len();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let raw_config = config.to_string();
    let config_digest = Digest::of(raw_config.as_bytes());
    let raw_manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": raw_config.len(),
        },
        "layers": [{ "mediaType": LAYER_TYPE, "digest": diff_id, "size": size }],
    })
    .to_string();
    let manifest = Digest::of(raw_manifest.as_bytes());
    let metadata = serde_json::json!({
        "manifest_digest": manifest,
        "config_digest": config_digest,
        "raw_manifest_json": raw_manifest,
        "raw_config_json": raw_config,
        "config": config,
        "layers": [{ "digest": diff_id, "media_type": LAYER_TYPE, "size_bytes": size, "diff_id": diff_id }],
    });
    let absolute = std::path::absolute(cache).context("find the absolute path of", cache)?;
    let absolute = absolute.display();
    let meta_path = format!("fsmeta/sha256_{}.erofs", manifest.hex());
    let layer_path = format!("layers/sha256_{}.erofs", diff_id.hex());
    let vmdk = format!(
        "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\n\
         RW {} FLAT \"{absolute}/{meta_path}\" 0\nRW {} FLAT \"{absolute}/{layer_path}\" 0\n",
        fsmeta.len() / 512,
        size / 512
    );
    for (path, bytes) in [
        (format!("manifests/{}.json", Digest::of(IMAGE.as_bytes()).hex()), metadata.to_string().into_bytes()),
        (layer_path, layer),
        (meta_path, fsmeta),
        (format!("vmdk/sha256_{}.vmdk", manifest.hex()), vmdk.into_bytes()),
    ] {
        let path = cache.join(path);
        if let Some(folder) = path.parent() {
            create_folders(folder)?;
        }
        fs::write(&path, bytes).context("write", &path)?;
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn data_is_scattered_and_each_change_is_its_own() {
        let places: HashSet<u64> = (0..PIECES).map(place).collect();
        assert_eq!(places.len() as u64, PIECES);
        assert!(places.iter().all(|at| at % PIECE == 0 && at + PIECE <= DISK));
        for child in 1..3 {
            let offsets: HashSet<u64> = changes(child).map(|(_, offset)| offset).collect();
            assert_eq!(offsets.len() as u64, CHANGED);
            assert!(offsets.iter().all(|at| at % BLOCK == 0 && at + BLOCK <= DISK));
        }
    }

    #[test]
    fn data_is_the_same_everywhere() {
        assert_eq!(data(1, 5000), data(1, 5000));
        assert_ne!(data(1, 4096), data(2, 4096));
        assert_eq!(data(3, 10).len(), 10);
    }
}
