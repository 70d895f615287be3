//! What cannot be read in place (a pipe, one big zstd frame, gzip) is unpacked into an unlinked file first.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
};

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{Kind, kind_of_head, outer::Outer, tar::TarLayout};
use crate::{
    error::{Error, IoContext, Result},
    storage::Source,
};

/// Free bytes that a spool leaves on its filesystem.
const RESERVE: u64 = 64 << 20;

/// Spools `file` into `folder` and opens the tar that it holds.
pub(super) fn open_stream(mut file: File, path: PathBuf, folder: &Path) -> Result<Box<dyn Source>> {
    // A regular file has been looked into by offset; a pipe cannot seek and need not.
    let _ = file.seek(SeekFrom::Start(0));
    let spool = tempfile::tempfile_in(folder).context("create a file in", folder)?;
    let stat = rustix::fs::fstatvfs(&spool).context("find the free space of", folder)?;
    let room = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_sub(RESERVE);
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("start a runtime for", &path)?;
    let spool = runtime.block_on(unpack(file, spool, room, &path))?;
    Ok(Box::new(TarLayout::open(Outer::plain(spool, path)?)?))
}

async fn unpack(file: File, spool: File, room: u64, path: &Path) -> Result<File> {
    let invalid = |e: std::io::Error| Error::bundle(path.display().to_string(), format!("it cannot be unpacked: {e}"));
    let mut input = BufReader::with_capacity(1 << 20, tokio::fs::File::from_std(file));
    // The kind shows in the first 512 bytes; a pipe may give fewer at once.
    let mut head = Vec::new();
    while head.len() < 512 {
        let some = input.fill_buf().await.context("read", path)?;
        if some.is_empty() {
            break;
        }
        let n = some.len().min(512 - head.len());
        head.extend_from_slice(&some[..n]);
        input.consume(n);
    }
    let kind = kind_of_head(&head);
    let input = BufReader::with_capacity(1 << 20, std::io::Cursor::new(head).chain(input));
    let mut reader: Box<dyn AsyncRead + Unpin> = match kind {
        Some(Kind::Tar) => Box::new(input),
        Some(Kind::Zstd) => {
            let limit = async_compression::zstd::DParameter::window_log_max(26);
            let mut decoder = ZstdDecoder::with_params(input, &[limit]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        Some(Kind::Gzip) => {
            let mut decoder = GzipDecoder::new(input);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        None => {
            return Err(Error::bundle(
                path.display().to_string(),
                "it is neither a layout directory, a tar nor a tar.zst",
            ));
        }
    };
    let mut output = tokio::fs::File::from_std(spool);
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0u64;
    loop {
        let n = reader.read(&mut buffer).await.map_err(invalid)?;
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > room {
            return Err(Error::Limit {
                what: format!("the unpacked size of {}", path.display()),
                value: total,
                limit: room,
                hint: ", which is the free space of the disk",
            });
        }
        output.write_all(&buffer[..n]).await.context("write the spool of", path)?;
    }
    output.flush().await.context("write the spool of", path)?;
    Ok(output.into_std().await)
}
