//! The outer tar, read in place by a closed grammar: plain files and folders of an OCI layout, nothing else.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use super::{BLOBS, check_oci_layout, outer::Outer, read_document};
use crate::{
    digest::Digest,
    error::{Error, Result},
    model::{Descriptor, Index},
    storage::{Blob, ReadOnlyStorage, Source},
    verify::VerifyReader,
};

const BLOCK: u64 = 512;
/// Most entries of the outer tar.
const MAX_ENTRIES: usize = 1_000_000;
/// Largest pax header that is read.
const MAX_PAX: u64 = 1 << 20;
/// Most zero bytes behind the end marker (GNU tar pads to 10 KiB, others further).
const MAX_TRAILER: u64 = 1 << 20;

pub(super) struct TarLayout {
    outer: Outer,
    blobs: HashMap<Digest, (u64, u64)>,
    index: Index,
}

impl TarLayout {
    pub(super) fn open(outer: Outer) -> Result<Self> {
        let entries = Walk { outer: &outer, at: 0 }.entries()?;
        let document = |name: &str| -> Result<Vec<u8>> {
            let (offset, size) = *entries.get(name).ok_or_else(|| {
                Error::bundle(outer.path.display().to_string(), format!("it has no {name}; it is no OCI layout"))
            })?;
            read_document(Section { outer: &outer, at: offset, end: offset + size }, size, name)
        };
        check_oci_layout(&document("oci-layout")?)?;
        let index = Index::parse(&document("index.json")?, "index.json")?;
        let mut blobs = HashMap::new();
        for (name, place) in &entries {
            if let Some(hex) = name.strip_prefix(BLOBS) {
                blobs.insert(format!("sha256:{hex}").parse()?, *place);
            }
        }
        Ok(Self { outer, blobs, index })
    }
}

/// A part of the outer tar as a reader.
struct Section<'a> {
    outer: &'a Outer,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = (self.end - self.at).min(buffer.len() as u64) as usize;
        let n = self.outer.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

struct Walk<'a> {
    outer: &'a Outer,
    at: u64,
}

impl Walk<'_> {
    fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::bundle(self.outer.path.display().to_string(), reason))
    }

    fn block(&mut self) -> Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.outer.read_exact_at(&mut block, self.at)?;
        self.at += BLOCK;
        Ok(block)
    }

    /// Name -> (offset, size) of every file.
    fn entries(mut self) -> Result<HashMap<String, (u64, u64)>> {
        let mut entries = HashMap::new();
        loop {
            let block = self.block()?;
            if block.iter().all(|b| *b == 0) {
                if self.block()?.iter().any(|b| *b != 0) {
                    return self.fail("a lone zero block stands between entries of its tar");
                }
                self.trailer()?;
                return Ok(entries);
            }
            let (name, kind, size) = self.header(&block)?;
            let end = self.at.checked_add(size).filter(|end| *end <= self.outer.length);
            let Some(end) = end else { return self.fail(format!("the entry {name:?} is cut short")) };
            match kind {
                b'0' | 0 => {
                    self.check_name(&name)?;
                    if entries.len() == MAX_ENTRIES {
                        return self.fail(format!("its tar has over {MAX_ENTRIES} entries"));
                    }
                    if entries.insert(name.clone(), (self.at, size)).is_some() {
                        return self.fail(format!("the entry {name:?} is there twice"));
                    }
                }
                b'5' if size == 0 => {
                    if !matches!(name.trim_end_matches('/'), "" | "." | "blobs" | "blobs/sha256") {
                        return self.fail(format!("the folder {name:?} does not belong into an OCI layout"));
                    }
                }
                b'x' | b'g' => self.pax(size)?,
                other => {
                    return self.fail(format!(
                        "the entry {name:?} has type {:?}; only regular files and directories are allowed",
                        char::from(other)
                    ));
                }
            }
            self.at = end.next_multiple_of(BLOCK);
        }
    }

    fn header(&self, block: &[u8; BLOCK as usize]) -> Result<(String, u8, u64)> {
        let sum: u64 =
            block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
        if number(&block[148..156]) != Some(sum) {
            return self.fail("a header of its tar has a bad checksum");
        }
        let Some(size) = number(&block[124..136]) else {
            return self.fail("a header of its tar has a size that is no number");
        };
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            String::from_utf8(bytes[..end].to_vec()).ok()
        };
        let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { Some(String::new()) };
        let (Some(name), Some(prefix)) = (text(&block[..100]), prefix) else {
            return self.fail("an entry's name is not UTF-8");
        };
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let plain = name.strip_prefix("./").unwrap_or(&name);
        Ok((plain.to_owned(), block[156], size))
    }

    fn check_name(&self, name: &str) -> Result<()> {
        let blob = name.strip_prefix(BLOBS).map(|hex| format!("sha256:{hex}").parse::<Digest>());
        match blob {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None if matches!(name, "oci-layout" | "index.json") => Ok(()),
            None => self.fail(format!(
                "the entry {:?} does not belong into an OCI layout",
                name.chars().take(200).collect::<String>()
            )),
        }
    }

    /// A pax header may say times and owners; nothing that changes what an entry is.
    fn pax(&self, size: u64) -> Result<()> {
        if size > MAX_PAX {
            return self.fail(format!("a pax header has {size} bytes, over the limit of {MAX_PAX}"));
        }
        let mut bytes = vec![0; size as usize];
        self.outer.read_exact_at(&mut bytes, self.at)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let record = rest
                .iter()
                .position(|b| *b == b' ')
                .and_then(|space| Some((space, std::str::from_utf8(&rest[..space]).ok()?.parse::<usize>().ok()?)))
                .filter(|(space, length)| *length > space + 2 && *length <= rest.len() && rest[length - 1] == b'\n');
            let Some((space, length)) = record else { return self.fail("a pax record is malformed") };
            let body = &rest[space + 1..length - 1];
            let Some(equals) = body.iter().position(|b| *b == b'=') else {
                return self.fail("a pax record is malformed");
            };
            let key = String::from_utf8_lossy(&body[..equals]);
            if matches!(&*key, "path" | "size" | "linkpath") || key.starts_with("GNU.sparse") {
                return self.fail(format!("the pax record {key:?} is refused: readers disagree on it"));
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    fn trailer(&mut self) -> Result<()> {
        let left = self.outer.length - self.at;
        if left > MAX_TRAILER {
            return self.fail(format!("{left} bytes follow the end marker of its tar"));
        }
        let mut rest = vec![0; left as usize];
        self.outer.read_exact_at(&mut rest, self.at)?;
        if rest.iter().any(|b| *b != 0) {
            return self.fail("there is data after the end marker of its tar");
        }
        Ok(())
    }
}

/// Octal digits with blanks or NULs around them, or base-256; negative and overflowing ones are none.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (head, tail) = field.split_at(field.len() - 8);
        if head.first() != Some(&0x80) || head[1..].iter().any(|b| *b != 0) {
            return None;
        }
        return Some(u64::from_be_bytes(tail.try_into().ok()?)).filter(|n| *n <= i64::MAX as u64);
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() || !text.bytes().all(|b| matches!(b, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

impl ReadOnlyStorage for TarLayout {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.blobs.get(&descriptor.digest).is_some_and(|(_, size)| *size == descriptor.size))
    }

    fn fetch<'a>(&'a self, descriptor: &Descriptor) -> Result<Blob<'a>> {
        match self.blobs.get(&descriptor.digest) {
            None => Err(Error::MissingBlob { digest: descriptor.digest, role: descriptor.media_type.clone() }),
            Some((_, size)) if *size != descriptor.size => Err(Error::CorruptBlob {
                digest: descriptor.digest,
                reason: format!("it has {size} bytes, its descriptor says {}", descriptor.size),
            }),
            Some((offset, size)) => {
                let section = Section { outer: &self.outer, at: *offset, end: offset + size };
                Ok(VerifyReader::new(Box::new(section), descriptor))
            }
        }
    }
}

impl Source for TarLayout {
    fn index(&self) -> &Index {
        &self.index
    }

    fn display(&self) -> String {
        self.outer.path.display().to_string()
    }
}
