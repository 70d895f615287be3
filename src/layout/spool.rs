//! What cannot be read in place is decompressed into an unlinked spool file first.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use async_compression::{
    tokio::bufread::{GzipDecoder, ZstdDecoder},
    zstd::DParameter,
};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};

use super::{
    bytes::PlainFile,
    tar::{TarSource, Walker},
};
use crate::{
    error::{Error, IoContext, Result},
    progress::Progress,
};

/// What stays free in the spool's filesystem.
const RESERVE: u64 = 64 << 20;
/// The free space is asked for again after so many bytes: others write, too.
const INTERVAL: u64 = 64 << 20;
/// The largest window of a zstd frame, as a power of two: 64 MiB of memory.
const WINDOW_LOG: u32 = 26;
const BUFFER: usize = 256 << 10;

/// How a stream is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
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
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("start a runtime for", name)?;
    let result = runtime.block_on(async {
        let input = Told { input: tokio::fs::File::from_std(input), progress };
        let input = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(input));
        match compression {
            Compression::None => copy(input, name, folder).await,
            Compression::Gzip => {
                let mut decoder = GzipDecoder::new(input);
                decoder.multiple_members(true);
                copy(decoder, name, folder).await
            }
            Compression::Zstd => {
                let mut decoder = ZstdDecoder::with_params(input, &[DParameter::window_log_max(WINDOW_LOG)]);
                decoder.multiple_members(true);
                copy(decoder, name, folder).await
            }
        }
    });
    // A read that still waits for a pipe must not keep us.
    runtime.shutdown_background();
    let (walker, file, size) = result?;
    walker.finish(Box::new(PlainFile::new(file, size)))
}

/// Tells of every byte that is read, compressed as it is: that is what a pipe or a disk delivers.
struct Told<'a> {
    input: tokio::fs::File,
    progress: &'a dyn Progress,
}

impl AsyncRead for Told<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.input).poll_read(context, buffer);
        self.progress.advance((buffer.filled().len() - before) as u64);
        polled
    }
}

async fn copy(input: impl AsyncRead, name: &str, folder: &Path) -> Result<(Walker, File, u64)> {
    let mut input = std::pin::pin!(input);
    let file = tempfile::tempfile_in(folder).context("create a spool file in", folder)?;
    let mut walker = Walker::new(name);
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut limit, mut asked) = (0_u64, room(&file, folder)?, 0_u64);
    loop {
        let got = input.read(&mut buffer).await.map_err(|e| match (e.raw_os_error(), e.kind()) {
            (Some(_), _) => Error::io("read", name, e),
            (None, io::ErrorKind::UnexpectedEof) => Error::bundle(name, "its compressed data is cut off"),
            (None, _) => Error::bundle(name, format!("its compressed data does not decode: {e}")),
        })?;
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

/// How many bytes may still go to the spool's filesystem.
fn room(file: &File, folder: &Path) -> Result<u64> {
    let status = rustix::fs::fstatvfs(file).context("ask for the free space of", folder)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize).saturating_sub(RESERVE))
}
