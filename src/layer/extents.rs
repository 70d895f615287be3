//! Where a sparse file has data, as its filesystem says (`lseek(2)`, SEEK_DATA and SEEK_HOLE).

use std::{fs::File, ops::Range, path::Path};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::error::{Error, Result};

/// The data extents of `file` below `size`, sorted, not touching. Holes may hide in them; data never outside them.
pub fn data_extents(file: &File, path: &Path, size: u64) -> Result<Vec<Range<u64>>> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A filesystem that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(std::iter::once(0..size).collect()),
            Err(e) => return Err(Error::io("seek for data in", path, e.into())),
        };
        if start >= size {
            break;
        }
        let end =
            seek(file, SeekFrom::Hole(start)).map_err(|e| Error::io("seek for a hole in", path, e.into()))?.min(size);
        if end <= start {
            return Err(Error::SourceChanged { path: path.into() });
        }
        match extents.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => extents.push(start..end),
        }
        at = end;
    }
    Ok(extents)
}

/// Two sorted lists as one, overlaps merged.
pub fn union(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = a.iter().chain(b).cloned().collect();
    all.sort_unstable_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The parts of the sorted `extents` that lie in none of the sorted `holes`.
pub fn without(extents: &[Range<u64>], holes: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for extent in extents {
        let mut at = extent.start;
        for hole in within(holes, extent) {
            if at < hole.start {
                left.push(at..hole.start);
            }
            at = hole.end;
        }
        if at < extent.end {
            left.push(at..extent.end);
        }
    }
    left
}

/// The parts of `extents` inside `window`.
pub fn within<'a>(extents: &'a [Range<u64>], window: &Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
    let window = window.clone();
    let first = extents.partition_point(|e| e.end <= window.start);
    extents[first..]
        .iter()
        .take_while(move |e| e.start < window.end)
        .map(move |e| e.start.max(window.start)..e.end.min(window.end))
}

/// Whether `range` lies in one of the sorted `extents`.
pub fn covered(extents: &[Range<u64>], range: &Range<u64>) -> bool {
    let at = extents.partition_point(|e| e.end <= range.start);
    extents.get(at).is_some_and(|e| e.start <= range.start && range.end <= e.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_without_holes() {
        let extents = [0..10, 20..30, 40..50];
        assert_eq!(without(&extents, &[]), extents);
        assert_eq!(
            without(&extents, &[0..3, 5..7, 9..22, 24..24, 28..45, 49..90]),
            [3..5, 7..9, 22..24, 24..28, 45..49]
        );
        assert!(without(&extents, std::slice::from_ref(&(0..60))).is_empty());
        assert!(without(&[], &extents).is_empty());
    }
}
