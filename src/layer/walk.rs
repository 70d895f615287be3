//! The closed grammar of a layer's tar: regular files, directories and old-GNU sparse files at paths that the config
//! names. Everything else is refused by name: readers in the world disagree on it (CVE-2025-62518, CVE-2025-58183).
//!
//! The walker is fed the stream in order, in pieces of any size, and says which bytes go where; it copies only headers.

use std::{collections::HashSet, ops::Range, sync::Arc};

use super::tar::TAR_BLOCK;
use crate::{
    error::{Error, Result},
    model::TarPath,
};

/// Most segments that the sparse entries of a layer may have together.
pub const MAX_SEGMENTS: usize = 4 << 20;
/// Most that the names in a tar may cost, all of them together: each its bytes and [`NAME_COST`], for they are kept in
/// memory. Names of files are bounded by the config; those of folders, which other tools write, only by this.
pub const MAX_NAMES: u64 = 32 << 20;
/// What a name costs beside its bytes.
pub const NAME_COST: u64 = 64;
/// Most zeros after the end marker, in bytes: tars are padded to records of 10 KiB, tapes to more.
pub const MAX_END: u64 = 1 << 20;
const BLOCK: usize = TAR_BLOCK as usize;

/// An entry's place in the world: where its bytes are written.
pub trait Sink {
    /// What an entry is written to.
    type File: Send + Sync;

    /// A file begins: its path, logical size, and the segments that the layer holds of it (all, if `None`).
    ///
    /// # Errors
    /// Whatever makes the entry unacceptable: a path that the config does not name, a size over a limit.
    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<Self::File>>;
}

/// Bytes of a piece that belong into a file.
pub struct Placement<F> {
    /// Where to.
    pub file: Arc<F>,
    /// Offset in the file.
    pub offset: u64,
    /// The bytes, as a range of the piece that was fed.
    pub bytes: Range<usize>,
}

enum State<F> {
    /// A header block is being gathered.
    Header,
    /// The name of the next entry ('L').
    LongName { left: usize, name: Vec<u8>, padding: usize },
    /// Extension blocks of a sparse map.
    Map(PendingMap),
    /// Data of an entry.
    Data { file: Arc<F>, segments: std::vec::IntoIter<Range<u64>>, current: Range<u64>, padding: usize },
    /// Padding after data or a long name.
    Padding(usize),
    /// Behind the two zero blocks and so many more zeros.
    End(u64),
}

struct PendingMap {
    path: TarPath,
    real_size: u64,
    stored: u64,
    segments: Vec<Range<u64>>,
    /// An empty entry ended the map.
    ended: bool,
}

/// The state between pieces.
pub struct Walker<F> {
    state: State<F>,
    block: Vec<u8>,
    long_name: Option<Vec<u8>>,
    zero_blocks: usize,
    seen: HashSet<TarPath>,
    /// What the names in `seen` cost.
    names: u64,
    /// Segments in the maps of the entries that have begun, empty ones too.
    segments: usize,
    context: String,
}

impl<F: Send + Sync> Walker<F> {
    /// At the stream's beginning; `context` names the layer in errors.
    pub fn new(context: String) -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            long_name: None,
            zero_blocks: 0,
            seen: HashSet::new(),
            names: 0,
            segments: 0,
            context,
        }
    }

    /// The paths of all files that have begun.
    pub fn seen(&self) -> &HashSet<TarPath> {
        &self.seen
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::bundle(&self.context, reason))
    }

    /// Takes in the next piece.
    pub fn feed(&mut self, piece: &[u8], sink: &mut impl Sink<File = F>, out: &mut Vec<Placement<F>>) -> Result<()> {
        let mut at = 0;
        while at < piece.len() {
            let rest = &piece[at..];
            match &mut self.state {
                State::Header | State::Map(_) => {
                    let take = (BLOCK - self.block.len()).min(rest.len());
                    self.block.extend_from_slice(&rest[..take]);
                    at += take;
                    if self.block.len() == BLOCK {
                        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
                        self.block_done(&block, sink)?;
                    }
                }
                State::LongName { left, name, padding } => {
                    let take = (*left).min(rest.len());
                    name.extend_from_slice(&rest[..take]);
                    *left -= take;
                    at += take;
                    if *left == 0 {
                        let padding = *padding;
                        self.long_name = Some(std::mem::take(name));
                        self.state = pad(padding);
                    }
                }
                State::Data { file, segments, current, padding } => {
                    let take = ((current.end - current.start).min(rest.len() as u64)) as usize;
                    out.push(Placement { file: file.clone(), offset: current.start, bytes: at..at + take });
                    current.start += take as u64;
                    at += take;
                    if current.start == current.end {
                        match segments.next() {
                            Some(next) => *current = next,
                            None => self.state = pad(*padding),
                        }
                    }
                }
                State::Padding(left) => {
                    let take = (*left).min(rest.len());
                    if rest[..take].iter().any(|b| *b != 0) {
                        return self.fail("the padding after an entry is not zero");
                    }
                    *left -= take;
                    at += take;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::End(zeros) => {
                    *zeros += rest.len() as u64;
                    let many = *zeros > MAX_END;
                    if rest.iter().any(|b| *b != 0) {
                        return self.fail("there is data after the end marker of the tar");
                    }
                    if many {
                        return self.fail(format!("there are more than {MAX_END} zeros after the end marker"));
                    }
                    at = piece.len();
                }
            }
        }
        Ok(())
    }

    /// The stream is over.
    ///
    /// # Errors
    /// It ended before its end marker.
    pub fn finish(&self) -> Result<()> {
        match self.state {
            State::End(_) => Ok(()),
            _ => self.fail("the tar ends before its end marker"),
        }
    }

    fn block_done(&mut self, block: &[u8], sink: &mut impl Sink<File = F>) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Map(pending) => self.extension(pending, block, sink),
            _ => self.header(block, sink),
        }
    }

    fn header(&mut self, block: &[u8], sink: &mut impl Sink<File = F>) -> Result<()> {
        if block.iter().all(|b| *b == 0) {
            self.zero_blocks += 1;
            if self.zero_blocks == 2 {
                if self.long_name.is_some() {
                    return self.fail("a long name without an entry");
                }
                self.state = State::End(0);
            }
            return Ok(());
        }
        if self.zero_blocks == 1 {
            return self.fail("a lone zero block stands between entries");
        }
        let sum: u64 =
            block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
        if number(&block[148..156]) != Some(sum) {
            return self.fail("a header has a bad checksum");
        }
        let kind = block[156];
        check_fields(block, kind).or_else(|reason| self.fail(reason))?;
        let Some(size) = number(&block[124..136]) else {
            return self.fail("a header has a size that is no number");
        };
        if kind == b'L' {
            if self.long_name.is_some() || size == 0 || size > crate::model::path::MAX_PATH as u64 + 1 {
                return self.fail(format!("a long name of {size} bytes is refused"));
            }
            let left = size as usize;
            self.state = State::LongName { left, name: Vec::new(), padding: left.next_multiple_of(BLOCK) - left };
            return Ok(());
        }
        let path = self.path(block)?;
        match kind {
            b'5' if size == 0 => self.folder(&path),
            b'0' | 0 => {
                let path = self.file_path(&path)?;
                self.begin(PendingMap { path, real_size: size, stored: size, segments: Vec::new(), ended: false }, true, sink)
            }
            b'S' if &block[257..265] == b"ustar  \0" => {
                let Some(real_size) = number(&block[483..495]) else {
                    return self.fail(format!("the sparse file {path} has a size that is no number"));
                };
                let mut pending =
                    PendingMap { path: self.file_path(&path)?, real_size, stored: size, segments: Vec::new(), ended: false };
                self.map(&mut pending, &block[386..482])?;
                self.map_continues(pending, block[482], sink)
            }
            other => self.fail(format!(
                "the entry {path:?} has type {:?}; only regular files, directories and old-GNU sparse files are allowed",
                char::from(other)
            )),
        }
    }

    /// The entry's name as text; a trailing slash is a directory's.
    fn path(&mut self, block: &[u8]) -> Result<String> {
        let bytes = match self.long_name.take() {
            Some(mut name) => {
                if name.pop() != Some(0) {
                    return self.fail("a long name does not end with NUL");
                }
                name
            }
            None => {
                let name = field(&block[..100]);
                let prefix = if &block[257..263] == b"ustar\0" { field(&block[345..500]) } else { &[] };
                if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
            }
        };
        match String::from_utf8(bytes) {
            Ok(path) if !path.contains('\0') => Ok(path),
            _ => self.fail("an entry's name is not UTF-8"),
        }
    }

    /// A folder is ignored, but its name must be one, and no file's.
    fn folder(&mut self, text: &str) -> Result<()> {
        match text.strip_suffix('/').unwrap_or(text) {
            "." => Ok(()),
            plain => self.file_path(plain).map(drop),
        }
    }

    fn file_path(&mut self, text: &str) -> Result<TarPath> {
        let plain = text.strip_prefix("./").unwrap_or(text);
        let path: TarPath = match plain.parse() {
            Ok(path) => path,
            Err(Error::InvalidPath { path, reason, .. }) => {
                return Err(Error::InvalidPath { path, context: self.context.clone(), reason });
            }
            Err(other) => return Err(other),
        };
        self.names += path.as_str().len() as u64 + NAME_COST;
        if self.names > MAX_NAMES {
            return Err(Error::Limit {
                what: format!("the length of all names in {} (and {NAME_COST} for each)", self.context),
                value: self.names,
                limit: MAX_NAMES,
                hint: "",
            });
        }
        if !self.seen.insert(path.clone()) {
            return self.fail(format!("{path} is there twice"));
        }
        Ok(path)
    }

    fn map(&self, pending: &mut PendingMap, slots: &[u8]) -> Result<()> {
        let mut slots = slots.chunks_exact(24);
        for slot in slots.by_ref() {
            if slot[0] == 0 && slot[12] == 0 {
                pending.ended = true;
                break;
            }
            let (Some(offset), Some(length)) = (number(&slot[..12]), number(&slot[12..])) else {
                return self.fail(format!("the sparse map of {} has an entry that is no number", pending.path));
            };
            let end = offset.checked_add(length).filter(|end| *end <= pending.real_size);
            let last = pending.segments.last().map_or(0, |r| r.end);
            match end {
                Some(end) if offset >= last => {
                    if self.segments + pending.segments.len() == MAX_SEGMENTS {
                        return self.fail(format!(
                            "the sparse map of {} has over {MAX_SEGMENTS} segments, with those before it in the layer",
                            pending.path
                        ));
                    }
                    pending.segments.push(offset..end);
                }
                Some(_) => return self.fail(format!("the sparse map of {} overlaps or is not sorted", pending.path)),
                None => return self.fail(format!("the sparse map of {} goes beyond its size", pending.path)),
            }
        }
        // Some readers stop at the map's end, others read what stands behind it.
        if slots.any(|slot| slot.iter().any(|b| *b != 0)) {
            return self.fail(format!("the sparse map of {} goes on after its end", pending.path));
        }
        Ok(())
    }

    fn extension(&mut self, mut pending: PendingMap, block: &[u8], sink: &mut impl Sink<File = F>) -> Result<()> {
        self.map(&mut pending, &block[..504])?;
        self.map_continues(pending, block[504], sink)
    }

    fn map_continues(&mut self, mut pending: PendingMap, flag: u8, sink: &mut impl Sink<File = F>) -> Result<()> {
        match flag {
            0 => {
                self.segments += pending.segments.len();
                pending.segments.retain(|r| r.start < r.end);
                // GNU tar begins each segment at a block of its own, Python's tarfile where the one before ends.
                let before_last = pending.segments.len().saturating_sub(1);
                if pending.segments[..before_last].iter().any(|r| (r.end - r.start) % TAR_BLOCK != 0) {
                    return self.fail(format!(
                        "the sparse map of {} has a segment, not its last, that is not whole blocks of 512 bytes",
                        pending.path
                    ));
                }
                let total: u64 = pending.segments.iter().map(|r| r.end - r.start).sum();
                if total != pending.stored {
                    return self.fail(format!(
                        "the sparse map of {} holds {total} bytes, its entry {}",
                        pending.path, pending.stored
                    ));
                }
                self.begin(pending, false, sink)
            }
            1 if pending.ended => self.fail(format!("the sparse map of {} goes on after its end", pending.path)),
            1 => {
                self.state = State::Map(pending);
                Ok(())
            }
            _ => self.fail(format!("the sparse map of {} has a bad continuation flag", pending.path)),
        }
    }

    fn begin(&mut self, entry: PendingMap, whole: bool, sink: &mut impl Sink<File = F>) -> Result<()> {
        if entry.real_size > i64::MAX as u64 {
            return self.fail(format!("{} has an impossible size", entry.path));
        }
        let padding = (entry.stored.next_multiple_of(TAR_BLOCK) - entry.stored) as usize;
        let file = sink.begin(&entry.path, entry.real_size, (!whole).then_some(&entry.segments))?;
        let whole_range = 0..entry.real_size;
        let segments = if whole { vec![whole_range] } else { entry.segments };
        let mut segments = segments.into_iter();
        self.state = match segments.next() {
            Some(current) if current.start < current.end => State::Data { file, segments, current, padding },
            _ => State::Header,
        };
        Ok(())
    }
}

fn pad<F>(padding: usize) -> State<F> {
    if padding == 0 { State::Header } else { State::Padding(padding) }
}

/// Fields that readers take differently must be empty: what stands behind a name's NUL, and what is a prefix in the
/// one header format and something else in the other (Python's tarfile reads a GNU header's as a prefix).
pub fn check_fields(block: &[u8], kind: u8) -> std::result::Result<(), &'static str> {
    let empty = |range: Range<usize>| block[range].iter().all(|b| *b == 0);
    if block[..100].iter().skip_while(|b| **b != 0).any(|b| *b != 0) {
        return Err("an entry's name goes on after a NUL");
    }
    let unused = match &block[257..265] {
        b"ustar  \0" if kind == b'S' => empty(345..386) && empty(495..512),
        b"ustar  \0" => empty(345..512),
        [b'u', b's', b't', b'a', b'r', 0, ..] => {
            if block[345..500].iter().skip_while(|b| **b != 0).any(|b| *b != 0) {
                return Err("an entry's prefix goes on after a NUL");
            }
            empty(500..512)
        }
        _ => return Err("a header is neither a ustar nor a GNU header"),
    };
    if unused { Ok(()) } else { Err("a header has data in fields that its format leaves empty") }
}

/// A text field: what stands before its first NUL.
pub fn field(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

/// A tar number: octal digits with blanks before and blanks or NULs behind them, or base-256. Negative and overflowing ones are none.
pub fn number(field: &[u8]) -> Option<u64> {
    match field {
        // Fields of eight bytes, such as the checksum, have no room for it.
        [0x80, high @ .., a, b, c, d, e, f, g, h] => {
            return high.iter().all(|b| *b == 0).then(|| u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
        }
        [first, ..] if first & 0x80 != 0 => return None,
        _ => {}
    }
    let text = std::str::from_utf8(field).ok()?.trim_start_matches(' ').trim_end_matches([' ', '\0']);
    if text.is_empty() || !text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}
