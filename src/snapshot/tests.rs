//! All three generations: good, and every way to be bad.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
};

use super::*;

const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const ID: &str = "snap_0123456789abcdef0123456789abcdef";
const LAYER: &str = "layer_0123456789abcdef0123456789abcdef";

fn parse(file: &str, text: &str) -> Result<SnapshotDescriptor> {
    SnapshotDescriptor::parse(&Path::new("/s/base").join(file), &file.parse().unwrap(), text.as_bytes().to_vec())
}

fn v066() -> String {
    format!(
        r#"{{"schema":1,"format":"raw","fstype":"ext4","image":{{"ref":"alpine","manifest_digest":"sha256:{HEX}"}},"parent":null,"created_at":"2026-05-01T12:00:00Z","labels":{{}},"upper":{{"file":"upper.ext4","size_bytes":4096,"integrity":null}},"source_sandbox":"a"}}"#
    )
}

fn flat() -> String {
    format!(
        r#"{{"schema":1,"artifact":"snapshot","scope":"disk","created_at":"2026-05-01T12:00:00Z","parent":"sha256:{HEX}","image":{{"ref":"alpine","manifest_digest":"sha256:{HEX}"}},"source_sandbox":"a","state":{{"kind":"file","format":"raw","fstype":"ext4","upper":{{"file":"upper.ext4","size_bytes":4096,"integrity":null}}}},"labels":{{}},"extensions":{{"x.unknown":1}},"requires":["x.unknown"]}}"#
    )
}

fn final_() -> String {
    format!(
        r#"{{"capture":{{"consistency":"crash-consistent","created_at":"2026-05-01T12:00:00Z","source_checkpoint":null,"source_lineage":"a"}},"extensions":{{"x.unknown":{{}}}},"image":{{"manifest_digest":"sha256:{HEX}","reference":"alpine"}},"parent":null,"requires":["x.unknown"],"root_disk":{{"layout":"managed"}},"schema":"microsandbox.snapshot/1","scope":"file","snapshot_id":"{ID}","state":{{"disk_format":"raw","filesystem":"ext4","head":"{LAYER}","kind":"file","layers":[{{"backing":null,"format":"raw","layer_id":"{LAYER}","payload":{{"file_kind":"regular","integrity":null}},"virtual_size":4096}}],"virtual_size":4096}}}}"#
    )
}

/// Each replacement must give an error that names the file and says this.
fn refused(file: &str, text: &str, cases: &[(&str, &str, &str)]) {
    for (from, to, say) in cases {
        assert!(text.contains(from), "{from}");
        let error = parse(file, &text.replacen(from, to, 1)).unwrap_err();
        assert!(matches!(error, Error::InvalidDescriptor { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(say) && message.contains(file), "{from} -> {to}: {message}");
    }
}

#[test]
fn v066_good() {
    let text = v066();
    let parsed = parse(V066_FILE, &text).unwrap();
    assert_eq!(parsed.generation, Generation::V066);
    assert_eq!(parsed.digest, Digest::of(text.as_bytes()));
    assert_eq!(parsed.bytes, text.as_bytes());
    assert_eq!(parsed.disk, Some("upper.ext4".parse().unwrap()));
    assert_eq!(parsed.payloads, [("upper.ext4".parse().unwrap(), Some(4096))]);
    assert_eq!(parsed.created_at.as_deref(), Some("2026-05-01T12:00:00Z"));
    assert_eq!(parsed.image.unwrap().reference, "alpine");
}

#[test]
fn v066_digest_is_of_the_canonical_form() {
    let canonical = v066().replace(r#""labels":{}"#, r#""labels":{"a":"1","b":"2"}"#);
    let spelled = canonical.replace(r#"{"a":"1","b":"2"}"#, r#"{ "b": "2", "a": "1" }"#);
    let parsed = parse(V066_FILE, &spelled).unwrap();
    assert_eq!(parsed.digest, Digest::of(canonical.as_bytes()));
    assert_eq!(parsed.bytes, spelled.as_bytes());
}

#[test]
fn v066_bad() {
    refused(
        V066_FILE,
        &v066(),
        &[
            (r#""fstype""#, r#""extra":1,"fstype""#, "unknown field `extra`"),
            (r#""fstype""#, r#""schema":1,"fstype""#, "duplicate key \"schema\""),
            (r#""size_bytes":4096"#, r#""size_bytes":"4096""#, "upper.size_bytes: invalid type"),
            (r#""size_bytes":4096"#, r#""size_bytes":-1"#, "upper.size_bytes: invalid value"),
            (r#","integrity":null"#, "", "missing field `integrity`"),
            (r#""parent":null,"#, "", "missing field `parent`"),
            (r#""parent":null"#, r#""parent":"sha256:x""#, "parent must"),
            (r#""schema":1"#, r#""schema":2"#, "schema: 2 is not 1"),
            ("\"raw\"", "\"vhd\"", "format: unknown variant `vhd`"),
            ("upper.ext4", "../x", "upper.file"),
            ("upper.ext4", "a/b", "upper.file"),
            ("upper.ext4", "/x", "upper.file"),
            ("upper.ext4", "x/", "upper.file"),
            ("upper.ext4", "manifest.json", "upper.file"),
            ("sha256:9f", "sha256:9F", "image.manifest_digest"),
            (r#""integrity":null"#, r#""integrity":{"algorithm":"md5","digest":"x"}"#, "md5"),
            (r#""integrity":null"#, r#""integrity":{"algorithm":"sha256","digest":"sha256:x"}"#, "upper.integrity"),
            ("2026-05-01T", "yesterday ", "created_at"),
        ],
    );
    assert!(parse(V066_FILE, "{").is_err());
    assert!(parse(V066_FILE, &format!("{}{}", v066(), " ".repeat(1 << 20))).is_err());
    assert!(parse("other.json", &v066()).is_err());
}

#[test]
fn recorded_integrity_in_all_three_algorithms() {
    for (algorithm, json) in [
        (IntegrityAlgorithm::Sha256, format!(r#"{{"algorithm":"sha256","digest":"sha256:{HEX}"}}"#)),
        (
            IntegrityAlgorithm::SparseSha256,
            format!(r#"{{"algorithm":"msb-sparse-sha256-v1","digest":"sha256:{HEX}"}}"#),
        ),
        (
            IntegrityAlgorithm::Merkle,
            format!(
                r#"{{"algorithm":"msb-file-merkle-blake3-v1","root":"blake3:{HEX}","logical_size":4096,"leaf_size":65536}}"#
            ),
        ),
    ] {
        for (file, text, path) in [
            (V066_FILE, v066(), "upper.ext4".to_owned()),
            (SNAPSHOT_FILE, flat(), "upper.ext4".to_owned()),
            (SNAPSHOT_FILE, final_(), format!("layers/{LAYER}.raw")),
        ] {
            let parsed = parse(file, &text.replace(r#""integrity":null"#, &format!(r#""integrity":{json}"#))).unwrap();
            let path = path.parse().unwrap();
            assert_eq!(parsed.recorded, [RecordedIntegrity { path, algorithm, value: HEX.into() }]);
            let wrong = json.replace("4096", "4097");
            if wrong != json {
                assert!(parse(file, &text.replace("\"integrity\":null", &format!("\"integrity\":{wrong}"))).is_err());
            }
        }
    }
}

#[test]
fn flat_good_and_bad() {
    let parsed = parse(SNAPSHOT_FILE, &flat()).unwrap();
    assert_eq!(parsed.generation, Generation::Flat);
    assert_eq!(parsed.digest, Digest::of(flat().as_bytes()));
    assert_eq!(parsed.unknown_requires, ["x.unknown"]);
    assert_eq!(parsed.parent, Some(SnapshotIdentity::Digest(format!("sha256:{HEX}").parse().unwrap())));
    refused(
        SNAPSHOT_FILE,
        &flat(),
        &[
            (r#""labels""#, r#""extra":1,"labels""#, "unknown field `extra`"),
            (r#""file":"upper"#, r#""file":"x","file":"upper"#, "duplicate key \"file\""),
            (r#""size_bytes":4096"#, r#""size_bytes":"4096""#, "state: invalid type"),
            (r#""scope":"disk""#, r#""scope":"resumable""#, "scope=disk"),
            (r#""scope":"disk""#, r#""scope":1"#, "scope: "),
            (r#""schema":1"#, r#""schema":2"#, "schema: 2 is neither"),
            (r#""schema":1"#, r#""schema":1.5"#, "schema: 1.5"),
            (r#""schema":1,"#, "", "missing field `schema`"),
            (r#""parent":"sha256:9f"#, r#""parent":"sha256:9F"#, "parent must"),
            (r#"{"x.unknown":1}"#, "{}", "requires"),
        ],
    );
    // The digest is of the normalized form, the time stays as it is spelled.
    let offset = parse(SNAPSHOT_FILE, &flat().replace("12:00:00Z", "14:00:00+02:00")).unwrap();
    assert_eq!(offset.digest, Digest::of(flat().as_bytes()));
    assert_eq!(offset.created_at.as_deref(), Some("2026-05-01T14:00:00+02:00"));
}

#[test]
fn final_good_and_bad() {
    let parsed = parse(SNAPSHOT_FILE, &final_()).unwrap();
    let canonical = final_().replace("12:00:00Z", "12:00:00.000000000Z");
    assert_eq!(parsed.generation, Generation::Final);
    assert_eq!(parsed.digest, Digest::of(canonical.as_bytes()));
    assert_eq!(parsed.created_at.as_deref(), Some("2026-05-01T12:00:00Z"));
    assert_eq!(parsed.id.as_deref(), Some(ID));
    assert_eq!(parsed.unknown_requires, ["x.unknown"]);
    let disk: TarPath = format!("layers/{LAYER}.raw").parse().unwrap();
    assert_eq!(parsed.disk, Some(disk.clone()));
    assert_eq!(parsed.payloads, [(disk, Some(4096))]);
    let itself = format!(r#""parent":"{ID}""#);
    refused(
        SNAPSHOT_FILE,
        &final_(),
        &[
            (r#""parent""#, r#""extra":1,"parent""#, "unknown field `extra`"),
            (r#""backing""#, r#""more":1,"backing""#, "unknown field `more`"),
            (r#""kind":"file""#, r#""kind":"file","kind":"file""#, "duplicate key \"kind\""),
            (r#""requires":["#, r#""requires":[1,"#, "requires: invalid type"),
            (ID, "snap_0123456789ABCDEF0123456789abcdef", "snapshot_id"),
            ("sha256:9f", "sha256:9F", "image.manifest_digest"),
            (r#""parent":null"#, itself.as_str(), "own parent"),
            ("microsandbox.snapshot/1", "microsandbox.snapshot/2", "schema: "),
            (r#""scope":"file""#, r#""scope":"checkpoint""#, "scope"),
            (r#""head":"layer_0"#, r#""head":"layer_1"#, "state.head"),
        ],
    );
}

#[test]
fn final_chain_of_qcow2_layers_and_checkpoints() {
    let head = LAYER.replace("_0", "_f");
    let text = final_()
        .replace(&format!(r#""head":"{LAYER}""#), &format!(r#""head":"{head}""#))
        .replace(r#""disk_format":"raw""#, r#""disk_format":"qcow2""#)
        .replace(
            "}],\"virtual_size\"",
            &format!(
                r#"}},{{"backing":"{LAYER}","format":"qcow2","layer_id":"{head}","payload":{{"file_kind":"regular","integrity":{{"algorithm":"msb-file-merkle-blake3-v1","root":"blake3:{HEX}","logical_size":77,"leaf_size":65536}}}},"virtual_size":4096}}],"virtual_size""#
            ),
        );
    let parsed = parse(SNAPSHOT_FILE, &text).unwrap();
    let disk: TarPath = format!("layers/{head}.qcow2").parse().unwrap();
    assert_eq!(parsed.format, "qcow2");
    assert_eq!(parsed.disk, Some(disk.clone()));
    assert_eq!(parsed.payloads[1], (disk, Some(77)));

    let text = final_();
    let state = &text[text.find(r#""state""#).unwrap()..];
    let checkpoint = format!(
        r#""state":{{"kind":"checkpoint","checkpoint_id":"c","checkpoint_root":"sha256:{HEX}","restore_intents":[],"requirements_summary":{{}}}}}}"#
    );
    let text = text.replace(state, &checkpoint).replace(r#""scope":"file""#, r#""scope":"checkpoint""#);
    let parsed = parse(SNAPSHOT_FILE, &text).unwrap();
    assert_eq!((parsed.disk, parsed.payloads), (None, vec![]));
}

fn snapshot_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    fs::write(base.join(V066_FILE), v066()).unwrap();
    fs::File::create(base.join("upper.ext4")).unwrap().set_len(4096).unwrap();
    dir
}

#[test]
fn open_names_and_refuses() {
    let dir = snapshot_dir();
    let base = dir.path().join("base");
    let snapshot = Snapshot::open(&base).unwrap();
    assert_eq!((snapshot.name.as_str(), snapshot.group), ("base", None));
    assert_eq!(Snapshot::open(&base.join("../base/.")).unwrap().name, "base");
    let not_found = Snapshot::open(&dir.path().join("none")).unwrap_err();
    assert!(matches!(not_found, Error::NotFound { .. }), "{not_found}");
    assert!(matches!(Snapshot::open(&base.join("upper.ext4")).unwrap_err(), Error::NotFound { .. }));
    let invalid = |path: &Path, say: &str| {
        let error = Snapshot::open(path).unwrap_err();
        assert!(matches!(error, Error::InvalidSnapshot { .. }) && error.to_string().contains(say), "{error}");
    };
    assert!(matches!(Snapshot::open(dir.path()).unwrap_err(), Error::NoSnapshot { .. }));
    fs::write(base.join(SNAPSHOT_FILE), flat()).unwrap();
    invalid(&base, "both");
    fs::remove_file(base.join(SNAPSHOT_FILE)).unwrap();
    fs::rename(base.join(V066_FILE), base.join("x")).unwrap();
    std::os::unix::fs::symlink("x", base.join(V066_FILE)).unwrap();
    invalid(&base, "not a regular file");
}

#[test]
fn members_go_by_alias_else_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let member = dir.path().join("web").join(ID);
    fs::create_dir_all(&member).unwrap();
    fs::write(member.join(SNAPSHOT_FILE), final_()).unwrap();
    assert_eq!(Snapshot::open(&member).unwrap().group, None);
    fs::write(dir.path().join("web").join(GROUP_FILE), "{}").unwrap();
    let snapshot = Snapshot::open(&member).unwrap();
    assert_eq!((snapshot.name.as_str(), snapshot.group.as_deref()), (ID, Some("web")));
    for (json, name) in
        [(r#"{"alias":"v1"}"#, "v1"), (r#"{"name":"v2","x":1}"#, "v2"), (r#"{"alias":"../x"}"#, ID), ("[", ID)]
    {
        fs::write(member.join(MEMBER_FILE), json).unwrap();
        assert_eq!(Snapshot::open(&member).unwrap().name, name);
    }
}

#[test]
fn scan_lists_what_travels() {
    let dir = snapshot_dir();
    let base = dir.path().join("base");
    fs::create_dir_all(base.join("z/y")).unwrap();
    fs::write(base.join("z/y/run"), "x").unwrap();
    fs::set_permissions(base.join("z/y/run"), fs::Permissions::from_mode(0o755)).unwrap();
    for local in [".hidden", "a.lock", "group.json", "group-member.json", "z/.tmp", "z/b.lock", "z/group.json"] {
        fs::write(base.join(local), "x").unwrap();
    }
    fs::write(base.join(std::ffi::OsStr::from_bytes(b".\xff")), "x").unwrap();
    let files = scan(&Snapshot::open(&base).unwrap()).unwrap();
    let rows: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.size, f.executable)).collect();
    assert_eq!(
        rows,
        [("manifest.json", v066().len() as u64, false), ("upper.ext4", 4096, false), ("z/y/run", 1, true)]
    );
    assert_eq!(files[2].absolute, base.join("z/y/run"));
}

#[test]
fn scan_refuses_what_cannot_travel() {
    type Damage = fn(&Path);
    let cases: &[(Damage, &str)] = &[
        (|d| std::os::unix::fs::symlink("upper.ext4", d.join("l")).unwrap(), "l is a symbolic link"),
        (|d| drop(std::os::unix::net::UnixListener::bind(d.join("s")).unwrap()), "s is a device, socket or fifo"),
        (|d| fs::write(d.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap(), "is not UTF-8"),
        (|d| fs::write(d.join("a:b"), "").unwrap(), "cannot travel"),
        (|d| fs::write(d.join("UPPER.ext4"), "").unwrap(), "only in case"),
        (|d| fs::remove_file(d.join("upper.ext4")).unwrap(), "payload upper.ext4 is missing"),
        (|d| fs::write(d.join("upper.ext4"), "x").unwrap(), "upper.ext4 has 1 bytes, its descriptor says 4096"),
        (|d| fs::create_dir_all(d.join("d/".repeat(33))).unwrap(), "folders deep"),
        (|d| fs::write(d.join(V066_FILE), v066().replace("upper.ext4", ".upper")).unwrap(), "can never travel: .upper"),
    ];
    for (damage, say) in cases {
        let dir = snapshot_dir();
        let base = dir.path().join("base");
        damage(&base);
        let error = scan(&Snapshot::open(&base).unwrap()).unwrap_err();
        assert!(matches!(error, Error::InvalidSnapshot { .. }), "{error:?}");
        assert!(error.to_string().contains(say), "{say}: {error}");
    }
}
