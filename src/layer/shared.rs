//! Where two files are the same blocks on disk (reflinks), as their filesystem says (`ioctl(FS_IOC_FIEMAP)`,
//! Linux `Documentation/filesystems/fiemap.rst`).
//!
//! This is the one module with `unsafe`: the kernel fills in a structure that no safe interface offers.
#![expect(unsafe_code, reason = "FIEMAP has no safe interface")]

use std::{fs::File, ops::Range};

use rustix::{
    io::Errno,
    ioctl::{Opcode, Updater, ioctl, opcode},
};

/// Extents asked for at once: 28 KiB of answer.
const BATCH: usize = 512;
/// Dirty pages are written first: until then the map shows where the old contents are.
const FLAG_SYNC: u32 = 0x1;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_MERGED: u32 = 0x1000;
const EXTENT_SHARED: u32 = 0x2000;

/// `struct fiemap` without its extents.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Map {
    header: Header,
    extents: [Extent; BATCH],
}

const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);

/// A run of a file on disk that other files share.
struct Run {
    logical: Range<u64>,
    physical: u64,
}

/// The sorted, not touching ranges of `a` and `b` that are the same blocks on disk, hence equal. Empty where the
/// filesystem cannot tell; what is missing from the list may still be equal.
pub fn shared_extents(a: &File, b: &File) -> Vec<Range<u64>> {
    let Ok(first) = shared_runs(a) else { return Vec::new() };
    if first.is_empty() {
        return Vec::new();
    }
    match shared_runs(b) {
        Ok(second) => same_blocks(&first, &second),
        Err(_) => Vec::new(),
    }
}

fn same_blocks(first: &[Run], second: &[Run]) -> Vec<Range<u64>> {
    let mut same: Vec<Range<u64>> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (first.get(i), second.get(j)) {
        let start = a.logical.start.max(b.logical.start);
        let end = a.logical.end.min(b.logical.end);
        let place = |run: &Run| run.physical.wrapping_add(start - run.logical.start);
        if start < end && place(a) == place(b) {
            match same.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => same.push(start..end),
            }
        }
        if a.logical.end <= b.logical.end { i += 1 } else { j += 1 }
    }
    same
}

/// The runs of written data that `file` shares with others, sorted.
fn shared_runs(file: &File) -> Result<Vec<Run>, Errno> {
    let mut runs = Vec::new();
    let mut map = Map { header: Header::default(), extents: [Extent::default(); BATCH] };
    let mut start = 0;
    loop {
        map.header =
            Header { start, length: u64::MAX - start, flags: FLAG_SYNC, count: BATCH as u32, ..Header::default() };
        // SAFETY: FIEMAP reads the header and writes at most `count` extents behind it; `Map` is laid out as the kernel's
        // structure with room for exactly `count` of them, and it outlives the call.
        unsafe { ioctl(file, Updater::<FIEMAP, Map>::new(&mut map))? };
        let found = &map.extents[..(map.header.mapped as usize).min(BATCH)];
        let Some(last) = found.last() else { return Ok(runs) };
        for extent in found {
            // Any other flag says that the place is unknown, or that it is not what reading gives.
            let plain = extent.flags & !(EXTENT_LAST | EXTENT_MERGED) == EXTENT_SHARED;
            if let (true, Some(end)) = (plain, extent.logical.checked_add(extent.length)) {
                runs.push(Run { logical: extent.logical..end, physical: extent.physical });
            }
        }
        let end = last.logical.saturating_add(last.length);
        if last.flags & EXTENT_LAST != 0 || end <= start {
            return Ok(runs);
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn runs(list: &[(u64, u64, u64)]) -> Vec<Run> {
        list.iter().map(|&(at, length, physical)| Run { logical: at..at + length, physical }).collect()
    }

    #[test]
    fn only_equal_places_are_the_same() {
        let a = runs(&[(0, 8, 100), (8, 8, 300), (32, 16, 500)]);
        let b = runs(&[(0, 12, 100), (16, 8, 900), (32, 4, 500), (36, 4, 900), (40, 8, 508)]);
        assert_eq!(same_blocks(&a, &b), [0..8, 32..36, 40..48]);
        assert!(same_blocks(&a, &[]).is_empty());
    }

    #[test]
    fn a_clone_shares_until_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let create =
            |name| File::options().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap();
        let (a, b) = (create("a"), create("b"));
        a.write_all_at(&[7; 64 << 10], 0).unwrap();
        if rustix::fs::ioctl_ficlone(&b, &a).is_err() {
            // No reflinks here: nothing may be called shared. `reflink` in tests/it runs on XFS.
            b.write_all_at(&[7; 64 << 10], 0).unwrap();
            assert!(shared_extents(&a, &b).is_empty());
            return;
        }
        assert_eq!(shared_extents(&a, &b).first(), Some(&(0..64 << 10)));
        b.write_all_at(&[8; 4 << 10], 16 << 10).unwrap();
        assert_eq!(shared_extents(&a, &b), [0..16 << 10, 20 << 10..64 << 10]);
    }
}
