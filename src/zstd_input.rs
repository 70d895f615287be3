//! zstd streams of others (RFC 8878): how much memory a frame takes to be decoded is known from its header, and refused
//! there.

use std::io::{self, BufRead, BufReader, Read};

use zstd::{
    stream::raw::{Decoder, InBuffer, Operation, OutBuffer},
    zstd_safe::DParameter,
};

use crate::error::Error;

const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE: u32 = 0x184D_2A50;
/// The longest header that a frame has, in bytes.
pub const MAX_HEADER: usize = 18;

/// The largest window, in bytes: so much memory decoding may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxWindow(pub u64);

impl MaxWindow {
    /// What `zstd -d` takes without being told more (`zstd --long`).
    pub const USUAL: Self = Self(128 << 20);
    /// What the library can decode at all (`zstd --long=31`).
    pub const MOST: Self = Self(1 << LOG_MOST);

    /// The logarithm of the power of two that it is, or the next one.
    pub fn log(self) -> u32 {
        self.0.max(1).next_power_of_two().trailing_zeros().min(LOG_MOST)
    }
}

impl Default for MaxWindow {
    fn default() -> Self {
        Self::USUAL
    }
}

/// The logarithm of the largest window that the library decodes.
const LOG_MOST: u32 = if cfg!(target_pointer_width = "64") { 31 } else { 30 };

/// What is known of a frame before it is decoded.
#[derive(Debug)]
pub struct Header {
    /// The header's bytes, the magic number's among them.
    pub bytes: Vec<u8>,
    /// The window, in bytes.
    pub window: u64,
    /// The size of what it decodes to, if it says that.
    pub content: Option<u64>,
    /// Whether a checksum follows its blocks.
    pub checksum: bool,
}

/// What begins at a place of a stream.
#[derive(Debug)]
pub enum Begin {
    /// Nothing: the stream is over.
    End,
    /// A frame to pass over, which has been read.
    Skippable,
    /// A frame.
    Frame(Header),
}

impl Header {
    /// Refuses a window over `most`.
    ///
    /// # Errors
    /// [`Error::Limit`], which names the stream `name`, as an [`io::Error`].
    pub fn check_window(&self, most: MaxWindow, name: &str, hint: &'static str) -> io::Result<()> {
        if self.window <= most.0 {
            return Ok(());
        }
        let what = format!("the zstd window of {name}, in bytes,");
        Err(io::Error::other(Error::Limit { what, value: self.window, limit: most.0, hint }))
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {reason}"))
}

/// Reads the header of the next frame; a skippable one wholly.
///
/// # Errors
/// What the reader says, and what is no frame.
pub fn begin(reader: &mut impl Read) -> io::Result<Begin> {
    let mut magic = [0; 4];
    if !read_or_end(reader, &mut magic)? {
        return Ok(Begin::End);
    }
    let number = u32::from_le_bytes(magic);
    if number & 0xFFFF_FFF0 == SKIPPABLE {
        let mut size = [0; 4];
        reader.read_exact(&mut size)?;
        let size = u64::from(u32::from_le_bytes(size));
        if io::copy(&mut reader.take(size), &mut io::sink())? != size {
            return Err(invalid("a skippable frame is cut"));
        }
        return Ok(Begin::Skippable);
    }
    if number != MAGIC {
        return Err(invalid("no frame begins here"));
    }
    let mut bytes = Vec::with_capacity(MAX_HEADER);
    bytes.extend_from_slice(&magic);
    let mut field = |length: usize| -> io::Result<u64> {
        let mut wide = [0; 8];
        reader.read_exact(&mut wide[..length])?;
        bytes.extend_from_slice(&wide[..length]);
        Ok(u64::from_le_bytes(wide))
    };
    let descriptor = field(1)?;
    if descriptor & 0x08 != 0 {
        return Err(invalid("a reserved bit of a frame is set"));
    }
    let is_single = descriptor & 0x20 != 0;
    let mut window = 0;
    if !is_single {
        let byte = field(1)?;
        let base = 1u64 << (10 + (byte >> 3));
        window = base + base / 8 * (byte & 7);
    }
    field([0, 1, 2, 4][(descriptor & 3) as usize])?;
    let content = match descriptor >> 6 {
        0 if is_single => Some(field(1)?),
        0 => None,
        1 => Some(field(2)? + 256),
        2 => Some(field(4)?),
        _ => Some(field(8)?),
    };
    if is_single {
        window = content.unwrap_or_default();
    }
    Ok(Begin::Frame(Header { bytes, window, content, checksum: descriptor & 0x04 != 0 }))
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

/// Decodes a stream of frames, however many there are.
pub struct ZstdReader<R> {
    input: BufReader<R>,
    decoder: Decoder<'static>,
    name: String,
    most: MaxWindow,
    hint: &'static str,
    /// The header of the frame that has begun, as far as the decoder has not taken it yet.
    header: Vec<u8>,
    is_inside: bool,
}

impl<R: Read> ZstdReader<R> {
    /// Of the stream that messages call `name`; `hint` says which flag raises the largest window, beginning with a
    /// separator.
    ///
    /// # Errors
    /// There is no memory for a decoder.
    pub fn new(input: R, name: &str, most: MaxWindow, hint: &'static str) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        // The exact limit is ours.
        decoder.set_parameter(DParameter::WindowLogMax(LOG_MOST))?;
        let input = BufReader::with_capacity(256 << 10, input);
        Ok(Self { input, decoder, name: name.into(), most, hint, header: Vec::new(), is_inside: false })
    }

    /// Comes to the next frame; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            match begin(&mut self.input)? {
                Begin::End => return Ok(false),
                Begin::Skippable => {}
                Begin::Frame(header) => {
                    header.check_window(self.most, &self.name, self.hint)?;
                    self.decoder.reinit()?;
                    (self.header, self.is_inside) = (header.bytes, true);
                    return Ok(true);
                }
            }
        }
    }
}

impl<R: Read> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            if !self.is_inside && !self.next_frame()? {
                return Ok(0);
            }
            let from_header = !self.header.is_empty();
            let bytes = if from_header { self.header.as_slice() } else { self.input.fill_buf()? };
            let is_end = bytes.is_empty();
            let (mut input, mut output) = (InBuffer::around(bytes), OutBuffer::around(&mut *buffer));
            let left = self.decoder.run(&mut input, &mut output)?;
            let (taken, given) = (input.pos(), output.pos());
            if from_header {
                self.header.drain(..taken);
            } else {
                self.input.consume(taken);
            }
            self.is_inside = left != 0;
            if given > 0 {
                return Ok(given);
            }
            if self.is_inside && is_end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "zstd: a frame is cut"));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn content() -> Vec<u8> {
        (0..300_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    /// A frame with a window of so many bytes.
    fn frame(content: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(bytes: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let mut decoded = Vec::new();
        ZstdReader::new(bytes, "a.zst", MaxWindow(most), "; --x raises it")?.read_to_end(&mut decoded)?;
        Ok(decoded)
    }

    #[test]
    fn frames_of_all_kinds_are_one_stream() {
        let content = content();
        let skippable = [&SKIPPABLE.to_le_bytes()[..], &5u32.to_le_bytes(), b"12345"].concat();
        let single = zstd::bulk::compress(&content[..1000], 1).unwrap();
        let empty = zstd::bulk::compress(b"", 1).unwrap();
        let stream = [&skippable, &frame(&content, 18), &empty, &skippable, &single, &frame(&content, 20)];
        let stream: Vec<u8> = stream.into_iter().flatten().copied().collect();
        assert!(decoded(&stream, 1 << 20).unwrap() == [&content[..], &content[..1000], &content].concat());
        assert!(decoded(&[], 1).unwrap().is_empty());
        let two = stream.len();
        for cut in [1, 5, 9, 20, two / 3, two / 2, two - 1] {
            assert!(decoded(&stream[..cut], 1 << 20).is_err(), "cut at {cut}");
        }
        let garbage = [&stream[..], b"garbage"].concat();
        assert!(decoded(&garbage, 1 << 20).unwrap_err().to_string().contains("no frame begins here"));
    }

    #[test]
    fn window_over_the_limit_is_refused_with_its_size() {
        let content = content();
        let second = [frame(&content, 18), frame(&content, 21)].concat();
        for stream in [&frame(&content, 21), &second] {
            assert!(decoded(stream, 2 << 20).is_ok());
            let error = decoded(stream, (2 << 20) - 1).unwrap_err().downcast::<Error>().unwrap();
            let text = "the zstd window of a.zst, in bytes, is 2097152, over the limit of 2097151; --x raises it";
            assert_eq!(error.to_string(), text);
        }
        // A frame in one segment is its own window.
        let single = zstd::bulk::compress(&content[..1000], 1).unwrap();
        assert!(decoded(&single, 1000).is_ok());
        assert!(decoded(&single, 999).is_err());
    }
}
