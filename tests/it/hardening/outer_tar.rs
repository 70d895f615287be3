//! The tar around a layout: what real readers got wrong, each made here and refused by name.

use super::{
    craft::{Arena, Craft, outer_refused},
    tar::*,
};
use crate::fixture::write;

/// The good bundle's entries with `more` before `index.json`.
fn with(more: Vec<u8>) -> Vec<u8> {
    let mut entries = Craft::default().make().entries();
    entries.insert(entries.len() - 1, more);
    [entries.concat(), END.to_vec()].concat()
}

fn blob() -> String {
    format!("blobs/sha256/{}", "0".repeat(64))
}

#[test]
fn the_good_one_is_accepted() {
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &with(Vec::new()));
    arena.accepts(&bundle);
}

/// CVE-2025-62518: a reader that steps by the header's size reads the contents as entries.
#[test]
fn pax_size_against_a_zero_header_size() {
    let hidden = file("index.json", b"{}");
    let size = record("size", &hidden.len().to_string());
    let tar = with([pax(b'x', &size), file(&blob(), b""), hidden].concat());
    outer_refused(&tar, "InvalidBundle", "the pax record size changes how the entry is read");
}

/// CVE-2026-33055: pax says another size than a header that is not zero.
#[test]
fn pax_size_against_a_header_size() {
    let tar = with([pax(b'x', &record("size", "512")), file(&blob(), b"seven b")].concat());
    outer_refused(&tar, "InvalidBundle", "the pax record size changes how the entry is read");
}

/// RUSTSEC-2026-0145: the size of a pax header applied to the next extension header.
#[test]
fn pax_before_another_extension_header() {
    for kind in [b'x', b'g'] {
        let tar = with([pax(b'x', &record("mtime", "1")), pax(kind, b""), file(&blob(), b"")].concat());
        outer_refused(&tar, "InvalidBundle", "a pax header follows a pax header");
    }
    let tar = with([pax(b'x', &record("mtime", "1")), long_name(b"name\0"), file(&blob(), b"")].concat());
    outer_refused(&tar, "InvalidBundle", "a GNU long name");
}

/// RUSTSEC-2026-0112: pax records that name an entry, and a pax header without one.
#[test]
fn hidden_and_phantom_pax_entries() {
    let tar = with([pax(b'x', &record("path", "index.json")), file(&blob(), b"{}")].concat());
    outer_refused(&tar, "InvalidBundle", "the pax record path changes how the entry is read");
    let tar = with([pax(b'g', &record("path", "index.json")), file(&blob(), b"{}")].concat());
    outer_refused(&tar, "InvalidBundle", "the pax record path changes how the entry is read");
    let phantom = [Craft::default().make().entries().concat(), pax(b'x', &record("mtime", "1")), END.to_vec()];
    outer_refused(&phantom.concat(), "InvalidBundle", "a pax header belongs to no entry");
}

/// CVE-2026-32766: malformed records skipped in silence.
#[test]
fn malformed_pax_records() {
    let good = record("mtime", "1");
    for records in [
        &b"99 mtime=1\n"[..],
        b"mtime=1\n",
        b"010 mtime=1\n",
        b"-1 mtime=1\n",
        b"18446744073709551627 mtime=1\n",
        b"10 mtime1\n",
        b"5 =1\n",
        b"10 mtime=1",
        b"0 \n",
        &[good.as_slice(), b"x"].concat(),
        &[good.as_slice(), b"\0\0\0"].concat(),
    ] {
        let tar = with([pax(b'x', records), file(&blob(), b"")].concat());
        outer_refused(&tar, "InvalidBundle", "a pax record is malformed");
    }
}

/// CVE-2022-2879: extension headers of any size, held in memory.
#[test]
fn huge_extension_headers() {
    let comment = record("comment", &"x".repeat(1 << 20));
    for kind in [b'x', b'g'] {
        let tar = with([pax(kind, &comment), file(&blob(), b"")].concat());
        outer_refused(&tar, "InvalidBundle", "more than 1 MiB");
    }
    let huge = entry("x", b'x', b"", |h| h[SIZE].copy_from_slice(&base256(1 << 62)));
    outer_refused(&with(huge), "InvalidBundle", "more than 1 MiB");
    outer_refused(&with(long_name(&vec![b'a'; 2 << 20])), "InvalidBundle", "a GNU long name");
}

#[test]
fn negative_sizes() {
    for field in [[0xff; 12], base256(1).map(|b| b | 0xc0)] {
        let tar = with(entry(&blob(), b'0', b"", |h| h[SIZE].copy_from_slice(&field)));
        outer_refused(&tar, "InvalidBundle", "its size is negative");
    }
    let tar = with(entry(&blob(), b'0', b"", |h| h[SIZE].copy_from_slice(b"-0000000001\0")));
    outer_refused(&tar, "InvalidBundle", "its size is not a number");
    let tar = with([pax(b'x', &record("size", "-1")), file(&blob(), b"")].concat());
    outer_refused(&tar, "InvalidBundle", "the pax record size");
}

#[test]
fn overflowing_sizes() {
    for field in [base256(u64::MAX), base256(1 << 63), {
        let mut field = base256(0);
        field[1] = 1;
        field
    }] {
        let tar = with(entry(&blob(), b'0', b"", |h| h[SIZE].copy_from_slice(&field)));
        outer_refused(&tar, "InvalidBundle", "its size overflows");
    }
    let tar = with(entry(&blob(), b'0', b"", |h| h[SIZE].copy_from_slice(&base256(i64::MAX as u64))));
    outer_refused(&tar, "InvalidBundle", "it is cut off");
}

/// Readers take `\0 7`, ` 7` and `7 7` for different numbers.
#[test]
fn sizes_that_readers_read_differently() {
    for text in [&b"\x00000000007"[..], b"07 7", b"7\x007", b"0x7", b"+7", b"", b"            "] {
        let field = cut(text);
        let tar = with(entry(&blob(), b'0', b"", |h| h[SIZE].copy_from_slice(&field)));
        outer_refused(&tar, "InvalidBundle", "its size is not a number");
    }
}

#[test]
fn a_bad_checksum() {
    let mut bad = file(&blob(), b"");
    bad[0] ^= 1;
    outer_refused(&with(bad), "InvalidBundle", "header checksum");
}

#[test]
fn a_lone_zero_block() {
    outer_refused(&with(vec![0; 512]), "InvalidBundle", "lone zero block");
    let entries = Craft::default().make().entries().concat();
    outer_refused(&[entries.as_slice(), &[0; 512]].concat(), "InvalidBundle", "lone zero block");
}

#[test]
fn data_after_the_end_marker() {
    let good = Craft::default().make().tar();
    outer_refused(&[good.as_slice(), &file("index.json", b"{}")].concat(), "InvalidBundle", "after the end");
    outer_refused(&[good.as_slice(), b"x"].concat(), "InvalidBundle", "after the end");
    outer_refused(&[good.as_slice(), &[0; (1 << 20) + 512]].concat(), "InvalidBundle", "1 MiB of zeros");
}

#[test]
fn duplicate_names() {
    outer_refused(&with(file("index.json", b"{}")), "InvalidBundle", "it is there twice");
    outer_refused(&with([file(&blob(), b"a"), file(&blob(), b"b")].concat()), "InvalidBundle", "it is there twice");
}

#[test]
fn two_names_for_one_target() {
    let dotted = format!("./{}", blob());
    outer_refused(&with([file(&blob(), b"a"), file(&dotted, b"b")].concat()), "InvalidBundle", "it is there twice");
    outer_refused(&with(file("./index.json", b"{}")), "InvalidBundle", "it is there twice");
    // A ustar prefix makes the same name in two pieces.
    let split = entry(&blob()["blobs/".len()..], b'0', b"b", |h| {
        h[257..265].copy_from_slice(b"ustar\x0000");
        h[345..350].copy_from_slice(b"blobs");
    });
    outer_refused(&with([file(&blob(), b"a"), split].concat()), "InvalidBundle", "it is there twice");
}

/// A prefix in a GNU header: GNU tar ignores it, Python's tarfile puts it before the name.
#[test]
fn a_prefix_in_a_gnu_header() {
    let split = entry(&blob(), b'0', b"{}", |h| h[345..350].copy_from_slice(b"other"));
    outer_refused(&with(split), "InvalidBundle", "fields that a GNU header of a plain file leaves empty");
}

#[test]
fn names_that_are_not_text() {
    outer_refused(&with(raw(b"blobs/sha256/\xff\xfe", b'0', b"", |_| {})), "InvalidBundle", "its name is not UTF-8");
    outer_refused(&with(raw(b"index.json\0hidden", b'0', b"", |_| {})), "InvalidBundle", "goes on after a NUL");
}

#[test]
fn paths_that_leave_the_layout() {
    for (name, reason) in [
        ("/etc/passwd", "it is absolute"),
        ("../index.json", ". or .. component"),
        ("blobs/sha256/../../x", ". or .. component"),
        ("blobs//sha256", "empty component"),
        (".", ". or .. component"),
        ("blobs\\sha256\\x", "a backslash"),
        ("C:index.json", "a colon"),
        ("blobs/sha256/x", "does not belong into a layout"),
        ("index.json/", "empty component"),
        ("INDEX.JSON", "does not belong into a layout"),
    ] {
        outer_refused(&with(file(name, b"")), "InvalidBundle", reason);
    }
}

#[test]
fn links_devices_and_sparse_files() {
    for (kind, what) in [
        (b'1', "a hard link"),
        (b'2', "a symbolic link"),
        (b'3', "a character device"),
        (b'4', "a block device"),
        (b'6', "a FIFO"),
        (b'7', "a contiguous file"),
        (b'K', "a GNU long link name"),
        (b'S', "a GNU sparse file"),
        (b'V', "the unknown type"),
        (b'M', "the unknown type"),
        (b'D', "the unknown type"),
    ] {
        let link = entry(&blob(), kind, b"", |h| h[157..168].copy_from_slice(b"/etc/passwd"));
        outer_refused(&with(link), "InvalidBundle", what);
    }
}

/// CVE-2026-33056: a symlink, then a folder or file of the same name.
#[test]
fn a_symlink_followed_by_its_own_name() {
    let link = entry("blobs", b'2', b"", |h| h[157..161].copy_from_slice(b"/tmp"));
    let entries = Craft::default().make().entries().concat();
    for after in [entry("blobs/", b'5', b"", |_| {}), file(&blob(), b"")] {
        let tar = [link.clone(), after, entries.clone(), END.to_vec()].concat();
        outer_refused(&tar, "InvalidBundle", "a symbolic link");
    }
}

#[test]
fn folders_that_do_not_belong() {
    outer_refused(&with(entry("../../x/", b'5', b"", |_| {})), "InvalidBundle", "such a folder does not belong");
    outer_refused(&with(entry("blobs/", b'5', b"data", |_| {})), "InvalidBundle", "a folder with data");
    let twice = [entry("blobs/", b'5', b"", |_| {}), entry("./blobs", b'5', b"", |_| {})].concat();
    outer_refused(&with(twice), "InvalidBundle", "it is there twice");
}

#[test]
fn another_header_format() {
    let v7 = entry(&blob(), b'0', b"", |h| h[257..265].fill(0));
    outer_refused(&with(v7), "InvalidBundle", "neither a ustar nor a GNU header");
}

#[test]
fn more_entries_than_the_limit() {
    let one = file(&blob(), b"");
    let mut tar = Craft::default().make().entries().concat();
    // Distinct names: a pax header without records may stand before every entry, and counts.
    let folder = pax(b'g', b"");
    tar.reserve(folder.len() * 1_000_001);
    for _ in 0..1_000_001 {
        tar.extend_from_slice(&folder);
    }
    tar.extend_from_slice(&one);
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &tar);
    arena.refuses(&bundle, "Limit", "the number of entries of");
}
