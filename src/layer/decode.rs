//! A layer's bytes back into files: frames are decompressed and written in parallel, walked in order.
//!
//! One thread reads (and thereby verifies) the blob and cuts it at frames; workers decompress a frame, wait for its
//! turn to walk it, and write its placements while others walk on. A frame that is too large or of unknown size
//! (another tool's) is decompressed by the reading thread and handed on in pieces. Memory is bounded by `jobs`.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, Cursor, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    FRAME,
    clone::Receive,
    frame::{self, Head, MAX_WINDOW},
    pick::unpacked,
    runs::{Held, runs},
    walk::{Placement, Sink, Walker},
};
use crate::{
    buffers::Buffer,
    error::{Error, IoContext, MAX_BYTES_HINT, Result},
    model::TarPath,
    progress::Progress,
    workers,
    writeback::{WRITEBACK_EVERY, Writeback},
};

/// A layer may have so many zstd frames, skippable ones too, and one more for every [`CONTENT_OF_A_FRAME`] that they hold:
/// each costs time beside that of its content, and nine bytes of blob are one that holds nothing. (We write frames of
/// 4 MiB; `pzstd` puts a skippable one before each of its own.)
pub const MAX_FRAMES: u64 = 1 << 16;
/// Bytes unpacked that allow for one more frame.
pub const CONTENT_OF_A_FRAME: u64 = 4 << 10;

/// A file that a layer is decoded into.
pub struct OutputFile {
    /// Open for writing.
    pub file: File,
    /// How messages name it.
    pub path: PathBuf,
    /// Whether zeros may be left out because the file is a hole wherever the layer writes.
    pub fresh: bool,
    /// Makes it durable while it is written.
    pub writeback: Option<Arc<Writeback>>,
    /// Bytes written since the writeback was asked last.
    pub unsynced: AtomicU64,
    /// How much data it may take.
    pub budget: Budget,
}

/// Bytes that are not in zero blocks, as they may still be written to a file: what the file table declares of it, so
/// that a layer that holds more fails while it arrives, not when the disk is full.
#[derive(Debug)]
pub struct Budget {
    declared: u64,
    left: AtomicU64,
}

impl Budget {
    /// So many bytes; [`u64::MAX`] is no limit.
    pub fn new(declared: u64) -> Self {
        Self { declared, left: AtomicU64::new(declared) }
    }

    fn spend(&self, bytes: u64, path: &Path) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(left) => Err(Error::Limit {
                what: format!("the data of {}, as the file table declares it,", path.display()),
                value: (self.declared - left).saturating_add(bytes),
                limit: self.declared,
                hint: "",
            }),
        }
    }
}

/// What an entry's data is given to, in pieces, from many threads.
pub trait Place: Send + Sync {
    /// Takes in `bytes`, which stand at `offset` of the file.
    ///
    /// # Errors
    /// They cannot be kept.
    fn place(&self, bytes: &[u8], offset: u64) -> Result<()>;
}

impl Receive for OutputFile {
    fn file(&self) -> &File {
        &self.file
    }

    fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for writeback when there is enough of it.
    fn written(&self, bytes: u64) -> Result<()> {
        let Some(writeback) = &self.writeback else { return Ok(()) };
        if self.unsynced.fetch_add(bytes, Ordering::Relaxed) + bytes >= WRITEBACK_EVERY {
            self.unsynced.store(0, Ordering::Relaxed);
            writeback.request(&self.file).context("fsync", &self.path)?;
        }
        Ok(())
    }
}

impl Place for OutputFile {
    fn place(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.write(bytes, offset)?;
        self.written(bytes.len() as u64)
    }
}

impl OutputFile {
    /// Runs of blocks that are not zero are written at once; runs of zero blocks stay or become holes at once.
    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        for (run, held) in runs(bytes, offset) {
            let at = offset + run.start as u64;
            if held == Held::Data || !self.leave_out(at, run.len()) {
                self.run(&bytes[run], at)?;
            }
        }
        Ok(())
    }

    fn run(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.budget.spend(bytes.len() as u64, &self.path)?;
        self.file.write_all_at(bytes, offset).context("write", &self.path)
    }

    /// Whether zeros need not be written: they are a hole, or have become one. A part of a block is zeroed in place.
    fn leave_out(&self, offset: u64, length: usize) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fresh || fallocate(&self.file, flags, offset, length as u64).is_ok()
    }
}

/// How a layer's blob holds its tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerEncoding {
    /// zstd frames.
    Zstd,
    /// As it is.
    Plain,
}

enum Piece {
    Frame(Buffer, usize),
    Plain(Buffer),
}

struct Turn<'a, S: Sink> {
    next: u64,
    walker: Walker<S::File>,
    sink: &'a mut S,
    error: Option<Error>,
}

struct Shared<'a, S: Sink> {
    turn: Mutex<Turn<'a, S>>,
    changed: Condvar,
}

impl<'a, S: Sink> Shared<'a, S> {
    fn lock(&self) -> MutexGuard<'_, Turn<'a, S>> {
        self.turn.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn fail(&self, error: Error) {
        self.lock().error.get_or_insert(error);
        self.changed.notify_all();
    }

    fn failed(&self) -> bool {
        self.lock().error.is_some()
    }
}

/// A layer's blob and what is known of it.
pub struct EncodedLayer<'a, R> {
    /// The bytes; verified as they are read.
    pub blob: R,
    /// How they hold the tar.
    pub encoding: LayerEncoding,
    /// How messages name the layer.
    pub context: &'a str,
    /// Most bytes that the tar may have.
    pub most: u64,
}

/// Decodes `layer` into `sink`.
///
/// # Errors
/// Everything that makes the layer unacceptable; `corrupt` turns a read error of the blob into the library's.
pub fn decode<S: Sink<File: Place> + Send>(
    layer: EncodedLayer<impl Read + Send>,
    sink: &mut S,
    jobs: usize,
    corrupt: &(dyn Fn(std::io::Error) -> Error + Sync),
    progress: &dyn Progress,
) -> Result<()> {
    let jobs = jobs.max(1);
    let EncodedLayer { blob, encoding, context, most } = layer;
    let shared = Shared {
        turn: Mutex::new(Turn { next: 0, walker: Walker::new(context.to_owned()), sink, error: None }),
        changed: Condvar::new(),
    };
    let (sender, receiver) = mpsc::sync_channel::<(u64, Piece)>(jobs);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let started = workers::start(scope, jobs, || worker(&receiver, &shared, context, progress));
        if let Err(error) = started.context("start a thread for", context) {
            return shared.fail(error);
        }
        let mut feeder = Feeder { sender, count: 0, left: most, most, frames: 0, context };
        if let Err(error) = feeder.run(blob, encoding, corrupt, || shared.failed()) {
            shared.fail(error);
        }
        drop(feeder);
    });
    let mut turn = shared.turn.into_inner().unwrap_or_else(|e| e.into_inner());
    match turn.error.take() {
        Some(error) => Err(error),
        None => turn.walker.finish(),
    }
}

/// The logical sizes and the segments of files.
pub type SparseMaps = HashMap<TarPath, (u64, Vec<Range<u64>>)>;

/// The sizes and segments of the files in `wanted`, as the layer's tar has them; what follows the last one is not read, and
/// what is read is not verified.
///
/// # Errors
/// The layer cannot be decoded that far.
pub fn sparse_maps(
    layer: EncodedLayer<impl Read>,
    wanted: &HashSet<TarPath>,
    corrupt: &dyn Fn(std::io::Error) -> Error,
) -> Result<SparseMaps> {
    let EncodedLayer { blob, encoding, context, most } = layer;
    let mut tar = unpacked(blob, encoding, most, corrupt)?;
    let mut sink = MapSink { wanted, found: HashMap::new() };
    let mut walker = Walker::new(context.to_owned());
    let (mut piece, mut placements, mut left) = (vec![0; 128 << 10], Vec::new(), most);
    while sink.found.len() < wanted.len() && left > 0 {
        let read = match tar.read(&mut piece) {
            Ok(0) => break,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(corrupt)?,
        };
        walker.feed(&piece[..read], &mut sink, &mut placements)?;
        placements.clear();
        left = left.saturating_sub(read as u64);
    }
    Ok(sink.found)
}

struct MapSink<'a> {
    wanted: &'a HashSet<TarPath>,
    found: SparseMaps,
}

impl Sink for MapSink<'_> {
    type File = ();

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<()>> {
        if self.wanted.contains(path) {
            let whole = 0..size;
            self.found.insert(path.clone(), (size, segments.map_or_else(|| vec![whole], <[_]>::to_vec)));
        }
        Ok(Arc::new(()))
    }
}

struct Feeder<'a> {
    sender: mpsc::SyncSender<(u64, Piece)>,
    count: u64,
    left: u64,
    most: u64,
    frames: u64,
    context: &'a str,
}

impl Feeder<'_> {
    fn run(
        &mut self,
        blob: impl Read,
        encoding: LayerEncoding,
        corrupt: &dyn Fn(std::io::Error) -> Error,
        failed: impl Fn() -> bool,
    ) -> Result<()> {
        let mut blob = BufReader::with_capacity(1 << 20, blob);
        if encoding == LayerEncoding::Plain {
            return self.pieces(&mut blob, corrupt);
        }
        while !failed() {
            match frame::next(&mut blob, self.context).map_err(corrupt)? {
                Head::End => break,
                Head::Skippable => self.frame(0)?,
                Head::Piece(bytes, content) => {
                    self.frame(content as u64)?;
                    if !self.send(Piece::Frame(bytes, content)) {
                        break;
                    }
                }
                Head::Stream(header) => {
                    let chained = BufReader::with_capacity(1 << 20, Cursor::new(header).chain(&mut blob));
                    // The buffer in front of the decoder may read past the frame: whatever it holds is put back in front.
                    let mut decoder =
                        zstd::stream::read::Decoder::with_buffer(chained).map_err(corrupt)?.single_frame();
                    // Its header has been looked at.
                    decoder.window_log_max(MAX_WINDOW.log()).map_err(corrupt)?;
                    self.pieces(&mut decoder, corrupt)?;
                    let chained = decoder.finish();
                    let rest = chained.buffer().to_vec();
                    drop(chained);
                    return self.run_rest(rest, blob, corrupt, failed);
                }
            }
        }
        Ok(())
    }

    fn run_rest(
        &mut self,
        rest: Vec<u8>,
        mut blob: impl Read,
        corrupt: &dyn Fn(std::io::Error) -> Error,
        failed: impl Fn() -> bool,
    ) -> Result<()> {
        // A dynamic reader: each large frame nests one level, and the count of large frames is bounded by `most`.
        let mut chained: Box<dyn Read + '_> = Box::new(Cursor::new(rest).chain(&mut blob));
        while !failed() {
            match frame::next(&mut chained, self.context).map_err(corrupt)? {
                Head::End => break,
                Head::Skippable => self.frame(0)?,
                Head::Piece(bytes, content) => {
                    self.frame(content as u64)?;
                    if !self.send(Piece::Frame(bytes, content)) {
                        break;
                    }
                }
                Head::Stream(_) => {
                    return Err(Error::bundle(self.context, "it has more than one zstd frame of over 8 MiB"));
                }
            }
        }
        Ok(())
    }

    fn pieces(&mut self, reader: &mut impl Read, corrupt: &dyn Fn(std::io::Error) -> Error) -> Result<()> {
        loop {
            let mut piece = Buffer::with_capacity(FRAME);
            reader.by_ref().take(FRAME as u64).read_to_end(&mut piece).map_err(corrupt)?;
            if piece.is_empty() {
                return Ok(());
            }
            self.spend(piece.len() as u64)?;
            if !self.send(Piece::Plain(piece)) {
                return Ok(());
            }
        }
    }

    /// Counts a frame with so much content.
    fn frame(&mut self, content: u64) -> Result<()> {
        self.spend(content)?;
        self.frames += 1;
        let limit = MAX_FRAMES + (self.most - self.left) / CONTENT_OF_A_FRAME;
        if self.frames > limit {
            return Err(Error::Limit {
                what: format!("the number of zstd frames of {}", self.context),
                value: self.frames,
                limit,
                hint: "",
            });
        }
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Error::Limit {
                what: format!("the unpacked size of {}", self.context),
                value: self.most - self.left + bytes,
                limit: self.most,
                hint: MAX_BYTES_HINT,
            }),
        }
    }

    /// False when all workers have gone, which they do only after an error.
    fn send(&mut self, piece: Piece) -> bool {
        let index = self.count;
        self.count += 1;
        self.sender.send((index, piece)).is_ok()
    }
}

fn worker<S: Sink<File: Place> + Send>(
    receiver: &Mutex<mpsc::Receiver<(u64, Piece)>>,
    shared: &Shared<'_, S>,
    context: &str,
    progress: &dyn Progress,
) {
    let mut decompressor = None;
    let mut buffer = Buffer::with_capacity(FRAME);
    loop {
        let received = receiver.lock().unwrap_or_else(|e| e.into_inner()).recv();
        let Ok((index, piece)) = received else { return };
        // After an error the queue is drained without work, so that the feeder never blocks on it.
        if shared.failed() {
            continue;
        }
        let bytes = match unpack(&piece, &mut decompressor, &mut buffer, context) {
            Ok(bytes) => bytes,
            Err(error) => {
                shared.fail(error);
                continue;
            }
        };
        let mut placements: Vec<Placement<S::File>> = Vec::new();
        {
            let mut turn = shared.lock();
            while turn.next != index && turn.error.is_none() {
                turn = shared.changed.wait(turn).unwrap_or_else(|e| e.into_inner());
            }
            if turn.error.is_some() {
                continue;
            }
            let Turn { next, walker, sink, error } = &mut *turn;
            if let Err(e) = walker.feed(bytes, *sink, &mut placements) {
                error.get_or_insert(e);
            }
            *next += 1;
        }
        shared.changed.notify_all();
        for placement in &placements {
            let part = &bytes[placement.bytes.clone()];
            if let Err(error) = placement.file.place(part, placement.offset) {
                shared.fail(error);
                break;
            }
        }
        progress.advance(bytes.len() as u64);
    }
}

/// The bytes of a piece; a frame's are put into `buffer`.
fn unpack<'a>(
    piece: &'a Piece,
    decompressor: &mut Option<zstd::bulk::Decompressor<'static>>,
    buffer: &'a mut Vec<u8>,
    context: &str,
) -> Result<&'a [u8]> {
    let (frame, content) = match piece {
        Piece::Plain(bytes) => return Ok(bytes),
        Piece::Frame(frame, content) => (frame, *content),
    };
    let invalid = |e: std::io::Error| Error::bundle(context, format!("a zstd frame cannot be decompressed: {e}"));
    let decompressor = match decompressor {
        Some(ready) => ready,
        None => decompressor.insert(zstd::bulk::Decompressor::new().map_err(invalid)?),
    };
    buffer.resize(content, 0);
    match decompressor.decompress_to_buffer(frame, &mut buffer[..]).map_err(invalid)? {
        length if length == content => Ok(buffer),
        _ => Err(Error::bundle(context, "a zstd frame is shorter than it says")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a look at a layer may take of its blob: one that unpacks to nothing is not read to its end.
    #[test]
    fn a_look_takes_no_more_than_its_bound() {
        const MOST: u64 = 1 << 20;
        // A skippable frame (RFC 8878, 3.1.2) of 4 KiB.
        let mut frame = vec![0x50, 0x2a, 0x4d, 0x18, 0, 16, 0, 0];
        frame.resize(8 + 4096, 0);
        let blob = frame.repeat(4 << 8);
        let mut rest = blob.as_slice();
        let layer = EncodedLayer { blob: &mut rest, encoding: LayerEncoding::Zstd, context: "layer", most: MOST };
        let wanted = HashSet::from(["a".parse().unwrap()]);
        let corrupt = |e| crate::verify::into_error(e, crate::Digest::of(b""));
        let found = sparse_maps(layer, &wanted, &corrupt);
        assert!(found.is_err() || found.is_ok_and(|found| found.is_empty()));
        assert_eq!((blob.len() - rest.len()) as u64, MOST + (MOST >> 6));
    }
}
