//! The tar inside a layer: a closed grammar, everything else refused by name, in plain layers and in zstd ones.

use super::{
    craft::{Arena, Craft, DISK, SIZE as DISK_SIZE, disk, layer_refused, snapshot_descriptor},
    tar::*,
};
use crate::fixture::write;

/// The descriptor's entry, then `more`, then the disk's.
fn between(more: Vec<u8>) -> Vec<u8> {
    let (name, bytes) = snapshot_descriptor();
    [file(&name, &bytes), more, file(DISK, &disk()), END.to_vec()].concat()
}

/// The descriptor's entry, then `more` in the disk's place.
fn instead(more: Vec<u8>) -> Vec<u8> {
    let (name, bytes) = snapshot_descriptor();
    [file(&name, &bytes), more, END.to_vec()].concat()
}

fn accepted(tar: Vec<u8>) {
    for plain in [false, true] {
        let arena = Arena::new();
        let made = Craft { plain, ..Craft::layer_tar(tar.clone()) }.make();
        let bundle = arena.bundle("b.tar");
        write(bundle.clone(), &made.tar());
        let placed = arena.accepts(&bundle);
        assert_eq!(std::fs::read(placed.join(DISK)).unwrap(), disk());
    }
}

const PAX: &str = "has type 'x'; only regular files";

#[test]
fn what_readers_must_accept() {
    accepted(between(Vec::new()));
    accepted(between(entry("./", b'5', b"", |_| {})));
    accepted(between(entry("folder/", b'5', b"", |_| {})));
    accepted(instead(file(&format!("./{DISK}"), &disk())));
    accepted(instead(entry(DISK, 0, &disk(), |_| {})));
    accepted(instead(entry(DISK, b'0', &disk(), |h| h[257..265].copy_from_slice(b"ustar\x0000"))));
    accepted(instead([long_name(format!("{DISK}\0").as_bytes()), file("short", &disk())].concat()));
    accepted(instead(entry(DISK, b'0', &disk(), |h| h[SIZE].copy_from_slice(&base256(DISK_SIZE)))));
    let map = [(octal(0), octal(512)), (octal(512), octal(DISK_SIZE - 512)), (octal(DISK_SIZE), octal(0))];
    accepted(instead(sparse(DISK, &map, octal(DISK_SIZE), &disk())));
    accepted([between(Vec::new()), vec![0; 9000]].concat());
}

#[test]
fn pax_size_against_a_zero_header_size() {
    let hidden = file(DISK, &disk());
    let size = record("size", &hidden.len().to_string());
    layer_refused(instead([pax(b'x', &size), file(DISK, b""), hidden].concat()), "InvalidBundle", PAX);
}

#[test]
fn pax_size_against_a_header_size() {
    layer_refused(instead([pax(b'x', &record("size", "1")), file(DISK, &disk())].concat()), "InvalidBundle", PAX);
}

#[test]
fn pax_before_another_extension_header() {
    let tar = instead([pax(b'x', &record("size", "1")), long_name(b"upper.ext4\0"), file("x", &disk())].concat());
    layer_refused(tar, "InvalidBundle", PAX);
    let tar = instead([long_name(b"upper.ext4\0"), pax(b'x', b""), file("x", &disk())].concat());
    layer_refused(tar, "InvalidBundle", "has type 'x'");
}

#[test]
fn hidden_and_phantom_pax_entries() {
    layer_refused(instead([pax(b'x', &record("path", DISK)), file("x", &disk())].concat()), "InvalidBundle", PAX);
    layer_refused(between(pax(b'x', &record("mtime", "1"))), "InvalidBundle", PAX);
    let global = "has type 'g'; only regular files";
    layer_refused(instead([pax(b'g', &record("path", DISK)), file("x", &disk())].concat()), "InvalidBundle", global);
}

#[test]
fn malformed_pax_records() {
    layer_refused(between(pax(b'x', b"99 mtime=1\n")), "InvalidBundle", PAX);
}

#[test]
fn huge_extension_headers() {
    layer_refused(between(pax(b'x', &record("comment", &"x".repeat(2 << 20)))), "InvalidBundle", PAX);
    layer_refused(between(long_name(&vec![b'a'; 1026])), "InvalidBundle", "a long name of 1026 bytes is refused");
    let endless = entry("././@LongLink", b'L', b"", |h| h[SIZE].copy_from_slice(&base256(1 << 62)));
    layer_refused(between(endless), "InvalidBundle", "is refused");
    layer_refused(between(long_name(b"")), "InvalidBundle", "a long name of 0 bytes is refused");
}

#[test]
fn long_names_without_an_entry() {
    let (name, bytes) = snapshot_descriptor();
    let tar = [file(&name, &bytes), file(DISK, &disk()), long_name(b"x\0"), END.to_vec()].concat();
    layer_refused(tar, "InvalidBundle", "a long name without an entry");
    let twice = [long_name(b"upper.ext4\0"), long_name(b"upper.ext4\0"), file("x", &disk())].concat();
    layer_refused(instead(twice), "InvalidBundle", "is refused");
    let open = [long_name(b"upper.ext4"), file("x", &disk())].concat();
    layer_refused(instead(open), "InvalidBundle", "does not end with NUL");
    let hidden = [long_name(b"upper.ext4\0x\0"), file("x", &disk())].concat();
    layer_refused(instead(hidden), "InvalidBundle", "not UTF-8");
}

#[test]
fn negative_sizes() {
    for field in [[0xff; 12], base256(1).map(|b| b | 0xc0), *b"-0000000001\0"] {
        let tar = instead(entry(DISK, b'0', b"", |h| h[SIZE].copy_from_slice(&field)));
        layer_refused(tar, "InvalidBundle", "a size that is no number");
    }
}

#[test]
fn overflowing_sizes() {
    for value in [u64::MAX, u64::MAX - 511, 1 << 63] {
        let tar = instead(entry(DISK, b'0', b"", |h| h[SIZE].copy_from_slice(&base256(value))));
        layer_refused(tar, "InvalidBundle", "impossible size");
    }
    let tar = instead(entry(DISK, b'0', b"", |h| h[SIZE].copy_from_slice(&base256(1 << 62))));
    layer_refused(tar, "InvalidBundle", "the file table says 8192");
}

/// Python takes a number up to its first NUL, GNU tar skips one in front.
#[test]
fn sizes_that_readers_read_differently() {
    for text in [&b"\x0000000020000"[..], b"00020 000", b"20000\x000", b"0x20000", b"", b"            "] {
        let field = cut(text);
        let tar = instead(entry(DISK, b'0', &disk(), |h| h[SIZE].copy_from_slice(&field)));
        layer_refused(tar, "InvalidBundle", "a size that is no number");
    }
}

#[test]
fn a_bad_checksum() {
    let mut tar = between(Vec::new());
    tar[5] ^= 1;
    layer_refused(tar, "InvalidBundle", "a bad checksum");
    let mut tar = between(Vec::new());
    tar[148..156].fill(b'9');
    layer_refused(tar, "InvalidBundle", "a bad checksum");
}

/// Found by the fuzz target `tar_walker`: a panic.
#[test]
fn fuzz_tar_walker_979ec299_a_checksum_in_base_256() {
    for first in [0x80, 0xff, 0x81] {
        let mut tar = between(Vec::new());
        tar[148] = first;
        layer_refused(tar, "InvalidBundle", "a bad checksum");
    }
}

#[test]
fn a_lone_zero_block() {
    layer_refused(between(vec![0; 512]), "InvalidBundle", "a lone zero block");
    let (name, bytes) = snapshot_descriptor();
    let tar = [file(&name, &bytes), file(DISK, &disk()), vec![0; 512]].concat();
    layer_refused(tar, "InvalidBundle", "ends before its end marker");
}

#[test]
fn data_after_the_end_marker() {
    for more in [file("more", b""), b"x".to_vec(), [vec![0; 4096], b"x".to_vec()].concat()] {
        layer_refused([between(Vec::new()), more].concat(), "InvalidBundle", "data after the end marker");
    }
    layer_refused([between(Vec::new()), vec![0; 3 << 20]].concat(), "InvalidBundle", "zeros after the end marker");
}

#[test]
fn padding_that_is_not_zero() {
    let (name, bytes) = snapshot_descriptor();
    let mut first = file(&name, &bytes);
    *first.last_mut().unwrap() = 1;
    let tar = [first, file(DISK, &disk()), END.to_vec()].concat();
    layer_refused(tar, "InvalidBundle", "the padding after an entry is not zero");
}

#[test]
fn duplicate_names() {
    layer_refused(between(file(DISK, &disk())), "InvalidBundle", "upper.ext4 is there twice");
}

#[test]
fn two_names_for_one_target() {
    layer_refused(between(file(&format!("./{DISK}"), &disk())), "InvalidBundle", "upper.ext4 is there twice");
    let named = [long_name(b"upper.ext4\0"), file("x", &disk())].concat();
    layer_refused(between(named), "InvalidBundle", "upper.ext4 is there twice");
}

#[test]
fn a_file_and_a_folder_of_one_name() {
    for folder in [DISK, "upper.ext4/", "./upper.ext4/"] {
        layer_refused(between(entry(folder, b'5', b"", |_| {})), "InvalidBundle", "upper.ext4 is there twice");
    }
    layer_refused(instead([file(DISK, &disk()), entry(DISK, b'5', b"", |_| {})].concat()), "InvalidBundle", "twice");
}

/// GNU tar ignores a prefix in a GNU header, Python's tarfile puts it before the name.
#[test]
fn a_prefix_in_a_gnu_header() {
    let tar = instead(entry(DISK, b'0', &disk(), |h| h[345..349].copy_from_slice(b"evil")));
    layer_refused(tar, "InvalidBundle", "fields that its format leaves empty");
}

#[test]
fn a_name_that_goes_on_after_a_nul() {
    let tar = instead(raw(b"upper.ext4\0hidden", b'0', &disk(), |_| {}));
    layer_refused(tar, "InvalidBundle", "goes on after a NUL");
}

#[test]
fn another_header_format() {
    let tar = instead(entry(DISK, b'0', &disk(), |h| h[257..265].fill(0)));
    layer_refused(tar, "InvalidBundle", "neither a ustar nor a GNU header");
}

#[test]
fn names_that_are_not_text() {
    layer_refused(between(raw(b"\xff\xfe", b'0', b"", |_| {})), "InvalidBundle", "not UTF-8");
    layer_refused(between([long_name(b"a\xff\0"), file("x", b"")].concat()), "InvalidBundle", "not UTF-8");
}

#[test]
fn a_file_that_the_config_does_not_name() {
    layer_refused(between(file("more", b"x")), "InvalidBundle", "it holds more, which its config does not name");
}

#[test]
fn a_file_that_is_not_there() {
    layer_refused(instead(Vec::new()), "InvalidBundle", "upper.ext4 is not in it");
}

#[test]
fn another_size_than_the_table() {
    layer_refused(instead(file(DISK, &disk()[1..])), "InvalidBundle", "the file table says 8192");
}

#[test]
fn other_contents_than_the_table() {
    let mut other = disk();
    other[5000] ^= 1;
    layer_refused(instead(file(DISK, &other)), "RootMismatch", "upper.ext4");
}

#[test]
fn links_devices_and_other_kinds() {
    for kind in [b'1', b'2', b'3', b'4', b'6', b'7', b'K', b'M', b'D', b'V', b'X'] {
        let link = entry(DISK, kind, b"", |h| h[157..168].copy_from_slice(b"/etc/passwd"));
        layer_refused(instead(link), "InvalidBundle", "only regular files, directories and old-GNU sparse files");
    }
}

/// CVE-2026-33056: a symlink, then a folder or file of the same name.
#[test]
fn a_symlink_followed_by_its_own_name() {
    let link = entry(DISK, b'2', b"", |h| h[157..161].copy_from_slice(b"/tmp"));
    for after in [entry(DISK, b'5', b"", |_| {}), file(DISK, &disk())] {
        layer_refused(instead([link.clone(), after].concat()), "InvalidBundle", "has type '2'");
    }
}

#[test]
fn paths_that_leave_the_directory() {
    for (name, reason) in [
        ("/etc/passwd", "it is absolute"),
        ("../victim", ". or .. component"),
        ("a/../../x", ". or .. component"),
        ("a/./x", ". or .. component"),
        ("a//x", "empty component"),
        ("a\\x", "a backslash"),
        ("C:x", "a colon"),
        ("upper.ext4/", "empty component"),
        ("a\nb", "control character"),
    ] {
        layer_refused(between(file(name, b"")), "InvalidPath", reason);
    }
    let long = [b"x".repeat(256).as_slice(), b"\0"].concat();
    layer_refused(between([long_name(&long), file("x", b"")].concat()), "InvalidPath", "longer than 255 bytes");
}

#[test]
fn folders_that_leave_the_directory() {
    for (name, reason) in [
        ("/etc/", "it is absolute"),
        ("../x/", ". or .. component"),
        ("a//b/", "empty component"),
        ("C:\\x", "a backslash"),
    ] {
        layer_refused(between(entry(name, b'5', b"", |_| {})), "InvalidPath", reason);
    }
    layer_refused(between(entry("x", b'5', b"data", |_| {})), "InvalidBundle", "has type '5'");
}

// Sparse maps (CVE-2025-58183, CVE-2026-32288).

fn sparse_refused(map: &[(u64, u64)], real: u64, data: &[u8], text: &str) {
    let map: Vec<_> = map.iter().map(|(offset, length)| (base256(*offset), base256(*length))).collect();
    layer_refused(instead(sparse(DISK, &map, base256(real), data)), "InvalidBundle", text);
}

#[test]
fn sparse_overlapping() {
    sparse_refused(&[(0, 4096), (4095, 4096)], DISK_SIZE, &disk(), "overlaps or is not sorted");
}

#[test]
fn sparse_unsorted() {
    sparse_refused(&[(4096, 4096), (0, 4096)], DISK_SIZE, &disk(), "overlaps or is not sorted");
}

#[test]
fn sparse_beyond_the_real_size() {
    sparse_refused(&[(4096, 8192)], DISK_SIZE, &disk(), "goes beyond its size");
    sparse_refused(&[(1 << 40, 0)], DISK_SIZE, b"", "goes beyond its size");
}

#[test]
fn sparse_overflowing() {
    sparse_refused(&[(u64::MAX, 2)], DISK_SIZE, b"xx", "goes beyond its size");
    sparse_refused(&[(u64::MAX - 1, u64::MAX - 1)], u64::MAX, b"xx", "goes beyond its size");
    sparse_refused(&[(0, 1 << 63), (1 << 63, 1 << 62)], u64::MAX, b"", "bytes, its entry");
    sparse_refused(&[], u64::MAX, b"", "impossible size");
}

#[test]
fn sparse_negative() {
    let map = [([0xff; 12], octal(1))];
    layer_refused(instead(sparse(DISK, &map, octal(DISK_SIZE), b"x")), "InvalidBundle", "an entry that is no number");
    let map = [(octal(0), *b"-0000000001\0")];
    layer_refused(instead(sparse(DISK, &map, octal(DISK_SIZE), b"x")), "InvalidBundle", "an entry that is no number");
    let map = [(octal(0), octal(1))];
    layer_refused(instead(sparse(DISK, &map, [0xff; 12], b"x")), "InvalidBundle", "a size that is no number");
}

#[test]
fn sparse_longer_and_shorter_than_the_data() {
    sparse_refused(&[(0, 4096), (4096, 4096)], DISK_SIZE, &disk()[..4096], "holds 8192 bytes, its entry 4096");
    sparse_refused(&[(0, 4096)], DISK_SIZE, &disk(), "holds 4096 bytes, its entry 8192");
}

/// Entries behind the one that ends the map: some readers stop there, others read on.
#[test]
fn sparse_entries_behind_the_end_of_the_map() {
    let empty = ([0; 12], [0; 12]);
    let map = [(octal(0), octal(4096)), empty, (octal(4096), octal(4096))];
    layer_refused(instead(sparse(DISK, &map, octal(DISK_SIZE), &disk()[..4096])), "InvalidBundle", "after its end");
    let map = [(octal(0), octal(DISK_SIZE)), empty, empty, empty, (octal(DISK_SIZE), octal(0))];
    layer_refused(instead(sparse(DISK, &map, octal(DISK_SIZE), &disk())), "InvalidBundle", "after its end");
}

/// GNU tar begins each segment at a block of its own, Python's tarfile where the one before ends.
#[test]
fn sparse_segments_that_readers_place_differently() {
    sparse_refused(&[(0, 100), (100, DISK_SIZE - 100)], DISK_SIZE, &disk(), "not whole blocks of 512 bytes");
}

#[test]
fn sparse_with_a_bad_continuation() {
    let mut entry = sparse(DISK, &[(octal(0), octal(DISK_SIZE))], octal(DISK_SIZE), &disk());
    entry[482] = 2;
    let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(entry[i]) }).sum();
    entry[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    layer_refused(instead(entry), "InvalidBundle", "a bad continuation flag");
}

#[test]
fn sparse_with_more_segments_than_the_limit() {
    let map: Vec<_> = (0..(4 << 20) + 1).map(|_| (octal(0), octal(0))).collect();
    let tar = instead(sparse(DISK, &map, octal(DISK_SIZE), b""));
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &Craft::layer_tar(tar).make().tar());
    arena.refuses(&bundle, "InvalidBundle", "has over 4194304 segments");
}

/// Many maps cost as much as a long one.
#[test]
fn sparse_with_more_segments_than_the_limit_in_all_maps() {
    let map =
        |data: u64| (0..(2 << 20)).map(|_| (octal(0), octal(0))).chain([(octal(0), octal(data))]).collect::<Vec<_>>();
    let disk = sparse(DISK, &map(DISK_SIZE), octal(DISK_SIZE), &disk());
    let tar = instead([disk, sparse("more", &map(0), octal(DISK_SIZE), b"")].concat());
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &Craft::layer_tar(tar).make().tar());
    arena.refuses(&bundle, "InvalidBundle", "the sparse map of more has over 4194304 segments, with those before it");
}

/// A million extents are no attack: a fragmented disk has them.
#[test]
fn sparse_with_a_million_segments() {
    let map: Vec<_> = (0..1_000_000).map(|_| (octal(0), octal(0))).chain([(octal(0), octal(DISK_SIZE))]).collect();
    let tar = instead(sparse(DISK, &map, octal(DISK_SIZE), &disk()));
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &Craft::layer_tar(tar).make().tar());
    arena.accepts(&bundle);
}
