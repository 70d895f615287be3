//! Every error's text and exit code.

use snapcask::{Digest, Error};

#[test]
fn texts_and_exit_codes() {
    let digest = Digest::of(b"");
    let s = String::from;
    let cases: Vec<(Error, u8, &str)> = vec![
        (Error::io("open", "/x", std::io::Error::other("no")), 1, "cannot open /x: no"),
        (Error::Usage(s("say it")), 2, "say it"),
        (Error::InvalidDigest { text: s("x"), reason: "bad" }, 3, "invalid digest \"x\": bad"),
        (
            Error::InvalidPath { path: s("../x"), context: s("layer y"), reason: "bad" },
            3,
            "invalid path \"../x\" in layer y: bad",
        ),
        (Error::InvalidName { name: s("a b"), reason: "bad" }, 2, "invalid snapshot name \"a b\": bad"),
        (
            Error::InvalidDescriptor { path: "/s/manifest.json".into(), reason: s("bad") },
            1,
            "invalid snapshot descriptor /s/manifest.json: bad",
        ),
        (Error::InvalidSnapshot { directory: "/s".into(), reason: s("bad") }, 1, "cannot pack snapshot /s: bad"),
        (
            Error::SourceChanged { path: "/s/upper.ext4".into() },
            1,
            "/s/upper.ext4 changed while it was read; nothing was written. Stop the sandbox that uses it and export again",
        ),
        (
            Error::RecordedIntegrity { path: "/d".into(), algorithm: "sha256", expected: s("a"), actual: s("b") },
            3,
            "recorded integrity of /d does not hold: sha256 is b, the descriptor says a",
        ),
        (
            Error::SnapshotNotFound { reference: s("x"), store: "/s".into(), hint: s("; it has a") },
            4,
            "no snapshot \"x\" in /s; it has a",
        ),
        (
            Error::ParentNotFound { child: s("c"), parent: s("p"), store: "/s".into() },
            4,
            "snapshot c names the parent p, which is not in /s; import the parent first, or export without --with-parents",
        ),
        (
            Error::Ambiguous { reference: s("x"), candidates: vec![s("a"), s("b")] },
            2,
            "\"x\" is ambiguous; it can be a, b",
        ),
        (Error::NotFound { what: "bundle", path: "/b".into(), hint: s("") }, 4, "bundle not found: /b"),
        (Error::TagNotFound { tag: s("x"), tags: vec![s("a")] }, 4, "no tag \"x\" in the bundle; it has a"),
        (Error::AlreadyExists { path: "/b".into() }, 5, "/b already exists; use --force to replace it"),
        (
            Error::Different { path: "/s".into(), existing: s("a"), incoming: s("b") },
            5,
            "/s holds a, the bundle has b; use --force to replace it, or --name to place it beside",
        ),
        (Error::ImageCache { image: s("i"), reason: s("bad") }, 1, "cannot pack the image i: bad"),
        (
            Error::CorruptBlob { digest, reason: s("bad") },
            3,
            "blob sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 is corrupt: bad",
        ),
        (
            Error::MissingBlob { digest, role: s("config") },
            3,
            "blob sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 is missing from the bundle (config)",
        ),
        (Error::bundle("index.json", "bad"), 3, "invalid bundle: index.json: bad"),
        (
            Error::RootMismatch { snapshot: s("a"), path: s("p"), expected: s("x"), actual: s("y") },
            3,
            "p of snapshot a is not what the file table says: root y, expected x",
        ),
        (Error::Limit { what: s("n"), value: 2, limit: 1, hint: "; h" }, 1, "n is 2, over the limit of 1; h"),
        (Error::Interrupted, 1, "interrupted; nothing was placed. Run the same command again"),
        (Error::Findings { count: 2 }, 3, "verification failed: 2 finding(s)"),
    ];
    for (error, code, text) in cases {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.exit_code(), code, "{text}");
    }
}
