//! Every error's text and exit code.

use std::io;

use snapcask::{Digest, Error};

#[test]
fn texts_and_exit_codes() {
    let digest = Digest::of(b"abc");
    let hex = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let s = |t: &str| t.to_owned();
    let cases: Vec<(Error, u8, String)> = vec![
        (Error::io("open", "/a", io::Error::other("no luck")), 1, s("cannot open /a: no luck")),
        (
            Error::io("open", "/a", io::Error::from_raw_os_error(libc::EACCES)),
            1,
            s("cannot open /a: permission denied (os error 13)"),
        ),
        (
            Error::MayBeHidden { what: s("the snapshot \"x\""), reason: s("odd") },
            1,
            s("the snapshot \"x\" is not among what can be read, and may be among what cannot: odd"),
        ),
        (Error::NotAllRead { count: 2, first: s("odd") }, 1, s("2 of the store's folders could not be read: odd")),
        (Error::NotAStore { path: "/a".into(), reason: s("it is a bundle") }, 4, s("/a is no store: it is a bundle")),
        (Error::InvalidRecord { path: "/a".into(), reason: s("odd") }, 3, s("invalid record of an import /a: odd")),
        (
            Error::NoRoom { what: s("size"), needed: 2, free: 1, path: "/d".into(), hint: "; look" },
            1,
            s("no space left on the disk of /d: size is 2, and 1 are free; look"),
        ),
        (Error::Usage(s("say more")), 2, s("say more")),
        (Error::InvalidDigest { text: s("x"), reason: "odd" }, 3, s("invalid digest \"x\": odd")),
        (
            Error::InvalidPath { path: s("../x"), context: s("a table"), reason: "odd" },
            3,
            s("invalid path \"../x\" in a table: odd"),
        ),
        (Error::InvalidName { name: s("a b"), reason: "odd" }, 2, s("invalid snapshot name \"a b\": odd")),
        (
            Error::invalid_reference("oci://x", "odd"),
            2,
            s("invalid reference \"oci://x\": odd; it is written oci://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]"),
        ),
        (Error::invalid_host("host/x", "odd"), 2, s("invalid registry \"host/x\": odd; it is written HOST[:PORT]")),
        (Error::InvalidDescriptor { path: "/a".into(), reason: s("odd") }, 1, s("invalid snapshot descriptor /a: odd")),
        (Error::InvalidSnapshot { directory: "/a".into(), reason: s("odd") }, 1, s("invalid snapshot /a: odd")),
        (
            Error::NoSnapshot { directory: "/a".into() },
            4,
            s("/a is no snapshot: it has neither manifest.json nor snapshot.json"),
        ),
        (
            Error::SourceChanged { path: "/a".into() },
            1,
            s("/a changed while it was read; nothing was written. Stop the sandbox that uses it and export again"),
        ),
        (
            Error::RecordedIntegrity { path: "/a".into(), algorithm: "sha256", expected: s("1"), actual: s("2") },
            3,
            s("recorded integrity of /a does not hold: sha256 is 2, the descriptor says 1"),
        ),
        (
            Error::SnapshotNotFound { reference: s("x"), store: "/s".into(), hint: s("; look") },
            4,
            s("no snapshot \"x\" in /s; look"),
        ),
        (
            Error::ParentNotFound { child: s("c"), parent: s("p"), searched: vec!["/d".into(), "/s".into()] },
            4,
            s(
                "snapshot c names the parent p, which is not in /d or /s; import the parent first, or export without --with-parents",
            ),
        ),
        (
            Error::Ambiguous { reference: s("x"), candidates: vec![s("a"), s("b")] },
            2,
            s("\"x\" is ambiguous; it can be a, b"),
        ),
        (Error::NotFound { what: "bundle", path: "/a".into(), hint: s("; look") }, 4, s("bundle not found: /a; look")),
        (
            Error::TagNotFound { tag: s("x"), tags: vec![s("a"), s("b")] },
            4,
            s("no tag \"x\" in the bundle; it has a, b"),
        ),
        (Error::TagNotFound { tag: s("x"), tags: vec![] }, 4, s("no tag \"x\" in the bundle; it has none")),
        (
            Error::TagNotFound { tag: s("x"), tags: vec![s("a"); 52] },
            4,
            format!("no tag \"x\" in the bundle; it has {} and 2 more", vec!["a"; 50].join(", ")),
        ),
        (Error::AlreadyExists { path: "/a".into() }, 5, s("/a already exists; use --force to replace it")),
        (
            Error::NotEmpty { path: "/a".into() },
            5,
            s("the folder /a is not empty; name another one, or empty it yourself"),
        ),
        (
            Error::Different { path: "/a".into(), existing: s("1"), incoming: s("2") },
            5,
            s(
                "/a holds 1, the bundle has 2; use --force to replace it, --head-only to leave ancestors alone, or --dest (for the head also --name) to place it elsewhere",
            ),
        ),
        (
            Error::HasChildren { snapshot: s("p"), children: vec![s("a"), s("b")] },
            1,
            s("p is the parent of a, b; remove these too, or use --orphan-children"),
        ),
        (
            Error::HeadStays { group: s("web"), head: s("snap_1") },
            1,
            s(
                "snap_1 is the head of the group web, where others stay; --set-head MEMBER makes one of them the head, or remove these too",
            ),
        ),
        (
            Error::MsbDatabase { path: "/a".into(), reason: s("odd") },
            1,
            s(
                "cannot read msb's database /a: odd; nothing was removed, for a sandbox may need the images; leave out --prune-image",
            ),
        ),
        (Error::UnsafePath { path: "/a".into(), reason: "odd" }, 1, s("cannot use /a: odd")),
        (Error::NotPruned { reason: s("odd") }, 1, s("cannot prune the image: odd")),
        (Error::ImageCache { image: s("i"), reason: s("odd") }, 1, s("cannot pack the image i: odd")),
        (Error::CorruptBlob { digest, reason: s("odd") }, 3, format!("blob {hex} is corrupt: odd")),
        (
            Error::MissingBlob { digest, role: s("a layer") },
            3,
            format!("blob {hex} is missing from the bundle (a layer)"),
        ),
        (
            Error::ParentManifestMissing { digest },
            3,
            format!(
                "the parent's manifest {hex} is not in the bundle; `import` and `verify` take --head-only, for the head without its ancestors"
            ),
        ),
        (
            Error::BaseMissing { bundle: s("b.tar"), layers: ["1", "2", "3", "4", "5"].map(s).to_vec() },
            4,
            s(
                "b.tar leaves out what is neither installed nor in another source: 1, 2, 3 and 2 more; import what it was made over first, or name that with --base",
            ),
        ),
        (
            Error::NoAncestor { base: s("a"), head: s("h") },
            2,
            s(
                "a is neither h nor an ancestor of it; --since takes one of these, a bundle, or oci://HOST/REPOSITORY[:TAG]",
            ),
        ),
        (
            Error::NotWhole { count: 2 },
            1,
            s("the bundle is not whole: 2 layer(s) are left out; --base SOURCE names what has them"),
        ),
        (
            Error::TagTaken { path: "/l".into(), tag: s("t"), manifest: hex.to_string() },
            5,
            format!(
                "/l has the tag t for the manifest {hex}; use --force to move the tag, or --tag for another name of the head"
            ),
        ),
        (
            Error::Remote { destination: s("ssh://h"), message: s("odd"), hint: "; try", code: 3 },
            3,
            s("ssh://h says: odd; try"),
        ),
        (Error::bundle("index.json", "odd"), 3, s("invalid bundle: index.json: odd")),
        (
            Error::RootMismatch { snapshot: s("n"), path: s("f"), expected: s("1"), actual: s("2") },
            3,
            s("f of snapshot n is not what the file table says: root 2, expected 1"),
        ),
        (
            Error::Limit { what: s("size"), value: 2, limit: 1, hint: "; raise it" },
            1,
            s("size is 2, over the limit of 1; raise it"),
        ),
        (
            Error::Unauthorized { registry: s("h:1"), operation: s("list tags"), reason: s("odd"), hint: s("; so") },
            1,
            s("cannot list tags: h:1 refuses the credentials, or wants some (odd); run `snapcask login h:1`; so"),
        ),
        (
            Error::LoginRefused { registry: s("h:1"), reason: s("odd") },
            1,
            s(
                "cannot log in: h:1 refuses the credentials (odd); check the user's name and the password. Nothing was kept",
            ),
        ),
        (
            Error::Forbidden { registry: s("h:1"), operation: s("list tags"), reason: s("odd"), hint: s("; so") },
            1,
            s(
                "cannot list tags: h:1 does not allow it (odd); the credentials lack the right, or a quota is used up; so",
            ),
        ),
        (
            Error::RemoteNotFound { registry: s("h"), operation: s("pull x"), what: "repository", hint: s("; look") },
            4,
            s("cannot pull x: h has no such repository; look"),
        ),
        (
            Error::Refused {
                registry: s("h"),
                operation: s("push x"),
                status: 413,
                reason: s("odd"),
                hint: s("; less"),
            },
            1,
            s("cannot push x: h answered 413 (odd); less"),
        ),
        (
            Error::Unreachable { registry: s("h"), operation: s("push x"), attempts: 6, reason: s("odd") },
            1,
            s("cannot push x: no luck with h after 6 attempts: odd"),
        ),
        (
            Error::Unreachable { registry: s("h"), operation: s("push x"), attempts: 1, reason: s("odd") },
            1,
            s("cannot push x: no luck with h after 1 attempt: odd"),
        ),
        (
            Error::Obstructed { server: s("h:1"), operation: s("push x"), reason: s("is odd; mend it") },
            1,
            s("cannot push x: h:1 is odd; mend it"),
        ),
        (Error::Protocol { registry: s("h"), reason: s("odd") }, 1, s("the registry h breaks the protocol: odd")),
        (
            Error::UploadLost { registry: s("h"), reason: s("odd") },
            1,
            s("the registry h lost the unfinished upload of a blob (odd). Run the same command again"),
        ),
        (
            Error::DifferentFile { path: "/c/x".into() },
            5,
            s("/c/x holds other contents than the image-cache file of the bundle; use --force to replace it"),
        ),
        (
            Error::OfNoImage { path: "/c/x".into() },
            5,
            s(
                "/c/x holds other contents than the image-cache file of the bundle, and nothing there proves that it is its image's: the bundle brings no metadata; pull the image instead, or move the file away",
            ),
        ),
        (
            Error::NotReplaced { path: "/s/x".into() },
            5,
            s(
                "/s/x is no snapshot, and --force replaces nothing else; move it away, or place the bundle's elsewhere with --dest, --group or (the head) --name",
            ),
        ),
        (
            Error::ReplacesParent { path: "/s/x".into(), children: vec![s("a"), s("b")] },
            5,
            s(
                "/s/x is the parent of a, b, which would lose it; use --orphan-children too, or place the bundle's elsewhere with --dest or (the head) --name",
            ),
        ),
        (
            Error::NotAsImported { path: "/s/x".into(), reason: s("odd"), record: "/s/.snapcask.json".into() },
            3,
            s(
                "/s/x is not as it was imported (odd); `snapcask check --repair-from` brings it back, and where the change is meant, removing /s/.snapcask.json makes it the snapshot's own",
            ),
        ),
        (
            Error::UnreadableSnapshot { path: "/s".into(), reason: s("odd") },
            1,
            s(
                "/s cannot be read (odd), so whose child it is is not known; see `snapcask check`, or use --orphan-children",
            ),
        ),
        (Error::Interrupted, 1, s("interrupted; nothing half-written is in place. Run the same command again")),
        (Error::Findings { count: 2 }, 3, s("verification failed: 2 finding(s)")),
        (Error::Incomplete { count: 2 }, 1, s("not everything could be verified: 2 failure(s) to read")),
    ];
    let limit = |hint| Error::Limit { what: s("size"), value: 2, limit: 1, hint };
    let full = limit(snapcask::error::MAX_BYTES_HINT).on_disk("/d".as_ref());
    assert_eq!(full.to_string(), "no space left on the disk of /d: size is 2, and 1 are free; free some space");
    assert!(matches!(limit("; raise it").on_disk("/d".as_ref()), Error::Limit { .. }), "a limit of ours stays one");
    for (error, code, text) in cases {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.exit_code(), code, "{text}");
    }
}
