//! Reading a tar: a walker that accepts a closed grammar, and blobs read in place.
//!
//! Tar readers disagree about all but the plainest files, so the walker accepts only what all of them read
//! alike, and refuses the rest by name.

use std::{collections::HashMap, io};

use tokio_tar::Header;

use super::{
    bytes::{Bytes, Cursor, Window},
    check_layout, wrong_size,
};
use crate::{
    digest::Digest,
    error::{Error, Result},
    model::{Descriptor, Index, TarPath, json::MAX_DOCUMENT},
    storage::{Blob, ReadOnlyStorage, Source},
    verify::VerifyReader,
};

const BLOCK: u64 = 512;
const MAX_ENTRIES: u64 = 1_000_000;
const MAX_PAX: u64 = 1 << 20;
/// Zeros after the end marker, at most: tars are padded to records of 10 KiB, tapes to more.
const MAX_PADDING: u64 = 1 << 20;
/// What changes how an entry is read; a reader that ignores one sees another archive.
const PAX_REFUSED: [&str; 4] = ["path", "size", "linkpath", "SCHILY.realsize"];

/// Whether a file that begins like this is a tar.
pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

type Place = (u64, u64);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Entry,
    /// After a pax header of one entry.
    EntryAfterPax,
    /// After the first zero block.
    SecondZero,
    /// After the end marker, which ends here.
    End(u64),
}

/// Walks a tar's headers, as far as its bytes are there.
pub(super) struct Walker {
    name: String,
    at: u64,
    count: u64,
    state: State,
    folders: [bool; 3],
    layout: Option<Place>,
    index: Option<Place>,
    blobs: HashMap<Digest, Place>,
}

impl Walker {
    /// Of the archive that messages call `name`.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            at: 0,
            count: 0,
            state: State::Entry,
            folders: [false; 3],
            layout: None,
            index: None,
            blobs: HashMap::new(),
        }
    }

    fn fail<T>(&self, entry: &str, reason: impl Into<String>) -> Result<T> {
        let entry: String = entry.chars().take(200).collect();
        Err(Error::bundle(format!("{}: entry {entry:?} at offset {}", self.name, self.at), reason))
    }

    fn fail_here<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::bundle(format!("{}: at offset {}", self.name, self.at), reason))
    }

    fn read(&self, cursor: &mut dyn Cursor, buffer: &mut [u8], offset: u64) -> Result<()> {
        cursor.read_exact_at(buffer, offset).map_err(|e| io_error(&self.name, e))
    }

    /// Walks over what is there: the first `available` bytes.
    pub(super) fn advance(&mut self, cursor: &mut dyn Cursor, available: u64) -> Result<()> {
        let mut block = [0; BLOCK as usize];
        while self.at < available {
            if let State::End(end) = self.state {
                let mut padding = vec![0; (64 << 10).min(available - self.at) as usize];
                self.read(cursor, &mut padding, self.at)?;
                if padding.iter().any(|b| *b != 0) {
                    return self.fail_here("there is data after the end of the archive");
                }
                self.at += padding.len() as u64;
                if self.at - end > MAX_PADDING {
                    return self.fail_here("there are more than 1 MiB of zeros after the end of the archive");
                }
                continue;
            }
            if available - self.at < BLOCK {
                return Ok(());
            }
            self.read(cursor, &mut block, self.at)?;
            let zero = block.iter().all(|b| *b == 0);
            match (self.state, zero) {
                (State::Entry, true) => {
                    self.state = State::SecondZero;
                    self.at += BLOCK;
                }
                (State::SecondZero, true) => {
                    self.at += BLOCK;
                    self.state = State::End(self.at);
                }
                (State::SecondZero, false) => return self.fail_here("an entry follows a lone zero block"),
                (State::EntryAfterPax, true) => return self.fail_here("a pax header belongs to no entry"),
                _ => {
                    if !self.entry(cursor, &block, available)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in one entry; `false` if its pax records are not there yet.
    fn entry(&mut self, cursor: &mut dyn Cursor, block: &[u8; BLOCK as usize], available: u64) -> Result<bool> {
        check_sum(block).or_else(|reason| self.fail_here(reason))?;
        let header = Header::from_byte_slice(block);
        if header.as_ustar().is_none() && header.as_gnu().is_none() {
            return self.fail_here("its header is neither a ustar nor a GNU header");
        }
        let raw = header.path_bytes();
        let shown = String::from_utf8_lossy(&raw).into_owned();
        // What is a prefix in the one format is something else in the other, and Python's tarfile reads it in both.
        if header.as_gnu().is_some() && matches!(block[156], b'0' | 0 | b'5') && block[345..].iter().any(|b| *b != 0) {
            return self.fail(&shown, "it has data in fields that a GNU header of a plain file leaves empty");
        }
        let size = match number(&block[124..136]) {
            Ok(size) => size,
            Err(reason) => return self.fail(&shown, format!("its size {reason}")),
        };
        let padded = size.checked_next_multiple_of(BLOCK).and_then(|p| p.checked_add(BLOCK));
        let Some(next) = padded.and_then(|p| self.at.checked_add(p)) else {
            return self.fail(&shown, "its size overflows");
        };
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(Error::Limit {
                what: format!("the number of entries of {}", self.name),
                value: self.count,
                limit: MAX_ENTRIES,
                hint: "",
            });
        }
        let pax = self.state == State::EntryAfterPax;
        match block[156] {
            kind @ (b'x' | b'g') => {
                if pax {
                    return self.fail(&shown, "a pax header follows a pax header");
                }
                if size > MAX_PAX {
                    return self.fail(&shown, format!("its pax records take {size} bytes, more than 1 MiB"));
                }
                if next > available {
                    self.count -= 1;
                    return Ok(false);
                }
                let mut records = vec![0; size as usize];
                self.read(cursor, &mut records, self.at + BLOCK)?;
                check_pax(&records).or_else(|reason| self.fail(&shown, reason))?;
                if kind == b'x' {
                    self.state = State::EntryAfterPax;
                }
            }
            kind @ (b'0' | 0 | b'5') => {
                // The first NUL ends a name for everyone, but what follows it might hide another.
                if block[..100].iter().skip_while(|b| **b != 0).any(|b| *b != 0) {
                    return self.fail(&shown, "its name goes on after a NUL");
                }
                let Ok(name) = std::str::from_utf8(&raw) else {
                    return self.fail(&shown, "its name is not UTF-8");
                };
                let place = (self.at + BLOCK, size);
                if kind == b'5' {
                    self.folder(name, size)?
                } else {
                    self.file(name, place)?
                }
                self.state = State::Entry;
            }
            kind => return self.fail(&shown, refusal(kind)),
        }
        self.at = next;
        Ok(true)
    }

    fn folder(&mut self, name: &str, size: u64) -> Result<()> {
        if size != 0 {
            return self.fail(name, "it is a folder with data");
        }
        let plain = name.strip_prefix("./").unwrap_or(name);
        let plain = plain.strip_suffix('/').unwrap_or(plain);
        let known = match plain {
            "" | "." if name.starts_with('.') => 0,
            "blobs" => 1,
            "blobs/sha256" => 2,
            _ => return self.fail(name, "such a folder does not belong into a layout"),
        };
        if std::mem::replace(&mut self.folders[known], true) {
            return self.fail(name, "it is there twice");
        }
        Ok(())
    }

    fn file(&mut self, name: &str, place: Place) -> Result<()> {
        let plain = name.strip_prefix("./").unwrap_or(name);
        let path = match plain.parse::<TarPath>() {
            Ok(path) => path,
            Err(Error::InvalidPath { reason, .. }) => return self.fail(name, reason),
            Err(e) => return Err(e),
        };
        let before = match path.as_str() {
            "oci-layout" => self.layout.replace(place),
            "index.json" => self.index.replace(place),
            other => {
                let hex = other.strip_prefix("blobs/sha256/").unwrap_or_default();
                let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else {
                    return self.fail(name, "such a file does not belong into a layout");
                };
                self.blobs.insert(digest, place)
            }
        };
        match before {
            None => Ok(()),
            Some(_) => self.fail(name, "it is there twice"),
        }
    }

    /// Ends the walk over an archive of `length` bytes.
    pub(super) fn finish(mut self, bytes: Box<dyn Bytes>) -> Result<TarSource> {
        let length = bytes.size();
        let (layout, index) = {
            let mut cursor = bytes.cursor().map_err(|e| io_error(&self.name, e))?;
            self.advance(&mut *cursor, length)?;
            match self.state {
                State::End(_) if self.at == length => {}
                State::SecondZero => return self.fail_here("the archive ends after a lone zero block"),
                _ => return Err(Error::bundle(&self.name, format!("it is cut off after {length} bytes"))),
            }
            let mut document = |place: Option<Place>, what: &str| -> Result<Vec<u8>> {
                let Some((at, size)) = place else {
                    return Err(Error::bundle(format!("{}: {what}", self.name), "it is missing"));
                };
                if size > MAX_DOCUMENT {
                    let what = format!("the size of {what} in {}", self.name);
                    return Err(Error::Limit { what, value: size, limit: MAX_DOCUMENT, hint: "" });
                }
                let mut out = vec![0; size as usize];
                cursor.read_exact_at(&mut out, at).map_err(|e| io_error(&self.name, e))?;
                Ok(out)
            };
            (document(self.layout, "oci-layout")?, document(self.index, "index.json")?)
        };
        check_layout(&layout, &format!("{}: oci-layout", self.name))?;
        let index = Index::parse(&index, &format!("{}: index.json", self.name))?;
        Ok(TarSource { name: self.name, bytes, blobs: self.blobs, index })
    }
}

/// Tells a failing disk from bytes that do not decode.
fn io_error(name: &str, error: io::Error) -> Error {
    match (error.raw_os_error(), error.kind()) {
        (None, io::ErrorKind::InvalidData) => Error::bundle(name, error.to_string()),
        (None, io::ErrorKind::UnexpectedEof) => Error::bundle(name, "it is cut off"),
        _ => Error::io("read", name, error),
    }
}

fn refusal(kind: u8) -> String {
    let what = match kind {
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' => "a character device",
        b'4' => "a block device",
        b'6' => "a FIFO",
        b'7' => "a contiguous file",
        b'K' => "a GNU long link name",
        b'L' => "a GNU long name",
        b'S' => "a GNU sparse file",
        other => return format!("it is of the unknown type {:?}", char::from(other)),
    };
    format!("it is {what}; a bundle holds plain files and folders only")
}

/// A number of a header: octal, or base-256 if its top bit is set.
fn number(field: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "is not a number";
    let value = match field {
        [0x80, high @ .., a, b, c, d, e, f, g, h] => {
            if high.iter().any(|b| *b != 0) {
                return Err("overflows");
            }
            u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])
        }
        [first, ..] if first & 0xc0 == 0xc0 => return Err("is negative"),
        [first, ..] if first & 0x80 != 0 => return Err("overflows"),
        _ => {
            let text = std::str::from_utf8(field).map_err(|_| BAD)?;
            let digits = text.trim_start_matches(' ').trim_end_matches(['\0', ' ']);
            if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'7')) {
                return Err(BAD);
            }
            u64::from_str_radix(digits, 8).map_err(|_| "overflows")?
        }
    };
    if i64::try_from(value).is_ok() { Ok(value) } else { Err("overflows") }
}

fn check_sum(block: &[u8; BLOCK as usize]) -> Result<(), String> {
    let stated = number(&block[148..156]).map_err(|reason| format!("its header checksum {reason}"))?;
    let field = 8 * u64::from(b' ');
    let sum: u64 = block[..148].iter().chain(&block[156..]).map(|b| u64::from(*b)).sum::<u64>() + field;
    if sum == stated { Ok(()) } else { Err(format!("its header checksum is {stated}, its bytes sum up to {sum}")) }
}

/// Checks that all records are well-formed (`LENGTH KEY=VALUE\n`) and none changes how the entry is read.
fn check_pax(mut records: &[u8]) -> Result<(), String> {
    while !records.is_empty() {
        let bad = || String::from("a pax record is malformed");
        let space = records.iter().take(8).position(|b| *b == b' ').ok_or_else(bad)?;
        let digits = std::str::from_utf8(&records[..space]).map_err(|_| bad())?;
        if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let length: usize = digits.parse().map_err(|_| bad())?;
        let record = records.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| bad())?;
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err(bad());
        }
        if PAX_REFUSED.contains(&key) || key.starts_with("GNU.sparse.") {
            return Err(format!("the pax record {key} changes how the entry is read; write it without pax"));
        }
        records = &records[length..];
    }
    Ok(())
}

/// A tar whose headers have been walked; its blobs are read in place.
pub(super) struct TarSource {
    name: String,
    bytes: Box<dyn Bytes>,
    blobs: HashMap<Digest, Place>,
    index: Index,
}

impl ReadOnlyStorage for TarSource {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blobs.get(&descriptor.digest).is_some_and(|(_, size)| *size == descriptor.size))
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        match self.blobs.get(&descriptor.digest) {
            None => Err(Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() }),
            Some((_, size)) if *size != descriptor.size => Err(wrong_size(descriptor, *size)),
            Some((at, size)) => {
                let cursor = self.bytes.cursor().map_err(|e| io_error(&self.name, e))?;
                Ok(VerifyReader::new(Box::new(Window::new(cursor, *at, *size)), descriptor))
            }
        }
    }
}

impl Source for TarSource {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        self.name.clone()
    }
}
