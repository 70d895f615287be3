//! Every damage of an archive is refused, by `import` without a trace and by `verify` as a finding.

use std::{fs, path::Path, sync::Arc};

use snapcask::{
    Digest, Error,
    check_bundle::verify_bundle,
    import::{BundleLocation, ImportOptions, import},
    model::Generation,
    progress::Silent,
};

use super::writer::{ALL, ALONE, Archive, CURRENT, Member, With, seal};
use crate::fixture::{Fixture, GENERATIONS, import_options, random};

const SMALL: u64 = 16 << 20;

/// What is done to an archive, and a part of what is said then.
type Damage = (&'static str, fn(&mut Archive), &'static str);

impl Archive {
    /// The first member of a kind.
    fn of_kind(&mut self, kind: &str) -> &mut Member {
        self.members.iter_mut().find(|member| member.kind == kind).unwrap()
    }

    /// The inventory is what it would be now, whatever becomes of the members; `edit` changes its text.
    fn freeze(&mut self, edit: impl Fn(String) -> String) {
        let text = edit(String::from_utf8(self.inventory_bytes().unwrap()).unwrap());
        self.inventory.as_mut().unwrap()["text"] = text.into();
    }

    fn add(&mut self, path: &str, flag: u8) {
        let member = Member {
            listed: false,
            flag: Some(flag),
            ..Member::plain(path, "unknown", None, if flag == b'5' { b"" } else { b"x" })
        };
        self.members.insert(1, member);
    }
}

const LAYER: &str = "file-payload";

/// Of the current form.
const DAMAGES: &[Damage] = &[
    (
        "a changed byte",
        |a| {
            a.freeze(|t| t);
            a.of_kind(LAYER).stored[5000] ^= 1;
        },
        "transport hash",
    ),
    (
        "another transport hash",
        |a| a.of_kind(LAYER).transport = Some(format!("blake3:{}", "0".repeat(64))),
        "transport hash",
    ),
    ("a transport hash of no form", |a| a.of_kind(LAYER).transport = Some("blake3:0".into()), "unknown form"),
    ("no transport hash", |a| a.freeze(|t| without(&t, r#","transport_integrity":{"#, "}")), "no transport hash"),
    (
        "another size",
        |a| a.freeze(|t| t.replacen(r#""apparent_size":16777216"#, r#""apparent_size":16777217"#, 1)),
        "size is listed as 16777217",
    ),
    (
        "another stored size",
        |a| {
            a.freeze(|t| {
                let at = t.find(r#""kind":"file-payload""#).unwrap();
                let (x, y) = t.split_at(at);
                x.to_owned() + &y.replacen(r#""encoded_size":"#, r#""encoded_size":1"#, 1)
            })
        },
        "sparse ranges",
    ),
    ("other sparse ranges", |a| a.freeze(|t| t.replacen("[[0,", "[[1,", 1)), "sparse ranges"),
    (
        "a kind of another file",
        |a| a.freeze(|t| t.replacen(r#""kind":"snapshot-metadata""#, r#""kind":"snapshot-descriptor""#, 1)),
        "archive.json",
    ),
    (
        "a file twice",
        |a| {
            let copy = a.members[0].clone();
            a.members.insert(1, copy);
        },
        "there twice",
    ),
    (
        "an image file twice",
        |a| {
            let member = Member { listed: false, ..a.of_kind("image-metadata").clone() };
            let path = member.path.replace("images/", "cache/");
            a.members.push(Member { path, ..member });
        },
        "there twice",
    ),
    ("a file that is not listed", |a| a.of_kind("snapshot-metadata").listed = false, "not listed"),
    (
        "a listed file that is missing",
        |a| {
            a.freeze(|t| t);
            a.of_kind(LAYER).included = false;
        },
        "not in the archive",
    ),
    ("a file that is left out", |a| a.of_kind(LAYER).included = false, "leaves something out"),
    ("an unknown file", |a| a.add("snapshots/more", b'0'), "no archive of msb holds such a file"),
    ("a file of another form", |a| a.add("box/upper.ext4", b'0'), "another form"),
    ("an unknown folder", |a| a.add("somewhere/else/", b'5'), "no archive of msb holds such a folder"),
    ("a path that escapes", |a| a.add("snapshots/../../escaped", b'0'), "escaped"),
    ("an absolute path", |a| a.add("/escaped", b'0'), "escaped"),
    ("a path with a dot", |a| a.add("./layers/escaped", b'0'), "escaped"),
    ("a hard link", |a| a.add("layers/link", b'1'), "type '1'"),
    ("a symbolic link", |a| a.add("layers/link", b'2'), "type '2'"),
    ("a device", |a| a.add("layers/device", b'3'), "type '3'"),
    ("a FIFO", |a| a.add("layers/fifo", b'6'), "type '6'"),
    ("a contiguous file", |a| a.add("layers/file", b'7'), "type '7'"),
    ("a pax header", |a| a.add("layers/pax", b'x'), "type 'x'"),
    ("a global pax header", |a| a.add("layers/pax", b'g'), "type 'g'"),
    ("a long name of nothing", |a| a.add("././@LongLink", b'L'), "long name"),
    ("an inventory that is not last", |a| a.inventory_at = Some(1), "follows its archive.json"),
    ("no inventory", |a| a.inventory = None, "no archive.json"),
    (
        "an inventory of another schema",
        |a| a.freeze(|t| t.replace(CURRENT, "microsandbox.snapshot-archive/2")),
        "schema",
    ),
    ("an unknown field", |a| a.freeze(|t| t.replacen('{', r#"{"more":1,"#, 1)), "unknown field"),
    ("a field twice", |a| a.freeze(|t| t.replacen('{', r#"{"head":"x","#, 1)), "archive.json"),
    ("an inventory with blanks", |a| a.freeze(|t| t.replacen(':', ": ", 1)), "canonical"),
    ("an inventory that is too large", |a| a.freeze(|t| t + &" ".repeat(4 << 20)), "larger than"),
    (
        "an unknown requirement",
        |a| a.inventory.as_mut().unwrap()["requires"] = serde_json::json!(["later"]),
        "not known",
    ),
    ("another completeness", |a| a.inventory.as_mut().unwrap()["completeness"] = "half".into(), "completeness"),
    ("dependent on nothing", |a| a.inventory.as_mut().unwrap()["completeness"] = "dependent".into(), "dependent"),
    (
        "a head that is not there",
        |a| a.inventory.as_mut().unwrap()["head"] = format!("snap_{}", "0".repeat(32)).into(),
        "head",
    ),
    ("a name that is a path", |a| a.inventory.as_mut().unwrap()["suggested_name"] = "a/b".into(), "suggested_name"),
    (
        "a name for a stranger",
        |a| a.inventory.as_mut().unwrap()["names"][format!("snap_{}", "0".repeat(32))] = "x".into(),
        "is no member",
    ),
    ("another descriptor digest", |a| a.freeze(|t| edit_digest(&t)), "archive.json"),
    ("entries that are not sorted", |a| a.freeze(|t| unsort(&t)), "not sorted"),
    ("an image file of a snapshot", |a| a.of_kind("image-object").owner = Some("x".into()), "nobody's"),
    ("a layer of nobody", |a| a.of_kind(LAYER).owner = None, "nobody's"),
    ("an image file without a hash", |a| a.of_kind("image-object").integrity = serde_json::Value::Null, "nobody's"),
    (
        "an image file with another hash",
        |a| {
            a.of_kind("image-object").integrity =
                serde_json::json!({"algorithm": "sha256", "digest": format!("sha256:{}", "0".repeat(64))})
        },
        "SHA-256",
    ),
    (
        "labels with another hash",
        |a| {
            a.of_kind("snapshot-metadata").integrity =
                serde_json::json!({"algorithm": "sha256", "digest": format!("sha256:{}", "0".repeat(64))})
        },
        "SHA-256",
    ),
    (
        "a layer of no snapshot",
        |a| {
            let more = Member { path: format!("layers/layer_{}.raw", "0".repeat(32)), ..a.of_kind(LAYER).clone() };
            a.members.push(more);
        },
        "belongs to no snapshot",
    ),
    ("a layer that the descriptor misses", |a| a.members.retain(|member| member.kind != LAYER), "is missing"),
    (
        "a layer of another size",
        |a| {
            let layer = a.of_kind(LAYER);
            *layer = Member {
                integrity: layer.integrity.clone(),
                owner: layer.owner.clone(),
                ..Member::plain(&layer.path.clone(), LAYER, None, &random(4096, 1))
            };
        },
        "bytes",
    ),
    (
        "an owned file that the descriptor does not name",
        |a| {
            let owner = a.members[0].owner.clone().unwrap();
            let path = format!("snapshots/{owner}/owned/x_00000000/directory.bin");
            a.members.push(Member::plain(&path, "owned-directory-payload", Some(&owner), b"x"));
        },
        "does not name",
    ),
    (
        "a descriptor that is not canonical",
        |a| {
            let member = &mut a.members[0];
            member.stored.insert(1, b' ');
            member.size += 1;
            let (owner, digest) = (member.owner.clone().unwrap(), Digest::of(&member.stored).to_string());
            member.integrity = serde_json::json!({"algorithm": "sha256", "digest": digest});
            a.inventory.as_mut().unwrap()["digests"][owner] = digest.into();
        },
        "its descriptor is",
    ),
    (
        "a descriptor that is none",
        |a| {
            let member = &mut a.members[0];
            member.stored = b"{}".to_vec();
            member.size = 2;
        },
        "SHA-256",
    ),
    (
        "an image file of another image",
        |a| {
            let member = a.members.iter_mut().find(|m| m.path.starts_with("images/layers/")).unwrap();
            member.path = format!("images/layers/sha256_{}.erofs", "0".repeat(64));
        },
        "image",
    ),
    ("data after the end", |a| a.trailing = vec![1; 512], "after the end"),
    ("too many zeros after the end", |a| a.trailing = vec![0; 2 << 20], "zeros after the end"),
];

fn without(text: &str, from: &str, to: &str) -> String {
    let start = text.find(from).unwrap();
    let end = start + text[start..].find(to).unwrap() + to.len();
    text[..start].to_owned() + &text[end..]
}

fn edit_digest(text: &str) -> String {
    let at = text.find(r#""descriptor_digest":"sha256:"#).unwrap() + r#""descriptor_digest":"sha256:"#.len();
    text[..at].to_owned() + &"0".repeat(64) + &text[at + 64..]
}

/// The first entry becomes the last.
fn unsort(text: &str) -> String {
    let start = text.find(r#""entries":["#).unwrap() + r#""entries":["#.len();
    let next = start + text[start..].find(r#",{"path":"#).unwrap();
    let end = next + text[next..].find(r#"],"limits""#).unwrap();
    format!("{}{},{}{}", &text[..start], &text[next + 1..end], &text[start..next], &text[end..])
}

/// The import is refused with exit code 3, and leaves nothing.
fn refused(name: &str, archive: &Path, store: &Path, expected: &str) {
    let error = import(&import_options(archive, store)).expect_err(name);
    assert_eq!(error.exit_code(), 3, "{name}: {error}");
    assert!(error.to_string().contains(expected), "{name}: {error}");
    assert!(!store.exists(), "{name}: something is left");
}

fn verified(archive: &Path) -> Vec<String> {
    let report = verify_bundle(&BundleLocation::path(archive.into()), false, 2, Arc::new(Silent)).unwrap();
    report.findings.into_iter().map(|finding| finding.message).collect()
}

#[test]
fn import_and_verify_refuse_every_damage_of_an_archive() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let good = Archive::of(&fixture, ALL);
    let (path, store) = (fixture.path("a.msb"), fixture.path("target"));
    assert_eq!(verified(&good.write_plain(&path)), Vec::<String>::new());
    for (name, damage, expected) in DAMAGES {
        let mut archive = good.clone();
        damage(&mut archive);
        archive.write_plain(&path);
        refused(name, &path, &store, expected);
        let found = verified(&path);
        assert!(found.iter().any(|message| message.contains(expected)), "{name}: {found:?}");
    }
    assert!(!fixture.path("escaped").exists());
}

#[test]
fn import_refuses_damage_of_the_older_forms() {
    let released: &[Damage] = &[
        (
            "a changed byte",
            |a| {
                a.freeze(|t| t);
                a.of_kind(LAYER).stored[5000] ^= 1;
            },
            "transport hash",
        ),
        ("another artifact", |a| a.freeze(|t| t.replace("snapshot-archive", "archive")), "artifact"),
        ("another completeness", |a| a.freeze(|t| t.replace("boot-complete", "half")), "completeness"),
        (
            "protection",
            |a| a.freeze(|t| t.replace(r#""protection_requirements":[]"#, r#""protection_requirements":[1]"#)),
            "protection",
        ),
        ("a requirement", |a| a.freeze(|t| t.replace(r#""requires":["msb"#, r#""requires":["x"#)), "requires"),
        ("a file that is not listed", |a| a.of_kind(LAYER).listed = false, "not listed"),
        (
            "a file of the current form",
            |a| a.add(&format!("layers/layer_{}.raw", "0".repeat(32)), b'0'),
            "another form",
        ),
        (
            "a payload that the descriptor does not name",
            |a| {
                let payload = a.of_kind(LAYER);
                payload.path = payload.path.replace("upper.ext4", "other");
            },
            "upper.ext4",
        ),
    ];
    let early: &[Damage] = &[
        ("no payload", |a| a.members.retain(|m| m.kind != "legacy-file-payload"), "upper.ext4"),
        ("no descriptor", |a| a.members.retain(|m| m.kind != "legacy-snapshot-descriptor"), "belongs to no snapshot"),
        ("an inventory", |a| a.inventory = Some(serde_json::json!({ "text": "{}" })), "archive.json"),
        (
            "a payload twice",
            |a| {
                let copy = a.of_kind("legacy-file-payload").clone();
                a.members.push(copy);
            },
            "there twice",
        ),
    ];
    for (generation, damages) in [(Generation::Flat, released), (Generation::V066, early)] {
        let fixture = Fixture::sized(generation, SMALL);
        let good = Archive::of(&fixture, With { parents: true, image: false });
        let (path, store) = (fixture.path("a.msb"), fixture.path("target"));
        for (name, damage, expected) in damages {
            let mut archive = good.clone();
            damage(&mut archive);
            archive.write_plain(&path);
            refused(name, &path, &store, expected);
        }
    }
}

#[test]
fn import_refuses_archive_cut_at_every_percent() {
    for generation in GENERATIONS {
        let fixture = Fixture::sized(generation, SMALL);
        let archive = Archive::of(&fixture, ALONE);
        let (path, store) = (fixture.path("a.msb"), fixture.path("target"));
        for plain in [true, false] {
            if plain {
                archive.write_plain(&path)
            } else {
                archive.write(&path)
            };
            let whole = fs::read(&path).unwrap();
            for percent in 1..100 {
                fs::write(&path, &whole[..whole.len() * percent / 100]).unwrap();
                let error = import(&import_options(&path, &store)).expect_err("it is cut");
                assert_eq!(error.exit_code(), 3, "{percent} %: {error}");
                assert!(!store.exists(), "{percent} %");
            }
        }
    }
}

#[test]
fn import_refuses_damage_of_the_tar() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let whole = Archive::of(&fixture, ALONE).tar();
    let (path, store) = (fixture.path("a.msb"), fixture.path("target"));
    // The first entry that is sparse.
    let sparse = whole.chunks(512).position(|block| block[156] == b'S' && &block[257..262] == b"ustar").unwrap() * 512;
    type Edit = fn(&mut [u8]);
    let headers: [(&str, Edit, &str); 9] = [
        ("a checksum", |h| h[0] ^= 1, "checksum"),
        (
            "a magic",
            |h| {
                h[257] = b'x';
                seal(h);
            },
            "neither a ustar nor a GNU header",
        ),
        (
            "a size",
            |h| {
                h[124] = b'x';
                seal(h);
            },
            "no number",
        ),
        (
            "a sparse size",
            |h| {
                h[483] = b'x';
                seal(h);
            },
            "no number",
        ),
        (
            "a sparse size that is smaller",
            |h| {
                h[483..494].copy_from_slice(b"00000010000");
                seal(h);
            },
            "goes beyond its size",
        ),
        (
            "a sparse run that is no number",
            |h| {
                h[386] = b'x';
                seal(h);
            },
            "no number",
        ),
        (
            "sparse runs that are not sorted",
            |h| {
                let (a, b) = h[386..434].split_at_mut(24);
                a.swap_with_slice(b);
                seal(h);
            },
            "not sorted",
        ),
        (
            "a sparse map that goes on after its end",
            |h| {
                h[410..434].fill(0);
                seal(h);
            },
            "after its end",
        ),
        (
            "a field that is to be empty",
            |h| {
                h[350] = 1;
                seal(h);
            },
            "leaves empty",
        ),
    ];
    for (name, edit, expected) in headers {
        let mut tar = whole.clone();
        edit(&mut tar[sparse..sparse + 512]);
        fs::write(&path, tar).unwrap();
        refused(name, &path, &store, expected);
    }
    // Between the descriptor and what follows it.
    let end = u64::from_str_radix(std::str::from_utf8(&whole[124..135]).unwrap(), 8).unwrap() as usize + 512;
    let mut tar = whole.clone();
    tar[end] = 1;
    fs::write(&path, tar).unwrap();
    refused("padding", &path, &store, "padding");
    // A zero block between entries.
    let at = end.next_multiple_of(512);
    let tar = [&whole[..at], &[0; 512], &whole[at..]].concat();
    fs::write(&path, tar).unwrap();
    refused("a lone zero block", &path, &store, "lone zero block");
}

#[test]
fn import_heeds_limits_of_an_archive() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let (path, store) = (Archive::of(&fixture, ALL).write(&fixture.path("a.msb")), fixture.path("target"));
    let limited = |max_bytes, max_files| {
        import(&ImportOptions { max_bytes, max_files, ..import_options(&path, &store) }).unwrap_err()
    };
    for (error, hint) in [(limited(None, 10), "--max-files"), (limited(Some(100_000), 100_000), "--max-bytes")] {
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        assert!(!store.exists());
    }
}

#[test]
fn import_refuses_hole_of_any_size_in_a_file_that_is_hashed() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let mut archive = Archive::of(&fixture, ALL);
    let member = archive.of_kind("image-object");
    (member.size, member.map) = (1 << 32, Some(vec![[0, 4096], [1 << 32, 0]]));
    member.stored.truncate(4096);
    let (path, store) = (archive.write(&fixture.path("a.msb")), fixture.path("target"));
    let options = ImportOptions { max_bytes: Some(1 << 30), ..import_options(&path, &store) };
    let error = import(&options).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
}

#[test]
fn import_refuses_archive_whose_payload_is_not_what_its_descriptor_records() {
    for algorithm in ["sha256", "msb-sparse-sha256-v1"] {
        let mut fixture = Fixture::empty(Generation::Final);
        let integrity = serde_json::json!({"algorithm": algorithm, "digest": format!("sha256:{}", "0".repeat(64))});
        fixture.add("one", 0, 1 << 20, &[(0, random(4096, 3))], integrity);
        let path = Archive::of(&fixture, ALONE).write(&fixture.path("a.msb"));
        let store = fixture.path("target");
        let error = import(&import_options(&path, &store)).unwrap_err();
        assert!(matches!(error, Error::RecordedIntegrity { .. }), "{error}");
        assert!(!store.exists());
        assert!(verified(&path)[0].contains(algorithm));
        import(&ImportOptions { skip_recorded: true, ..import_options(&path, &store) }).unwrap();
    }
}
