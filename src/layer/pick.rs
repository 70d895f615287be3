//! One small file out of a layer, without the rest of it.

use std::{
    io::{ErrorKind, Read},
    ops::Range,
    sync::Arc,
};

use super::{
    decode::{EncodedLayer, LayerEncoding},
    frame::MAX_WINDOW,
    walk::{Sink, Walker},
};
use crate::{
    error::{Error, Result},
    model::TarPath,
    zstd_input::ZstdReader,
};

/// Bytes that are unpacked at once.
const PIECE: usize = 128 << 10;

/// The file at `wanted`, as the layer has it over `beneath`; none where the layer does not hold it. It may have `limit`
/// bytes. What follows it is not read, and what is read is not verified: the caller knows what it must be.
///
/// # Errors
/// The layer cannot be decoded that far; [`Error::Limit`].
pub fn pick(
    layer: EncodedLayer<impl Read>,
    wanted: &TarPath,
    beneath: Vec<u8>,
    limit: u64,
    corrupt: &dyn Fn(std::io::Error) -> Error,
) -> Result<Option<Vec<u8>>> {
    let EncodedLayer { blob, encoding, context, most } = layer;
    let mut tar = unpacked(blob, encoding, most, corrupt)?;
    let mut sink = PickSink { wanted, limit, left: None, size: 0 };
    let mut walker = Walker::new(context.to_owned());
    let (mut piece, mut placements, mut bytes) = (vec![0; PIECE], Vec::new(), beneath);
    let mut unread = most;
    while sink.left != Some(0) && unread > 0 {
        let read = match tar.read(&mut piece) {
            Ok(0) => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read.map_err(corrupt)?,
        };
        unread = unread.saturating_sub(read as u64);
        walker.feed(&piece[..read], &mut sink, &mut placements)?;
        if sink.left.is_some() {
            bytes.resize(sink.size, 0);
        }
        for placement in placements.drain(..).filter(|placement| *placement.file) {
            let from = &piece[placement.bytes];
            // The walker places within the size that it was given.
            let at = placement.offset as usize;
            bytes[at..at + from.len()].copy_from_slice(from);
            sink.left = sink.left.map(|left| left.saturating_sub(from.len() as u64));
        }
    }
    Ok((sink.left == Some(0)).then_some(bytes))
}

/// A layer's tar, of at most `most` bytes.
pub(super) fn unpacked<'r>(
    blob: impl Read + 'r,
    encoding: LayerEncoding,
    most: u64,
    corrupt: &dyn Fn(std::io::Error) -> Error,
) -> Result<Box<dyn Read + 'r>> {
    // What is compressed takes little more than what it holds, unless it holds nothing.
    let blob = blob.take(most.saturating_add(most >> 6));
    Ok(match encoding {
        LayerEncoding::Plain => Box::new(blob),
        LayerEncoding::Zstd => Box::new(ZstdReader::new(blob, "a layer", MAX_WINDOW, "").map_err(corrupt)?),
    })
}

struct PickSink<'a> {
    wanted: &'a TarPath,
    limit: u64,
    /// Bytes of the file that have not come yet; none before it has begun.
    left: Option<u64>,
    size: usize,
}

impl Sink for PickSink<'_> {
    type File = bool;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<bool>> {
        if path == self.wanted {
            if size > self.limit {
                return Err(Error::Limit {
                    what: format!("the size of {path}"),
                    value: size,
                    limit: self.limit,
                    hint: "",
                });
            }
            self.left = Some(segments.map_or(size, |held| held.iter().map(|range| range.end - range.start).sum()));
            self.size = size as usize;
        }
        Ok(Arc::new(path == self.wanted))
    }
}
