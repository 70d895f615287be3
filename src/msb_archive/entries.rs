//! The grammar of an archive's tar: regular files, folders and old-GNU sparse files, long names. Everything else is
//! refused by name, for readers disagree on it.

use super::input::{Piece, Stream};
use crate::{
    error::{Error, Result},
    layer::{
        tar::TAR_BLOCK,
        walk::{MAX_END, MAX_NAMES, MAX_SEGMENTS, NAME_COST, check_fields, field, number},
    },
    model::path::MAX_PATH,
};

const BLOCK: usize = TAR_BLOCK as usize;
/// The name of an entry that holds the next one's.
const LONG_NAME: &[u8] = b"././@LongLink";

/// An entry's header.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name as it stands there.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum EntryKind {
    /// A folder, which holds nothing.
    Folder,
    /// A file.
    File(FileEntry),
}

/// A regular or sparse file.
#[derive(Debug)]
pub(super) struct FileEntry {
    /// Bytes in the archive.
    pub stored: u64,
    /// Logical size.
    pub size: u64,
    /// The sparse map, word for word, as (offset, length); none of a regular file.
    pub map: Option<Vec<[u64; 2]>>,
    /// Whether its owner may execute it.
    pub executable: bool,
}

impl FileEntry {
    /// The runs of the file that are stored, as (offset, length), without empty ones.
    pub fn runs(&self) -> Vec<[u64; 2]> {
        match &self.map {
            None if self.size == 0 => Vec::new(),
            None => vec![[0, self.size]],
            Some(map) => map.iter().copied().filter(|[_, length]| *length > 0).collect(),
        }
    }
}

/// Reads entry by entry. The data of each file has to be taken before the next header.
pub(super) struct Entries {
    stream: Stream,
    /// Data of the entry that was not taken yet.
    left: u64,
    padding: usize,
    names: u64,
    segments: usize,
}

impl Entries {
    /// Of this archive.
    pub fn new(stream: Stream) -> Self {
        Self { stream, left: 0, padding: 0, names: 0, segments: 0 }
    }

    /// How messages name the archive.
    pub fn name(&self) -> &str {
        self.stream.name()
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        self.stream.fail(reason)
    }

    /// The next entry; none after the end marker, behind which there is nothing.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        debug_assert_eq!(self.left, 0, "the data of an entry was not taken");
        self.skip_padding()?;
        let mut long_name = None;
        loop {
            let mut block = [0; BLOCK];
            if !self.stream.read(&mut block)? {
                return self.fail("it ends before its end marker");
            }
            if block.iter().all(|b| *b == 0) {
                if long_name.is_some() {
                    return self.fail("a long name belongs to no entry");
                }
                return self.end();
            }
            self.check_header(&block, long_name.is_some())?;
            let Some(size) = number(&block[124..136]).filter(|size| *size <= i64::MAX as u64) else {
                return self.fail("a header has a size that is no number");
            };
            if block[156] == b'L' {
                if long_name.is_some() || field(&block[..100]) != LONG_NAME {
                    return self.fail("a long name is not where it belongs");
                }
                long_name = Some(self.long_name(size)?);
                continue;
            }
            let name = match long_name {
                Some(name) => name,
                None => self.short_name(&block)?,
            };
            self.names += name.len() as u64 + NAME_COST;
            if self.names > MAX_NAMES {
                let what = format!("the length of all names in {} (and {NAME_COST} for each)", self.name());
                return Err(Error::Limit { what, value: self.names, limit: MAX_NAMES, hint: "" });
            }
            let kind = self.kind(&name, &block, size)?;
            return Ok(Some(Entry { name, kind }));
        }
    }

    /// The next of the entry's data; none when all has been taken.
    pub fn data(&mut self, most: u64) -> Result<Option<Piece>> {
        if self.left == 0 {
            return Ok(None);
        }
        match self.stream.piece(self.left.min(most))? {
            None => self.stream.cut_off(),
            Some(piece) => {
                self.left -= piece.bytes().len() as u64;
                Ok(Some(piece))
            }
        }
    }

    fn skip_padding(&mut self) -> Result<()> {
        let mut padding = [0; BLOCK];
        let padding = &mut padding[..std::mem::take(&mut self.padding)];
        if !self.stream.read(padding)? && !padding.is_empty() {
            return self.stream.cut_off();
        }
        if padding.iter().any(|b| *b != 0) {
            return self.fail("the padding after an entry is not zero");
        }
        Ok(())
    }

    /// Behind the first block of zeros.
    fn end(&mut self) -> Result<Option<Entry>> {
        let mut block = [0; BLOCK];
        if !self.stream.read(&mut block)? {
            return self.fail("it ends after a lone zero block");
        }
        if block.iter().any(|b| *b != 0) {
            return self.fail("a lone zero block stands between entries");
        }
        let mut zeros = 0;
        while let Some(piece) = self.stream.piece(u64::MAX)? {
            zeros += piece.bytes().len() as u64;
            if piece.bytes().iter().any(|b| *b != 0) {
                return self.fail("there is data after the end marker of the tar");
            }
            if zeros > MAX_END {
                return self.fail(format!("there are more than {MAX_END} zeros after the end marker"));
            }
        }
        Ok(None)
    }

    fn check_header(&self, block: &[u8; BLOCK], is_named: bool) -> Result<()> {
        let byte = |(i, b): (usize, &u8)| if (148..156).contains(&i) { 32 } else { u64::from(*b) };
        if number(&block[148..156]) != Some(block.iter().enumerate().map(byte).sum()) {
            return self.fail("a header has a bad checksum");
        }
        let mut block = *block;
        if is_named {
            // The long name counts for every reader, and msb leaves remains of it here.
            block[..100].fill(0);
        }
        check_fields(&block, block[156]).or_else(|reason| self.fail(reason))
    }

    fn long_name(&mut self, size: u64) -> Result<String> {
        if size == 0 || size > MAX_PATH as u64 + 1 {
            return self.fail(format!("a long name of {size} bytes is refused"));
        }
        let mut bytes = vec![0; size as usize];
        if !self.stream.read(&mut bytes)? {
            return self.stream.cut_off();
        }
        self.padding = padding(size);
        self.skip_padding()?;
        if bytes.pop() != Some(0) {
            return self.fail("a long name does not end with NUL");
        }
        self.text(bytes)
    }

    fn short_name(&self, block: &[u8; BLOCK]) -> Result<String> {
        let name = field(&block[..100]);
        let prefix = if &block[257..263] == b"ustar\0" { field(&block[345..500]) } else { &[] };
        self.text(if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() })
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String> {
        match String::from_utf8(bytes) {
            Ok(name) if !name.contains('\0') => Ok(name),
            _ => self.fail("an entry's name is not UTF-8"),
        }
    }

    fn kind(&mut self, name: &str, block: &[u8; BLOCK], size: u64) -> Result<EntryKind> {
        let executable = number(&block[100..108]).is_some_and(|mode| mode & 0o100 != 0);
        let file = match block[156] {
            b'5' if size == 0 => return Ok(EntryKind::Folder),
            b'0' | 0 => FileEntry { stored: size, size, map: None, executable },
            b'S' if &block[257..265] == b"ustar  \0" => {
                let Some(real) = number(&block[483..495]).filter(|size| *size <= i64::MAX as u64) else {
                    return self.fail(format!("the sparse file {name} has a size that is no number"));
                };
                let map = self.map(name, block)?;
                self.check_map(name, &map, size, real)?;
                FileEntry { stored: size, size: real, map: Some(map), executable }
            }
            other => {
                return self.fail(format!(
                    "the entry {name:?} has type {:?}; only regular files, folders and old-GNU sparse files are allowed",
                    char::from(other)
                ));
            }
        };
        (self.left, self.padding) = (size, padding(size));
        Ok(EntryKind::File(file))
    }

    /// The sparse map of a header and of the blocks behind it.
    fn map(&mut self, name: &str, block: &[u8; BLOCK]) -> Result<Vec<[u64; 2]>> {
        let mut map = Vec::new();
        let mut ended = self.slots(name, &block[386..482], &mut map)?;
        let mut more = block[482];
        while more != 0 {
            if more != 1 || ended {
                return self.fail(format!("the sparse map of {name} goes on after its end"));
            }
            let mut block = [0; BLOCK];
            if !self.stream.read(&mut block)? {
                return self.stream.cut_off();
            }
            ended = self.slots(name, &block[..504], &mut map)?;
            more = block[504];
        }
        Ok(map)
    }

    /// Takes in slots; whether one was empty, which ends the map.
    fn slots(&mut self, name: &str, slots: &[u8], map: &mut Vec<[u64; 2]>) -> Result<bool> {
        for (index, slot) in slots.chunks_exact(24).enumerate() {
            if slot[0] == 0 && slot[12] == 0 {
                // Some readers stop here, others read what follows.
                if slots[index * 24..].iter().any(|b| *b != 0) {
                    return self.fail(format!("the sparse map of {name} goes on after its end"));
                }
                return Ok(true);
            }
            let (Some(offset), Some(length)) = (number(&slot[..12]), number(&slot[12..])) else {
                return self.fail(format!("the sparse map of {name} has an entry that is no number"));
            };
            self.segments += 1;
            if self.segments > MAX_SEGMENTS {
                return self.fail(format!("the sparse maps up to that of {name} have over {MAX_SEGMENTS} segments"));
            }
            map.push([offset, length]);
        }
        Ok(false)
    }

    /// A map is sorted, its runs are whole blocks but for the last, their sum is what is stored, and it ends at the size.
    fn check_map(&self, name: &str, map: &[[u64; 2]], stored: u64, size: u64) -> Result<()> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for [offset, length] in map {
            if *length > 0 && sum % TAR_BLOCK != 0 {
                return self
                    .fail(format!("the sparse map of {name} has a run, not its last, that is not whole blocks"));
            }
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
            let (Some(next), Some(total)) = (next, sum.checked_add(*length)) else {
                return self.fail(format!("the sparse map of {name} overlaps, is not sorted or goes beyond its size"));
            };
            (end, sum) = (next, total);
        }
        if end != size || sum != stored {
            return self.fail(format!("the sparse map of {name} does not fit its size"));
        }
        Ok(())
    }
}

fn padding(size: u64) -> usize {
    (size.next_multiple_of(TAR_BLOCK) - size) as usize
}
