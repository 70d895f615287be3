//! zstd frames (RFC 8878) as far as the engine looks into them: where a frame ends and how large its content is.

use std::io::{self, Read};

use crate::buffers::Buffer;

/// Room for a compressed frame of 4 MiB, as it usually is.
const USUAL: usize = 2 << 20;
const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE: u32 = 0x184D_2A50;
/// A frame that says it decompresses to at most this is decoded in one piece, others are streamed.
pub const MAX_PIECE: u64 = 8 << 20;
/// Largest window that a layer may ask for: 64 MiB.
pub const WINDOW_LOG_MAX: u32 = 26;

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

/// Reads the next frame, or its header.
pub fn next(reader: &mut impl Read) -> io::Result<Head> {
    let mut magic = [0; 4];
    if !read_or_end(reader, &mut magic)? {
        return Ok(Head::End);
    }
    let number = u32::from_le_bytes(magic);
    if number & 0xFFFF_FFF0 == SKIPPABLE {
        let mut size = [0; 4];
        reader.read_exact(&mut size)?;
        let size = u64::from(u32::from_le_bytes(size));
        if io::copy(&mut reader.take(size), &mut io::sink())? != size {
            return Err(invalid("a skippable frame is cut"));
        }
        return Ok(Head::Skippable);
    }
    if number != MAGIC {
        return Err(invalid("no frame begins here"));
    }
    let mut frame = Buffer::with_capacity(USUAL);
    frame.extend_from_slice(&magic);
    let descriptor = take(reader, &mut frame, 1)?[0];
    if descriptor & 0x08 != 0 {
        return Err(invalid("a reserved bit of a frame is set"));
    }
    let single = descriptor & 0x20 != 0;
    let checksum = descriptor & 0x04 != 0;
    let mut window = 0;
    if !single {
        let byte = take(reader, &mut frame, 1)?[0];
        let base = 1u64 << (10 + (byte >> 3));
        window = base + base / 8 * u64::from(byte & 7);
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    take(reader, &mut frame, dictionary)?;
    let field = match descriptor >> 6 {
        0 => usize::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let bytes = take(reader, &mut frame, field)?;
    let mut wide = [0; 8];
    wide[..field].copy_from_slice(&bytes);
    let content = match field {
        0 => None,
        2 => Some(u64::from_le_bytes(wide) + 256),
        _ => Some(u64::from_le_bytes(wide)),
    };
    match content {
        Some(content) if content <= MAX_PIECE && window <= MAX_PIECE => {
            blocks(reader, &mut frame, checksum, content)?;
            Ok(Head::Piece(frame, content as usize))
        }
        _ => Ok(Head::Stream(frame.to_vec())),
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

fn read_or_end(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(invalid("the stream is cut in a frame's magic")),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}
