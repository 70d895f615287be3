//! What cannot be read in place is decompressed into an unlinked spool file first.

use std::{
    fs::File,
    io::{self, Cursor, Read},
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
    zstd_input::{self, Begin, MaxWindow},
};

/// What stays free in the spool's filesystem.
const RESERVE: u64 = 64 << 20;
/// The free space is asked for again after so many bytes: others write, too.
const INTERVAL: u64 = 64 << 20;
const BUFFER: usize = 256 << 10;
/// What to do about a window that is too large.
const HINT: &str = "; --max-window raises it";
/// What the zstd library says of a window that is too large (`ZSTD_error_frameParameter_windowTooLarge`).
const TOO_LARGE: &str = "Frame requires too much memory for decoding";

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
    mut head: Vec<u8>,
    mut input: File,
    compression: Compression,
    name: &str,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<TarSource> {
    if let Compression::Zstd(most) = compression {
        let missing = zstd_input::MAX_HEADER.saturating_sub(head.len());
        let got = Read::take(&mut input, missing as u64).read_to_end(&mut head).context("read", name)?;
        progress.advance(got as u64);
        if let Ok(Begin::Frame(header)) = zstd_input::begin(&mut head.as_slice()) {
            header.check_window(most, name, HINT).map_err(|error| unreadable(error, name, Some(most)))?;
        }
    }
    // Nobody else runs here, and a pipe is waited for by this thread: nothing is started that the system could refuse.
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("start a runtime for", name)?;
    let input = AsyncReadExt::chain(Cursor::new(head), Told { input, progress });
    let input = BufReader::with_capacity(BUFFER, input);
    let (walker, file, size) = runtime.block_on(async {
        match compression {
            Compression::None => copy(input, name, folder, None).await,
            Compression::Gzip => {
                let mut decoder = GzipDecoder::new(input);
                decoder.multiple_members(true);
                copy(decoder, name, folder, None).await
            }
            Compression::Zstd(most) => {
                let mut decoder = ZstdDecoder::with_params(input, &[DParameter::window_log_max(most.log())]);
                decoder.multiple_members(true);
                copy(decoder, name, folder, Some(most)).await
            }
        }
    })?;
    walker.finish(Box::new(PlainFile::new(file, size)))
}

/// Tells of every byte that is read, compressed as it is: that is what a pipe or a disk delivers.
struct Told<'a> {
    input: File,
    progress: &'a dyn Progress,
}

impl AsyncRead for Told<'_> {
    /// Waits for the bytes: the runtime has nothing else to do.
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let got = loop {
            match self.input.read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got?,
            }
        };
        buffer.advance(got);
        self.progress.advance(got as u64);
        Poll::Ready(Ok(()))
    }
}

async fn copy(
    input: impl AsyncRead,
    name: &str,
    folder: &Path,
    most: Option<MaxWindow>,
) -> Result<(Walker, File, u64)> {
    let mut input = std::pin::pin!(input);
    let file = tempfile::tempfile_in(folder).context("create a spool file in", folder)?;
    let mut walker = Walker::new(name);
    let mut buffer = vec![0; BUFFER];
    let (mut at, mut limit, mut asked) = (0_u64, room(&file, folder)?, 0_u64);
    loop {
        let got = input.read(&mut buffer).await.map_err(|error| unreadable(error, name, most))?;
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
fn unreadable(error: io::Error, name: &str, most: Option<MaxWindow>) -> Error {
    if let Some(most) = most
        && error.to_string().contains(TOO_LARGE)
    {
        let what = format!("the zstd window of a later frame of {name}, in bytes,");
        return Error::Limit { what, value: most.0.saturating_add(1), limit: most.0, hint: HINT };
    }
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
