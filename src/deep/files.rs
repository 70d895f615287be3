//! Where a decoded file's data goes in a deep check: through a hash, and into a scratch file as far as it is needed again.

use std::{
    collections::HashMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use crate::{
    error::{Error, IoContext, Result},
    layer::{
        analyze::Contents,
        clone::Beneath,
        decode::{Budget, OutputFile, Place},
        streamed::{Later, Passed, StreamedContents},
        walk::Sink,
    },
    model::TarPath,
    restore::EntryRule,
};

use super::room::Room;

/// What it may take in is the business of its [`DeepFile`].
pub fn output(file: File, path: PathBuf, fresh: bool) -> OutputFile {
    OutputFile { file, path, fresh, writeback: None, unsynced: AtomicU64::new(0), budget: Budget::new(u64::MAX) }
}

/// Where a file's data goes.
pub enum Target {
    /// Hashed as it passes, over what passed before it, if anything; what later deltas need is kept.
    Selected { later: Arc<Later>, scratch: Option<Arc<Beneath>>, below: Option<Passed> },
    /// Hashed as it passes, and kept.
    Whole(OutputFile),
    /// Written over these contents.
    Patched(Contents, OutputFile),
}

impl Target {
    /// Nothing goes over the file.
    pub fn nothing_kept() -> Self {
        Self::Selected { later: Arc::default(), scratch: None, below: None }
    }
}

pub struct Planned {
    pub rule: EntryRule,
    /// The most data that it may hold.
    pub most: u64,
    pub target: Target,
}

pub struct Begun {
    pub file: Arc<DeepFile>,
    pub size: u64,
    pub touched: Vec<Range<u64>>,
}

/// A file being decoded.
pub struct DeepFile {
    pub path: TarPath,
    /// The most data that it may hold.
    pub most: u64,
    pub room: Arc<Room>,
    pub how: How,
}

pub enum How {
    Passing(StreamedContents, Option<Arc<Beneath>>),
    Whole(StreamedContents, OutputFile),
    Patched(Contents, OutputFile),
}

impl DeepFile {
    /// More than the table declares is refused while it arrives.
    fn check(&self, streamed: &StreamedContents) -> Result<()> {
        match streamed.data_bytes() {
            value if value > self.most => Err(Error::Limit {
                what: format!("the data of {}, as the file table declares it,", self.path),
                value,
                limit: self.most,
                hint: "",
            }),
            _ => Ok(()),
        }
    }
}

impl Place for DeepFile {
    fn place(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let length = bytes.len() as u64;
        match &self.how {
            How::Passing(streamed, scratch) => {
                let path = scratch.as_ref().map_or(Path::new("a scratch file"), |scratch| scratch.path.as_path());
                if scratch.is_some() {
                    self.room.take(streamed.kept(offset..offset.saturating_add(length)), path)?;
                }
                streamed.take(bytes, offset).context("read or write", path)?;
                self.check(streamed)
            }
            How::Whole(streamed, output) => {
                streamed.take(bytes, offset).context("write", &output.path)?;
                self.check(streamed)?;
                self.room.take(length, &output.path)?;
                output.place(bytes, offset)
            }
            How::Patched(_, output) => {
                self.room.take(length, &output.path)?;
                output.place(bytes, offset)
            }
        }
    }
}

pub struct DeepSink {
    pub context: String,
    pub room: Arc<Room>,
    pub planned: HashMap<TarPath, Planned>,
    pub begun: HashMap<TarPath, Begun>,
}

impl Sink for DeepSink {
    type File = DeepFile;

    fn begin(&mut self, path: &TarPath, size: u64, segments: Option<&[Range<u64>]>) -> Result<Arc<DeepFile>> {
        let Some(Planned { rule, most, target }) = self.planned.remove(path) else {
            return Err(Error::bundle(&self.context, format!("it holds {path}, which its config does not name")));
        };
        rule.check(&self.context, path, size, segments)?;
        let whole = 0..size;
        let touched = segments.map_or_else(|| vec![whole], <[_]>::to_vec);
        let sized = |output: &OutputFile| output.file.set_len(size).context("set the size of", &output.path);
        let streamed = || StreamedContents::new(size, touched.clone());
        let how = match target {
            Target::Selected { later, scratch, below } => {
                let mut streamed = streamed();
                if let Some(below) = below {
                    if below.contents.size != size {
                        let reason = format!("{path} has {size} bytes, {} were expected", below.contents.size);
                        return Err(Error::bundle(&self.context, reason));
                    }
                    streamed = streamed.over(below);
                }
                let file = match &scratch {
                    Some(scratch) => Some(scratch.file.try_clone().context("duplicate the handle of", &scratch.path)?),
                    None => None,
                };
                How::Passing(streamed.keeping(later, file), scratch)
            }
            Target::Whole(output) => {
                sized(&output)?;
                How::Whole(streamed(), output)
            }
            Target::Patched(below, output) => {
                sized(&output)?;
                How::Patched(below, output)
            }
        };
        let file = Arc::new(DeepFile { path: path.clone(), most, room: self.room.clone(), how });
        self.begun.insert(path.clone(), Begun { file: file.clone(), size, touched });
        Ok(file)
    }
}
