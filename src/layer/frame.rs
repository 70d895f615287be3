//! zstd frames (RFC 8878) as far as the engine looks into them: where a frame ends and how large its content is.

use std::io::{self, Read};

use crate::{
    buffers::Buffer,
    zstd_input::{self, Begin, MaxWindow},
};

/// Room for a compressed frame of 4 MiB, as it usually is.
const USUAL: usize = 2 << 20;
/// A frame that says it decompresses to at most this is decoded in one piece, others are streamed.
pub const MAX_PIECE: u64 = 8 << 20;
/// Largest window that a layer may ask for.
pub const MAX_WINDOW: MaxWindow = MaxWindow::USUAL;

/// What stands at the head of a stream.
pub enum Head {
    /// Nothing: the stream is over.
    End,
    /// A frame to pass over.
    Skippable,
    /// A whole frame of at most [`MAX_PIECE`] bytes: its compressed bytes and its content's size.
    Piece(Buffer, usize),
    /// A frame that is larger, or does not say: the header's bytes, already read.
    Stream(Vec<u8>),
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {reason}"))
}

/// Reads the next frame, or its header. Messages call the stream `name`.
pub fn next(reader: &mut impl Read, name: &str) -> io::Result<Head> {
    let header = match zstd_input::begin(reader)? {
        Begin::End => return Ok(Head::End),
        Begin::Skippable => return Ok(Head::Skippable),
        Begin::Frame(header) => header,
    };
    header.check_window(MAX_WINDOW, name, "")?;
    match header.content {
        Some(content) if content <= MAX_PIECE && header.window <= MAX_PIECE => {
            let mut frame = Buffer::with_capacity(USUAL);
            frame.extend_from_slice(&header.bytes);
            blocks(reader, &mut frame, header.checksum, content)?;
            Ok(Head::Piece(frame, content as usize))
        }
        _ => Ok(Head::Stream(header.bytes)),
    }
}

/// Appends the frame's blocks; a frame whose blocks outgrow its content by far is refused.
fn blocks(reader: &mut impl Read, frame: &mut Vec<u8>, checksum: bool, content: u64) -> io::Result<()> {
    let most = content as usize + (content as usize >> 4) + (64 << 10);
    loop {
        let header = take(reader, frame, 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let size = (header >> 3) as usize;
        match header >> 1 & 3 {
            0 | 2 => take(reader, frame, size)?,
            1 => take(reader, frame, 1)?,
            _ => return Err(invalid("a block has the reserved type")),
        };
        if frame.len() > most {
            return Err(invalid("a frame is larger than its content allows"));
        }
        if header & 1 == 1 {
            break;
        }
    }
    if checksum {
        take(reader, frame, 4)?;
    }
    Ok(())
}

/// Reads `count` bytes behind `frame` and returns them; `count` is at most 2 MiB by the field it comes from.
fn take(reader: &mut impl Read, frame: &mut Vec<u8>, count: usize) -> io::Result<Vec<u8>> {
    let at = frame.len();
    if reader.by_ref().take(count as u64).read_to_end(frame)? != count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(if count <= 8 { frame[at..].to_vec() } else { Vec::new() })
}
