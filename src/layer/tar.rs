//! The tar stream of a layer as a plan: any range of it can be produced without producing what stands before.
//!
//! GNU headers, uid and gid 0, mtime 0, mode 0644 or 0755; old-GNU sparse entries (`docs/format.md`).

use std::{fs::File, ops::Range, path::PathBuf};

use tokio_tar::{EntryType, Header};

use super::{
    analyze::{FileView, SECTOR, read_exact_at, sector_sum},
    walk::MAX_SEGMENTS,
};
use crate::{
    error::{Error, Result},
    model::TarPath,
};

/// A tar block, in bytes.
pub const TAR_BLOCK: u64 = 512;
/// Segments in the header of a sparse entry.
const HEADER_SEGMENTS: usize = 4;
/// Segments in one extension block.
const EXTENSION_SEGMENTS: usize = 21;

/// One file of a layer, open.
pub struct PlannedFile {
    /// The entry's name.
    pub path: TarPath,
    /// Executable.
    pub executable: bool,
    /// Logical size, in bytes.
    pub size: u64,
    /// What the layer holds of it; `None`: everything, as a plain entry.
    pub segments: Option<Vec<Range<u64>>>,
    /// The sum that pass 1 took over what the layer holds.
    pub sum: u64,
    /// The source.
    pub file: File,
    /// How messages name the source.
    pub source: PathBuf,
}

/// Refuses a layer of `snapshot` with more segments than readers take.
///
/// # Errors
/// [`Error::Limit`].
pub fn check_segments(files: &[PlannedFile], snapshot: &str) -> Result<()> {
    // Readers count the last, empty entry of a map, too.
    let segments: usize = files.iter().filter_map(|file| file.segments.as_ref()).map(|s| s.len() + 1).sum();
    if segments <= MAX_SEGMENTS {
        return Ok(());
    }
    Err(Error::Limit {
        what: format!("the number of separate pieces of data in the files of {snapshot}"),
        value: segments as u64,
        limit: MAX_SEGMENTS as u64,
        hint: ": no reader would take it",
    })
}

struct Entry {
    /// Where the header begins in the stream.
    start: u64,
    header: Vec<u8>,
    /// Where each segment's data begins, counted from the entry's data, and where it stands in the file.
    segments: Vec<(u64, Range<u64>)>,
    data: u64,
    file: usize,
}

/// A layer's tar stream, ready to be read at any place.
pub struct TarPlan {
    entries: Vec<Entry>,
    files: Vec<PlannedFile>,
    length: u64,
}

impl TarPlan {
    /// Of these files, in their order (sorted by path, by the format's rule).
    pub fn new(mut files: Vec<PlannedFile>) -> Self {
        let mut entries = Vec::with_capacity(files.len());
        let mut start = 0;
        for (index, file) in files.iter_mut().enumerate() {
            let segments = file.segments.take();
            let header = header(file, segments.as_deref());
            let mut data = 0;
            let whole = std::iter::once(0..file.size).filter(|r| r.end > 0).collect();
            let segments = segments
                .unwrap_or(whole)
                .into_iter()
                .map(|range| {
                    let at = data;
                    data += range.end - range.start;
                    (at, range)
                })
                .collect();
            let length = header.len() as u64 + data.next_multiple_of(TAR_BLOCK);
            entries.push(Entry { start, header, segments, data, file: index });
            start += length;
        }
        Self { entries, files, length: start + 2 * TAR_BLOCK }
    }

    /// Bytes of the whole stream.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Never: there are always the two blocks of the end.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The files, for the comparison of sums.
    pub fn files(&self) -> &[PlannedFile] {
        &self.files
    }

    /// Fills `buffer` with the stream from `offset` on, and adds each file's sum over the sectors read to `sums`.
    /// `offset` is a multiple of 512.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8], sums: &mut [u64]) -> Result<()> {
        let end = offset + buffer.len() as u64;
        let first = self.entries.partition_point(|e| e.start <= offset).saturating_sub(1);
        buffer.fill(0);
        for entry in self.entries[first..].iter().take_while(|e| e.start < end) {
            let data_start = entry.start + entry.header.len() as u64;
            if let Some((from, to)) = overlap(entry.start..data_start, offset..end) {
                let header = &entry.header[(from - entry.start) as usize..(to - entry.start) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(header);
            }
            if let Some((from, to)) = overlap(data_start..data_start + entry.data, offset..end) {
                let part = &mut buffer[(from - offset) as usize..(to - offset) as usize];
                self.read_data(entry, from - data_start, part, &mut sums[entry.file])?;
            }
        }
        Ok(())
    }

    fn read_data(&self, entry: &Entry, mut at: u64, mut buffer: &mut [u8], sum: &mut u64) -> Result<()> {
        let file = &self.files[entry.file];
        let view = FileView { file: &file.file, path: &file.source, size: file.size };
        let first = entry.segments.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        for (start, range) in &entry.segments[first..] {
            if buffer.is_empty() {
                break;
            }
            let skip = at - start;
            let length = (range.end - range.start - skip).min(buffer.len() as u64);
            let (part, rest) = buffer.split_at_mut(length as usize);
            read_exact_at(view, part, range.start + skip)?;
            *sum = sum.wrapping_add(sector_sum(part, range.start + skip));
            at += length;
            buffer = rest;
        }
        Ok(())
    }
}

// Sums are by sector: a frame may cut the stream only where no sector of a file is cut.
const _: () = assert!(super::FRAME.is_multiple_of(SECTOR) && TAR_BLOCK as usize == SECTOR);

fn overlap(a: Range<u64>, b: Range<u64>) -> Option<(u64, u64)> {
    let (from, to) = (a.start.max(b.start), a.end.min(b.end));
    (from < to).then_some((from, to))
}

fn header(file: &PlannedFile, segments: Option<&[Range<u64>]>) -> Vec<u8> {
    let mut out = Vec::new();
    let name = file.path.as_str().as_bytes();
    let mut header = base_header(name, file.executable);
    if name.len() > 100 {
        let mut long = base_header(b"././@LongLink", false);
        long.set_entry_type(EntryType::GNULongName);
        long.set_size(name.len() as u64 + 1);
        long.set_cksum();
        out.extend_from_slice(long.as_bytes());
        out.extend_from_slice(name);
        out.resize(out.len() + 1, 0);
        out.resize(out.len().next_multiple_of(TAR_BLOCK as usize), 0);
    }
    let Some(segments) = segments else {
        header.set_size(file.size);
        header.set_entry_type(EntryType::Regular);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        return out;
    };
    // Readers learn the size from `realsize`; GNU tar also ends the map of a file that ends with a hole by an empty segment there.
    let mut map: Vec<(u64, u64)> = segments.iter().map(|r| (r.start, r.end - r.start)).collect();
    if segments.last().is_none_or(|last| last.end < file.size) {
        map.push((file.size, 0));
    }
    header.set_size(segments.iter().map(|r| r.end - r.start).sum());
    header.set_entry_type(EntryType::GNUSparse);
    let (first, rest) = map.split_at(map.len().min(HEADER_SEGMENTS));
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.realsize = number(file.size);
        gnu.isextended = [u8::from(!rest.is_empty())];
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(first) {
            slot.offset = number(*offset);
            slot.numbytes = number(*length);
        }
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    let mut blocks = rest.chunks(EXTENSION_SEGMENTS).peekable();
    while let Some(block) = blocks.next() {
        let at = out.len();
        out.resize(at + TAR_BLOCK as usize, 0);
        for (slot, (offset, length)) in out[at..].chunks_exact_mut(24).zip(block) {
            slot[..12].copy_from_slice(&number(*offset));
            slot[12..].copy_from_slice(&number(*length));
        }
        out[at + 24 * EXTENSION_SEGMENTS] = u8::from(blocks.peek().is_some());
    }
    out
}

fn base_header(name: &[u8], executable: bool) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let name = &name[..name.len().min(100)];
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header
}

/// Eleven octal digits and NUL, or base-256 where these do not suffice (8 GiB and over).
fn number(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if value < 1 << 33 {
        field[..11].copy_from_slice(format!("{value:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two files with so many segments together.
    fn with_segments(segments: usize) -> Vec<PlannedFile> {
        let half = segments / 2;
        let planned = |path: &str, segments: usize| PlannedFile {
            path: path.parse().unwrap(),
            executable: false,
            size: 8 * segments as u64,
            segments: Some((0..segments as u64).map(|n| 8 * n..8 * n + 4).collect()),
            sum: 0,
            file: tempfile::tempfile().unwrap(),
            source: path.into(),
        };
        vec![planned("a", half), planned("b", segments - half)]
    }

    /// What is written is never more than what is read: the limit is that of the reader, and of the layer.
    #[test]
    fn no_layer_has_more_segments_than_readers_take() {
        check_segments(&with_segments(MAX_SEGMENTS - 2), "web").unwrap();
        let error = check_segments(&with_segments(MAX_SEGMENTS - 1), "web").unwrap_err().to_string();
        let said = "the number of separate pieces of data in the files of web is 4194305, over the limit of 4194304";
        assert_eq!(error, format!("{said}: no reader would take it"));
    }
}
