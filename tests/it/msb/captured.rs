//! Snapshots that `msb snapshot create` makes of stopped sandboxes. A sandbox is a row in `msb.db` and its files: none has
//! to run, so no KVM is needed.

use std::{fs, os::unix::fs::FileExt, path::PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};
use snapcask::Digest;

use super::{image::Image, program::Msb, source::Subject};
use crate::fixture::*;

/// The id under which a sandbox keeps what is mounted at a path of the guest.
pub fn mount_id(guest: &str) -> String {
    let begin: String = guest.trim_start_matches('/').chars().take(11).collect();
    let readable: String = begin.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("{readable}_{}", &Digest::of(guest.as_bytes()).hex()[..8])
}

/// Puts a stopped sandbox into the database.
pub fn sandbox(msb: &Msb, image: &Image, name: &str, mounts: &[Value]) -> PathBuf {
    let directory = msb.home.join("sandboxes").join(name);
    fs::create_dir_all(&directory).unwrap();
    let config = json!({
        "name": name, "image": {"Oci": {"reference": image.reference}},
        "manifest_digest": image.manifest_digest, "mounts": mounts,
    });
    let database = Connection::open(msb.home.join("db/msb.db")).unwrap();
    database
        .execute(
            "insert into sandbox(name, config, status, ephemeral) values (?1, ?2, 'Stopped', 0)",
            (name, config.to_string()),
        )
        .unwrap();
    directory
}

/// `msb snapshot create`; the snapshot stands in the group that is named as the sandbox.
pub fn capture(msb: &Msb, sandbox: &str, name: &str, more: &[&str]) -> Subject {
    let mut arguments = vec!["snapshot", "create", name, "--sandbox", sandbox];
    arguments.extend(more);
    let printed = msb.ok(&arguments);
    let id = printed.lines().find(|line| line.starts_with("snap_")).expect("msb prints the id").trim().to_owned();
    let directory = msb.snapshots().join(sandbox).join(&id);
    Subject { group: Some(sandbox.into()), name: name.into(), id, directory }
}

/// Group `app`: base, v2, v3 of one sandbox whose disk is written in between.
pub fn chain(msb: &Msb, image: &Image) -> Vec<Subject> {
    let disk = sandbox(msb, image, "app", &[]).join("upper.ext4");
    write_disk(&disk, 64 << 20, &[(1 << 20, b"one".repeat(10_000))]);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    let base = capture(msb, "app", "base", &["--integrity", "--label", "team=a"]);
    file.write_all_at(b"two", 9_000_000).unwrap();
    let second = capture(msb, "app", "v2", &[]);
    file.write_all_at(b"three", 19_000_000).unwrap();
    vec![base, second, capture(msb, "app", "v3", &["--integrity"])]
}

/// Group `box`: o1, o2 of a sandbox with an owned directory, an empty one, and an owned disk.
pub fn owned(msb: &Msb, image: &Image) -> Vec<Subject> {
    let mount = |guest: &str, storage: Value| {
        json!({"type": "Owned", "guest": guest, "storage": storage, "options": {},
            "stat_virtualization": "strict", "host_permissions": "private"})
    };
    let mounts = [
        mount("/cache", json!({"kind": "directory", "quota_mib": 32})),
        mount("/empty", json!({"kind": "directory", "quota_mib": null})),
        mount("/data", json!({"kind": "disk", "capacity_mib": 1})),
    ];
    let directory = sandbox(msb, image, "box", &mounts);
    fs::write(directory.join("upper.ext4"), [0x5b; 65_536]).unwrap();
    let volume = |guest: &str| directory.join("owned-volumes").join(mount_id(guest));
    write(volume("/cache").join("data/kept"), b"namespace bytes");
    fs::create_dir_all(volume("/empty").join("data")).unwrap();
    write(volume("/data").join("disk.raw"), &vec![0x0b; 1 << 20]);
    vec![capture(msb, "box", "o1", &[]), capture(msb, "box", "o2", &[])]
}
