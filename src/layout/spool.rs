//! What cannot be read in place is decompressed into an unlinked spool file first.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use super::{
    bytes::PlainFile,
    tar::{TarSource, Walker},
};
use crate::{
    error::{Error, IoContext, Result},
    progress::Progress,
    zstd_input::{MaxWindow, ZstdReader},
};

/// What stays free in the spool's filesystem.
const RESERVE: u64 = 64 << 20;
/// The free space is asked for again after so many bytes: others write, too.
const INTERVAL: u64 = 64 << 20;
const BUFFER: usize = 256 << 10;

/// How a stream is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    /// It may ask for such a window.
    Zstd(MaxWindow),
}

/// Decompresses `head` and then `input` into a spool file, walking the tar as it arrives: what is not a tar of the
/// grammar fills no disk.
pub(super) fn spool(
    head: Vec<u8>,
    input: File,
    compression: Compression,
    name: &str,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<TarSource> {
    let input = Told { input, progress };
    let input = BufReader::with_capacity(BUFFER, Cursor::new(head).chain(input));
    let (walker, file, size) = match compression {
        Compression::None => copy(input, name, folder),
        Compression::Gzip => copy(MultiGzDecoder::new(input), name, folder),
        Compression::Zstd(window) => {
            let decoder = ZstdReader::new(input, name, window, "; --max-window raises it");
            copy(decoder.context("decode", name)?, name, folder)
        }
    }?;
    walker.finish(Box::new(PlainFile::new(file, size)))
}

/// Tells of every byte that is read, compressed as it is: that is what a pipe or a disk delivers.
struct Told<'a> {
    input: File,
    progress: &'a dyn Progress,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.progress.advance(got as u64);
        Ok(got)
    }
}

fn copy(mut input: impl Read, name: &str, folder: &Path) -> Result<(Walker, File, u64)> {
    let file = tempfile::tempfile_in(folder).context("create a spool file in", folder)?;
    let mut walker = Walker::new(name);
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut limit, mut asked) = (0_u64, room(&file, folder)?, 0_u64);
    loop {
        let got = match input.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            got => got.map_err(|error| unreadable(error, name))?,
        };
        if got == 0 {
            return Ok((walker, file, at));
        }
        let end = at + got as u64;
        if end - asked > INTERVAL {
            asked = at;
            limit = at.saturating_add(room(&file, folder)?);
        }
        if end > limit {
            return Err(Error::NoRoom {
                what: format!("the size of {name}, unpacked,"),
                needed: end,
                free: limit,
                path: folder.into(),
                hint: "; free space there, or unpack it to a directory first",
            });
        }
        file.write_all_at(&buffer[..got], at).context("write a spool file in", folder)?;
        at = end;
        walker.advance(&mut &file, at)?;
    }
}

/// What an error of a compressed stream is.
fn unreadable(error: io::Error, name: &str) -> Error {
    match (error.raw_os_error(), error.kind()) {
        (Some(_), _) => Error::io("read", name, error),
        (None, io::ErrorKind::UnexpectedEof) => Error::bundle(name, "its compressed data is cut off"),
        (None, _) => match error.downcast::<Error>() {
            Ok(limit) => limit,
            Err(error) => Error::bundle(name, format!("its compressed data does not decode: {error}")),
        },
    }
}

/// How many bytes may still go to the spool's filesystem.
fn room(file: &File, folder: &Path) -> Result<u64> {
    let status = rustix::fs::fstatvfs(file).context("ask for the free space of", folder)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize).saturating_sub(RESERVE))
}
