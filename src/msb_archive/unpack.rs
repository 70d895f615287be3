//! Unpacks an archive into a stage while it is read: one thread decompresses, this one walks the tar and hashes, others
//! write and compute roots. Nothing of it is used before the inventory, which comes last, has been compared.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::AtomicU64,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use super::{
    entries::{Entries, EntryKind, FileEntry},
    input::{Input, Piece, Stream},
    inventory::{Inventory, MAX_INVENTORY, Problem},
    member::{Form, Member, Owner, Place},
    transport::TransportHasher,
};
use crate::{
    bundle::MAX_DOCUMENTS,
    digest::{Digest, Hasher},
    error::{Error, IoContext, MAX_BYTES_HINT, Result},
    layer::{
        analyze::Contents,
        decode::{Budget, OutputFile, Place as _},
        streamed::StreamedContents,
    },
    progress::Progress,
    snapshot::MAX_DESCRIPTOR,
    workers,
    writeback::Writeback,
};

/// Pieces that wait to be written.
const QUEUE: usize = 8;
/// Threads that write.
const MAX_WRITERS: usize = 4;

/// How an archive is unpacked.
#[derive(Clone)]
pub struct UnpackOptions<'a> {
    /// An empty folder.
    pub folder: &'a Path,
    /// Most bytes of data.
    pub max_bytes: u64,
    /// Most files.
    pub max_files: u64,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Makes files durable while they are written.
    pub writeback: Option<Arc<Writeback>>,
    /// Told about progress.
    pub progress: &'a dyn Progress,
}

/// A member that was read.
pub(super) struct Observed {
    pub kind: &'static str,
    pub place: Place,
    /// Logical size.
    pub size: u64,
    pub executable: bool,
    /// Of the logical bytes, where the kind is one that is hashed.
    pub sha256: Option<Digest>,
    /// As often as it is there.
    pub copies: Vec<Copy>,
    /// What it holds; nothing is known of an archive that was only looked through.
    pub contents: Option<Contents>,
}

/// How a member stands in the archive.
pub(super) struct Copy {
    pub stored: u64,
    pub map: Vec<[u64; 2]>,
    pub transport: String,
}

/// An archive that was read to its end.
pub(super) struct Read {
    /// How messages name it.
    pub name: String,
    pub form: Form,
    /// By name.
    pub members: BTreeMap<String, Observed>,
    /// The descriptors' bytes.
    pub descriptors: BTreeMap<Owner, Vec<u8>>,
    /// None of the early form.
    pub inventory: Option<Inventory>,
}

impl Read {
    /// What is not as the inventory, or a name that is a hash, says.
    pub fn problems(&self) -> Vec<Problem> {
        let mut found = self.inventory.as_ref().map_or_else(Vec::new, |inventory| inventory.problems(&self.members));
        for (name, member) in &self.members {
            let file = name.rsplit('/').next().unwrap_or(name);
            let named = member.kind == "checkpoint-object"
                || member.kind == "owned-directory-payload" && file != "directory.bin";
            if named && member.sha256.is_some_and(|digest| digest.hex() != file) {
                found.push(Problem::new(name, "its bytes have another SHA-256 than its name says"));
            }
        }
        found
    }
}

/// Unpacks an archive.
///
/// # Errors
/// [`Error::InvalidBundle`]: it is no archive that msb writes; [`Error::Limit`]; I/O.
pub(super) fn unpack(input: Input, options: &UnpackOptions) -> Result<Read> {
    let (sender, receiver) = sync_channel(QUEUE);
    let writing = Writing { receiver: Mutex::new(receiver), error: Mutex::new(None) };
    options.progress.begin(&format!("unpacking {}", input.name), None);
    let walked = std::thread::scope(|scope| {
        workers::start(scope, options.jobs.clamp(1, MAX_WRITERS), || writing.run())
            .context("start a thread for", &input.name)?;
        // It takes the sender with it, so that the writers end.
        Walk::new(Some((options, sender)), options.max_bytes, options.max_files).run(input)
    });
    options.progress.end();
    match writing.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => walked?.finish(),
    }
}

/// Looks through an archive and keeps its documents only.
///
/// # Errors
/// As [`unpack`].
pub(super) fn look_through(input: Input, max_files: u64) -> Result<Read> {
    Walk::new(None, u64::MAX, max_files).run(input)?.finish()
}

/// Bytes that are to be written.
struct Work {
    file: Arc<OpenFile>,
    piece: Piece,
    offset: u64,
}

/// A member on its way.
struct OpenFile {
    /// None of another copy of a member, which is only compared.
    output: Option<OutputFile>,
    contents: Arc<StreamedContents>,
    name: String,
}

impl Work {
    fn run(&self) -> Result<()> {
        let bytes = self.piece.bytes();
        if let Some(output) = &self.file.output {
            output.place(bytes, self.offset)?;
        }
        self.file.contents.take(bytes, self.offset).context("hash", &self.file.name)
    }
}

/// What the writers share.
struct Writing {
    receiver: Mutex<Receiver<Work>>,
    error: Mutex<Option<Error>>,
}

impl Writing {
    fn run(&self) {
        loop {
            let received = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(work) = received else { return };
            // After an error the queue is drained without work, so that the reader never waits for it.
            if self.failed().is_some() {
                continue;
            }
            if let Err(error) = work.run() {
                self.failed().get_or_insert(error);
            }
        }
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An archive that has been walked, while the last of it may still be written.
struct Walked {
    name: String,
    form: Option<Form>,
    members: BTreeMap<String, (Observed, Vec<Arc<StreamedContents>>)>,
    descriptors: BTreeMap<Owner, Vec<u8>>,
    /// The inventory, and whether nothing came after it.
    inventory: Option<(Vec<u8>, bool)>,
}

impl Walked {
    /// When all has been written.
    fn finish(self) -> Result<Read> {
        let Self { name, form, members, descriptors, inventory } = self;
        let fail = |reason: &str| Err(Error::bundle(&name, reason));
        let inventory = match (inventory, form) {
            (None, Some(Form::Early)) => None,
            (None, None) => return fail("it holds no snapshot"),
            (None, Some(_)) => return fail("it has no archive.json"),
            (Some((bytes, is_last)), form) => {
                let inventory = Inventory::parse(&bytes, &name)?;
                if form.is_some_and(|form| form != inventory.form) {
                    return fail("its files are not of the form that its archive.json has");
                }
                if inventory.form == Form::Current && !is_last {
                    return fail("something follows its archive.json");
                }
                Some(inventory)
            }
        };
        let mut read = BTreeMap::new();
        for (path, (mut observed, copies)) in members {
            let mut all = copies.iter().map(|contents| contents.finish().contents);
            observed.contents = all.next();
            let root = observed.contents.as_ref().map(|contents| contents.root);
            if all.any(|other| Some(other.root) != root) {
                return fail(&format!("{path} is there twice, with other contents"));
            }
            read.insert(path, observed);
        }
        let form = inventory.as_ref().map_or(Form::Early, |inventory| inventory.form);
        Ok(Read { name, form, members: read, descriptors, inventory })
    }
}

/// Walks an archive.
struct Walk<'a> {
    output: Option<(&'a UnpackOptions<'a>, SyncSender<Work>)>,
    bytes: u64,
    max_bytes: u64,
    entries: u64,
    max_files: u64,
    documents: u64,
    places: HashSet<Place>,
    folders: HashSet<PathBuf>,
    walked: Walked,
}

impl<'a> Walk<'a> {
    fn new(output: Option<(&'a UnpackOptions<'a>, SyncSender<Work>)>, max_bytes: u64, max_files: u64) -> Self {
        let walked = Walked {
            name: String::new(),
            form: None,
            members: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            inventory: None,
        };
        let (places, folders) = (HashSet::new(), HashSet::new());
        Self { output, bytes: 0, max_bytes, entries: 0, max_files, documents: 0, places, folders, walked }
    }

    fn run(mut self, input: Input) -> Result<Walked> {
        self.walked.name.clone_from(&input.name);
        let mut entries = Entries::new(Stream::start(input)?);
        while let Some(entry) = entries.next()? {
            self.entries += 1;
            if self.entries > self.max_files {
                return Err(Error::Limit {
                    what: format!("the number of entries of {}", entries.name()),
                    value: self.entries,
                    limit: self.max_files,
                    hint: "; --max-files raises it",
                });
            }
            if let Some((_, is_last)) = &mut self.walked.inventory {
                *is_last = false;
            }
            match entry.kind {
                EntryKind::Folder if Member::is_folder(&entry.name) => {}
                EntryKind::Folder => {
                    return self.fail(format!("no archive of msb holds such a folder as {:?}", entry.name));
                }
                EntryKind::File(file) => self.file(&mut entries, entry.name, file)?,
            }
        }
        Ok(self.walked)
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::bundle(&self.walked.name, reason))
    }

    fn file(&mut self, entries: &mut Entries, name: String, file: FileEntry) -> Result<()> {
        let member = match Member::parse(&name) {
            Ok(member) => member,
            Err(reason) => return self.fail(format!("the entry {name:?}: {reason}")),
        };
        if let Some(form) = member.form
            && *self.walked.form.get_or_insert(form) != form
        {
            return self.fail(format!("{name} belongs to another form of archives than what is before it"));
        }
        // Layers are shared: msb repeats one for every snapshot that has it.
        let again = matches!(member.place, Place::Layer(_)) && self.walked.members.contains_key(&name);
        if !again && !self.places.insert(member.place.clone()) {
            return self.fail(format!("{name} is there twice"));
        }
        self.spend(&name, &member, &file)?;
        let document = match (&member.place, member.kind) {
            (Place::Inventory, _) => Some(MAX_INVENTORY),
            (_, "snapshot-descriptor" | "legacy-snapshot-descriptor") => Some(MAX_DESCRIPTOR),
            _ => None,
        };
        if let Some(limit) = document
            && (file.map.is_some() || file.size > limit)
        {
            return self.fail(format!("{name} is sparse, or larger than {limit} bytes"));
        }
        self.documents += document.map_or(0, |_| file.size);
        if self.documents > MAX_DOCUMENTS {
            return Err(Error::Limit {
                what: format!("the size of all descriptors in {}", self.walked.name),
                value: self.documents,
                limit: MAX_DOCUMENTS,
                hint: "",
            });
        }
        let runs = file.runs();
        let output = match (&member.place, &self.output) {
            (Place::Inventory, _) | (_, None) => None,
            (place, Some((options, _))) if !again => {
                Some(self.open(&options.folder.join(place.staged()), &name, &file, &runs, true)?)
            }
            (_, Some(_)) => Some(self.open(Path::new(&name), &name, &file, &runs, false)?),
        };
        let contents = output.as_ref().map(|output| output.contents.clone());
        let passed = self.pass(entries, &member, &name, &file, &runs, output, document.is_some())?;
        let copy = Copy { stored: file.stored, map: file.map.unwrap_or_default(), transport: passed.transport };
        if let Some(bytes) = passed.document {
            match &member.place {
                Place::Inventory => {
                    self.walked.inventory = Some((bytes, true));
                    return Ok(());
                }
                Place::Snapshot(owner, _) => {
                    self.walked.descriptors.insert(owner.clone(), bytes);
                }
                Place::Layer(_) | Place::Cache(_) => {}
            }
        }
        let Member { kind, place, .. } = member;
        match self.walked.members.get_mut(&name) {
            Some((observed, all)) => {
                if observed.size != file.size {
                    return self.fail(format!("{name} is there twice, with other contents"));
                }
                observed.copies.push(copy);
                all.extend(contents);
            }
            None => {
                let observed = Observed {
                    kind,
                    place,
                    size: file.size,
                    executable: file.executable,
                    sha256: passed.sha256,
                    copies: vec![copy],
                    contents: None,
                };
                self.walked.members.insert(name, (observed, contents.into_iter().collect()));
            }
        }
        Ok(())
    }

    /// Counts what a member takes. Of one that is hashed whole, holes count too: they take time.
    fn spend(&mut self, name: &str, member: &Member, file: &FileEntry) -> Result<()> {
        let takes = if is_hashed(member.kind) { file.size } else { file.stored };
        self.bytes = self.bytes.saturating_add(takes);
        if self.bytes <= self.max_bytes {
            return Ok(());
        }
        Err(Error::Limit {
            what: format!("the data to restore, in bytes, up to {name} of {}", self.walked.name),
            value: self.bytes,
            limit: self.max_bytes,
            hint: MAX_BYTES_HINT,
        })
    }

    /// Opens a member for writing, or only for its root.
    fn open(
        &mut self,
        path: &Path,
        name: &str,
        file: &FileEntry,
        runs: &[[u64; 2]],
        write: bool,
    ) -> Result<Arc<OpenFile>> {
        let segments = runs.iter().map(|[offset, length]| *offset..offset + length).collect();
        let contents = Arc::new(StreamedContents::new(file.size, segments));
        let mut output = None;
        if let (true, Some((options, _))) = (write, &self.output) {
            if let Some(folder) = path.parent().filter(|folder| !self.folders.contains(*folder)) {
                fs::create_dir_all(folder).context("create", folder)?;
                self.folders.insert(folder.into());
            }
            let mode = if file.executable { 0o755 } else { 0o644 };
            let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
            let opened = opened.context("create", path)?;
            opened.set_len(file.size).context("set the size of", path)?;
            output = Some(OutputFile {
                file: opened,
                path: path.into(),
                fresh: true,
                writeback: options.writeback.clone(),
                unsynced: AtomicU64::new(0),
                budget: Budget::new(u64::MAX),
            });
        }
        Ok(Arc::new(OpenFile { output, contents, name: name.into() }))
    }

    /// Takes the data of a member: hashes it, and gives it to the writers.
    #[expect(clippy::too_many_arguments, reason = "what is known of one member")]
    fn pass(
        &self,
        entries: &mut Entries,
        member: &Member,
        name: &str,
        file: &FileEntry,
        runs: &[[u64; 2]],
        output: Option<Arc<OpenFile>>,
        is_document: bool,
    ) -> Result<Passed> {
        let map = file.map.as_deref().unwrap_or_default();
        let mut transport = TransportHasher::new(member.kind, name, file.stored, file.size, map);
        let mut sha256 = (is_hashed(member.kind) && self.output.is_some()).then(Hasher::new);
        let mut document = is_document.then(Vec::new);
        let mut at = 0;
        for [offset, length] in runs {
            if let Some(hasher) = &mut sha256 {
                hash_zeros(hasher, offset - at);
            }
            at = *offset;
            let end = offset + length;
            while at < end {
                let Some(piece) = entries.data(end - at)? else {
                    return self.fail(format!("{name} is cut off"));
                };
                let bytes = piece.bytes();
                let taken = bytes.len() as u64;
                transport.update(bytes);
                if let Some(hasher) = &mut sha256 {
                    hasher.update(bytes);
                }
                if let Some(document) = &mut document {
                    document.extend_from_slice(bytes);
                }
                if let (Some((options, sender)), Some(file)) = (&self.output, &output) {
                    options.progress.advance(taken);
                    // When the writers have gone, what they found counts.
                    let _ = sender.send(Work { file: file.clone(), piece, offset: at });
                }
                at += taken;
            }
        }
        if let Some(hasher) = &mut sha256 {
            hash_zeros(hasher, file.size - at);
        }
        Ok(Passed { transport: transport.finish(), sha256: sha256.map(Hasher::finish), document })
    }
}

/// What is known of a member that has passed.
struct Passed {
    transport: String,
    sha256: Option<Digest>,
    document: Option<Vec<u8>>,
}

/// Whether the inventory, or a member's name, says the SHA-256 of its bytes.
fn is_hashed(kind: &str) -> bool {
    matches!(
        kind,
        "snapshot-descriptor"
            | "snapshot-metadata"
            | "checkpoint-root"
            | "checkpoint-object"
            | "owned-directory-payload"
            | "image-metadata"
            | "image-object"
    )
}

fn hash_zeros(hasher: &mut Hasher, mut count: u64) {
    let zeros = [0; 64 << 10];
    while count > 0 {
        let part = count.min(zeros.len() as u64);
        hasher.update(&zeros[..part as usize]);
        count -= part;
    }
}
