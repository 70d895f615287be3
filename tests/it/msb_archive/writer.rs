//! Writes archives as msb writes them, in each form, and as it never would.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use microsandbox_types::snapshot::Manifest;
use serde_json::{Value, json};
use snapcask::{Digest, model::Generation};

use crate::fixture::{Fixture, IMAGE_MANIFEST, Made, json_file};

/// The current form's schema.
pub const CURRENT: &str = "microsandbox.snapshot-archive/1";
/// The transport hash's name.
pub const TRANSPORT: &str = "msb-archive-member-blake3-v1";

/// One member.
#[derive(Clone)]
pub struct Member {
    pub path: String,
    pub kind: &'static str,
    pub owner: Option<String>,
    pub size: u64,
    /// Of a sparse file.
    pub map: Option<Vec<[u64; 2]>>,
    /// The bytes in the archive.
    pub stored: Vec<u8>,
    pub integrity: Value,
    /// The type flag; none: what fits.
    pub flag: Option<u8>,
    pub mode: u32,
    /// Whether the inventory lists it.
    pub listed: bool,
    /// Whether it is in the archive; one that is listed and not in it is listed as left out.
    pub included: bool,
    /// Another transport hash than its own.
    pub transport: Option<String>,
}

/// An archive to be written.
#[derive(Clone)]
pub struct Archive {
    pub members: Vec<Member>,
    /// None: without an inventory.
    pub inventory: Option<Value>,
    /// What follows the members, beside the end marker.
    pub trailing: Vec<u8>,
    /// Where the inventory stands; none: last.
    pub inventory_at: Option<usize>,
}

impl Member {
    /// A plain file.
    pub fn plain(path: &str, kind: &'static str, owner: Option<&str>, bytes: &[u8]) -> Self {
        Self {
            path: path.into(),
            kind,
            owner: owner.map(str::to_owned),
            size: bytes.len() as u64,
            map: None,
            stored: bytes.to_vec(),
            integrity: Value::Null,
            flag: None,
            mode: 0o644,
            listed: true,
            included: true,
            transport: None,
        }
    }

    /// A file as it stands on disk: sparse if it has holes.
    pub fn file(path: &str, kind: &'static str, owner: Option<&str>, from: &Path) -> Self {
        let bytes = fs::read(from).unwrap();
        let mut map: Vec<[u64; 2]> = Vec::new();
        for (index, block) in bytes.chunks(4096).enumerate() {
            let at = index as u64 * 4096;
            match (block.iter().all(|b| *b == 0), map.last_mut()) {
                (true, _) => {}
                (false, Some(last)) if last[0] + last[1] == at => last[1] += block.len() as u64,
                (false, _) => map.push([at, block.len() as u64]),
            }
        }
        let plain = Self::plain(path, kind, owner, &bytes);
        if map == [[0, bytes.len() as u64]] || bytes.is_empty() {
            return plain;
        }
        let stored =
            map.iter().flat_map(|[at, len]| bytes[*at as usize..(at + len) as usize].iter().copied()).collect();
        if map.last().is_none_or(|[at, len]| at + len < plain.size) {
            map.push([plain.size, 0]);
        }
        Self { map: Some(map), stored, ..plain }
    }

    fn transport(&self) -> String {
        if let Some(other) = &self.transport {
            return other.clone();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"msb-archive-member-blake3-v1\0");
        for text in [self.kind, self.path.as_str()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let map = self.map.clone().unwrap_or_default();
        for number in [self.stored.len() as u64, self.size, map.len() as u64] {
            hasher.update(&number.to_le_bytes());
        }
        for number in map.iter().flatten() {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.stored);
        format!("blake3:{}", hasher.finalize().to_hex())
    }

    fn with_sha256(mut self) -> Self {
        self.integrity = json!({ "algorithm": "sha256", "digest": Digest::of(&self.stored) });
        self
    }

    fn entry(&self, form: Form) -> String {
        let encoded = if self.included { self.stored.len() } else { 0 };
        let map = self.map.as_ref().filter(|_| self.included).cloned().unwrap_or_default();
        let text = |value: &Value| value.to_string();
        let ranges = match form {
            Form::Current => format!(r#","sparse_ranges":{}"#, text(&json!(map))),
            Form::Released => String::new(),
        };
        let transport = match self.included {
            true => format!(r#","transport_integrity":{{"algorithm":"{TRANSPORT}","digest":"{}"}}"#, self.transport()),
            false => String::new(),
        };
        format!(
            r#"{{"path":{},"owner_snapshot":{},"kind":"{}","included":{},"encoded_size":{encoded},"apparent_size":{}{ranges},"integrity":{}{transport}}}"#,
            json!(self.path),
            json!(self.owner),
            self.kind,
            self.included,
            self.size,
            integrity_text(&self.integrity)
        )
    }
}

/// The fields in the order in which msb writes them.
fn integrity_text(integrity: &Value) -> String {
    match integrity.get("algorithm").and_then(Value::as_str) {
        None => "null".into(),
        Some(algorithm @ "msb-file-merkle-blake3-v1") => format!(
            r#"{{"algorithm":"{algorithm}","root":{},"logical_size":{},"leaf_size":{}}}"#,
            integrity["root"], integrity["logical_size"], integrity["leaf_size"]
        ),
        Some(algorithm) => format!(r#"{{"algorithm":"{algorithm}","digest":{}}}"#, integrity["digest"]),
    }
}

/// The forms with an inventory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Current,
    Released,
}

/// What an archive of a fixture's chain holds beside the head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct With {
    pub parents: bool,
    pub image: bool,
}

/// Nothing.
pub const ALONE: With = With { parents: false, image: false };
/// Everything.
pub const ALL: With = With { parents: true, image: true };

impl Archive {
    /// As msb exports the fixture's head.
    pub fn of(fixture: &Fixture, with: With) -> Self {
        let mut members = Vec::new();
        let made: Vec<&Made> =
            if with.parents { fixture.snapshots.iter().collect() } else { vec![fixture.snapshots.last().unwrap()] };
        for snapshot in &made {
            members.extend(snapshot_members(fixture.generation, snapshot));
        }
        if with.image {
            let folder = if fixture.generation == Generation::Final { "images" } else { "cache" };
            members.extend(image_members(fixture, folder));
        }
        let inventory = match fixture.generation {
            Generation::V066 => None,
            Generation::Flat => Some(json!({
                "head": made.last().unwrap().identity, "suggested_name": made.last().unwrap().name,
                "with_parents": with.parents, "with_image": with.image,
                "snapshots": sorted(made.iter().map(|m| m.identity.clone())),
            })),
            Generation::Final => Some(json!({
                "head": made.last().unwrap().identity, "suggested_name": made.last().unwrap().name,
                "completeness": "boot-complete", "requires": [TRANSPORT],
                "names": made.iter().map(|m| (m.identity.clone(), json!(m.name))).collect::<BTreeMap<_, _>>(),
                "members": sorted(made.iter().map(|m| m.identity.clone())),
                "digests": made.iter().map(|m| (m.identity.clone(), json!(digest_of(m)))).collect::<BTreeMap<_, _>>(),
            })),
        };
        Self { members, inventory, trailing: Vec::new(), inventory_at: None }
    }

    /// The inventory's bytes.
    pub fn inventory_bytes(&self) -> Option<Vec<u8>> {
        let about = self.inventory.as_ref()?;
        let mut listed: Vec<&Member> = self.members.iter().filter(|member| member.listed).collect();
        listed.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        let current = about.get("members").is_some();
        let form = if current { Form::Current } else { Form::Released };
        let entries: Vec<String> = listed.iter().map(|member| member.entry(form)).collect();
        let entries = entries.join(",");
        if let Some(text) = about.get("text") {
            return Some(text.as_str().unwrap().as_bytes().to_vec());
        }
        let included = || listed.iter().filter(|member| member.included);
        let text = if current {
            let members: Vec<String> = about["members"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| {
                    let id = id.as_str().unwrap();
                    let digest = &about["digests"][id];
                    format!(
                        r#"{{"snapshot_id":"{id}","descriptor_path":"snapshots/{id}/snapshot.json","descriptor_digest":{digest}}}"#
                    )
                })
                .collect();
            let mut extensions = serde_json::Map::new();
            if about["names"].as_object().is_some_and(|names| !names.is_empty()) {
                extensions.insert("msb-snapshot-member-names".into(), about["names"].clone());
            }
            if let Some(more) = about.get("dependencies") {
                extensions.insert("msb-snapshot-dependencies-v1".into(), more.clone());
            }
            let suggested = match &about["suggested_name"] {
                Value::Null => String::new(),
                name => format!(r#""suggested_name":{name},"#),
            };
            format!(
                r#"{{"schema":"{CURRENT}","head":{},{suggested}"completeness":{},"members":[{}],"entries":[{entries}],"limits":{{"entry_count":{},"encoded_bytes":{},"apparent_bytes":{}}},"extensions":{},"requires":{}}}"#,
                about["head"],
                about["completeness"],
                members.join(","),
                included().count(),
                included().map(|member| member.stored.len()).sum::<usize>(),
                included().map(|member| member.size).sum::<u64>(),
                Value::Object(extensions),
                about["requires"],
            )
        } else {
            let snapshots: Vec<String> = about["snapshots"]
                .as_array()
                .unwrap()
                .iter()
                .map(|digest| {
                    let digest = digest.as_str().unwrap();
                    let hex = digest.strip_prefix("sha256:").unwrap();
                    format!(r#"{{"snapshot_id":"{digest}","descriptor":"snapshots/{hex}/snapshot.json"}}"#)
                })
                .collect();
            format!(
                r#"{{"schema":1,"artifact":"snapshot-archive","head":{},"suggested_name":{},"completeness":"boot-complete","with_parents":{},"with_image":{},"snapshots":[{}],"entries":[{entries}],"protection_requirements":[],"extensions":{{}},"requires":["{TRANSPORT}"]}}"#,
                about["head"],
                about["suggested_name"],
                about["with_parents"],
                about["with_image"],
                snapshots.join(","),
            )
        };
        Some(text.into_bytes())
    }

    /// The tar.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        let inventory = self.inventory_bytes();
        let at = self.inventory_at.unwrap_or(self.members.len());
        for position in 0..=self.members.len() {
            if let Some(bytes) = inventory.as_ref().filter(|_| position == at) {
                entry(&mut tar, &Member::plain("archive.json", "archive-inventory", None, bytes));
            }
            if let Some(member) = self.members.get(position).filter(|member| member.included) {
                entry(&mut tar, member);
            }
        }
        tar.resize(tar.len() + 1024, 0);
        tar.extend_from_slice(&self.trailing);
        tar
    }

    /// Writes it as zstd, as msb does.
    pub fn write(&self, path: &Path) -> PathBuf {
        fs::write(path, zstd::encode_all(self.tar().as_slice(), 3).unwrap()).unwrap();
        path.into()
    }

    /// Writes it as a plain tar.
    pub fn write_plain(&self, path: &Path) -> PathBuf {
        fs::write(path, self.tar()).unwrap();
        path.into()
    }
}

/// The digest of a snapshot's descriptor.
pub fn digest_of(made: &Made) -> Digest {
    Digest::of(&fs::read(made.directory.join(made.descriptor)).unwrap())
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<String> = texts.collect();
    texts.sort();
    texts
}

fn snapshot_members(generation: Generation, made: &Made) -> Vec<Member> {
    let path = made.directory.join(made.descriptor);
    if generation == Generation::Final {
        // msb exports what is canonical.
        let canonical = Manifest::from_bytes(&fs::read(&path).unwrap()).unwrap().to_canonical_bytes().unwrap();
        fs::write(&path, canonical).unwrap();
    }
    let descriptor = fs::read(path).unwrap();
    let disk = made.directory.join(&made.disk);
    let owner = made.identity.as_str();
    match generation {
        Generation::V066 => {
            let prefix = &made.name;
            vec![
                Member::plain(&format!("{prefix}/manifest.json"), "legacy-snapshot-descriptor", None, &descriptor),
                Member::file(&format!("{prefix}/upper.ext4"), "legacy-file-payload", None, &disk),
            ]
        }
        Generation::Flat => {
            let hex = owner.strip_prefix("sha256:").unwrap();
            vec![
                Member::plain(
                    &format!("snapshots/{hex}/snapshot.json"),
                    "snapshot-descriptor",
                    Some(owner),
                    &descriptor,
                )
                .with_sha256(),
                Member::file(&format!("files/{hex}/upper.ext4"), "file-payload", Some(owner), &disk),
            ]
        }
        Generation::Final => {
            let mut members = vec![
                Member::plain(
                    &format!("snapshots/{owner}/snapshot.json"),
                    "snapshot-descriptor",
                    Some(owner),
                    &descriptor,
                )
                .with_sha256(),
            ];
            if let Ok(labels) = fs::read(made.directory.join("metadata.json")) {
                let path = format!("snapshots/{owner}/metadata.json");
                members.push(Member::plain(&path, "snapshot-metadata", Some(owner), &labels).with_sha256());
            }
            let described = json_file(&made.directory.join(made.descriptor));
            for layer in described["state"]["layers"].as_array().unwrap() {
                let path =
                    format!("layers/{}.{}", layer["layer_id"].as_str().unwrap(), layer["format"].as_str().unwrap());
                let mut member = Member::file(&path, "file-payload", Some(owner), &made.directory.join(&path));
                member.integrity = layer["payload"]["integrity"].clone();
                members.push(member);
            }
            members
        }
    }
}

/// The fixture's image; nothing else of its cache.
fn image_members(fixture: &Fixture, folder: &str) -> Vec<Member> {
    let cache = fixture.store.join("cache");
    let hex = Digest::of(IMAGE_MANIFEST.as_bytes()).hex();
    let mut paths = vec![format!("fsmeta/sha256_{hex}.erofs"), format!("vmdk/sha256_{hex}.vmdk")];
    paths.extend((0..2).map(|i| format!("layers/sha256_{}.erofs", Digest::of(format!("diff {i}").as_bytes()).hex())));
    let metadata = fs::read_dir(cache.join("manifests")).unwrap().next().unwrap().unwrap().file_name();
    paths.push(format!("manifests/{}", metadata.to_str().unwrap()));
    let member = |path: &String| {
        let kind = if path.starts_with("manifests/") { "image-metadata" } else { "image-object" };
        let bytes = fs::read(cache.join(path)).unwrap();
        let member = Member::file(&format!("{folder}/{path}"), kind, None, &cache.join(path));
        Member { integrity: json!({ "algorithm": "sha256", "digest": Digest::of(&bytes) }), ..member }
    };
    paths.iter().map(member).collect()
}

/// Appends one entry as msb writes it: with a GNU header, sparse maps and long names of old GNU.
pub fn entry(tar: &mut Vec<u8>, member: &Member) {
    if member.path.len() > 100 {
        let mut name = member.path.as_bytes().to_vec();
        name.push(0);
        tar.extend_from_slice(&header("././@LongLink", name.len() as u64, 0o644, b'L', |_| {}));
        padded(tar, &name);
    }
    let flag = member.flag.unwrap_or(if member.map.is_some() { b'S' } else { b'0' });
    let slots: Vec<[u64; 2]> = member.map.clone().unwrap_or_default();
    let (inline, more) = slots.split_at(slots.len().min(4));
    let fill = |header: &mut [u8; 512]| {
        if flag == b'S' {
            put_slots(&mut header[386..482], inline);
            header[482] = u8::from(!more.is_empty());
            header[483..495].copy_from_slice(&octal(member.size));
        }
    };
    tar.extend_from_slice(&header(&member.path, member.stored.len() as u64, member.mode, flag, fill));
    if flag == b'S' {
        let mut blocks = more.chunks(21).peekable();
        while let Some(slots) = blocks.next() {
            let mut block = [0; 512];
            put_slots(&mut block[..504], slots);
            block[504] = u8::from(blocks.peek().is_some());
            tar.extend_from_slice(&block);
        }
    }
    padded(tar, &member.stored);
}

fn put_slots(to: &mut [u8], slots: &[[u64; 2]]) {
    for (place, [offset, length]) in to.chunks_exact_mut(24).zip(slots) {
        place[..12].copy_from_slice(&octal(*offset));
        place[12..].copy_from_slice(&octal(*length));
    }
}

fn octal(number: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[..11].copy_from_slice(format!("{number:011o}").as_bytes());
    field
}

fn padded(tar: &mut Vec<u8>, bytes: &[u8]) {
    tar.extend_from_slice(bytes);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn header(path: &str, size: u64, mode: u32, flag: u8, fill: impl Fn(&mut [u8; 512])) -> [u8; 512] {
    let mut header = [0; 512];
    let name = &path.as_bytes()[..path.len().min(100)];
    header[..name.len()].copy_from_slice(name);
    if path.len() > 100 && flag == b'S' {
        header[..14].copy_from_slice(b"sparse-member\0");
    }
    header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..136].copy_from_slice(&octal(size));
    header[136..148].copy_from_slice(&octal(0));
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar  \0");
    fill(&mut header);
    seal(&mut header);
    header
}

/// Puts the checksum of a header where it belongs.
pub fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|b| u32::from(*b)).sum();
    header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    header[154] = 0;
}
