//! The one error type of the library.
//!
//! Every I/O error says what was done to which path; every message says what happened, to what,
//! why and, where there is one, what to do next. [`Error::exit_code`] is the process's contract.

use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The hint of a limit on data, which is the free space of a disk where nobody has asked for another.
pub const MAX_BYTES_HINT: &str = "; --max-bytes raises it";

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation of the operating system failed.
    #[error("cannot {operation} {}: {}", path.display(), told(source))]
    Io {
        /// What was being done: "open", "read", "fsync", ...
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The command line asks for something impossible.
    #[error("{0}")]
    Usage(String),
    /// A string is no digest.
    #[error("invalid digest {text:?}: {reason}")]
    InvalidDigest {
        /// The string, cut to 100 characters.
        text: String,
        /// Why it is none.
        reason: &'static str,
    },
    /// A path inside a snapshot or a bundle is not a plain relative path.
    #[error("invalid path {path:?} in {context}: {reason}")]
    InvalidPath {
        /// The path, escaped for printing.
        path: String,
        /// Where it stands.
        context: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A name is not usable as a snapshot's name.
    #[error("invalid snapshot name {name:?}: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A reference to a registry is not one.
    #[error("invalid reference {text:?}: {reason}; it is written oci://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]")]
    InvalidReference {
        /// The reference, cut to 300 characters.
        text: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// What should name a registry does not.
    #[error("invalid registry {text:?}: {reason}; it is written HOST[:PORT]")]
    InvalidHost {
        /// What was given, cut to 300 characters.
        text: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A snapshot's descriptor is not one that we can read.
    #[error("invalid snapshot descriptor {}: {reason}", path.display())]
    InvalidDescriptor {
        /// The descriptor's file.
        path: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// A snapshot directory holds what cannot be packed, or not what its descriptor says.
    #[error("invalid snapshot {}: {reason}", directory.display())]
    InvalidSnapshot {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A directory holds no descriptor.
    #[error("{} is no snapshot: it has neither manifest.json nor snapshot.json", directory.display())]
    NoSnapshot {
        /// The directory.
        directory: PathBuf,
    },
    /// A file changed between the two times that it was read.
    #[error("{} changed while it was read; nothing was written. Stop the sandbox that uses it and export again", path.display())]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// The integrity that a descriptor records does not hold for the payload.
    #[error("recorded integrity of {} does not hold: {algorithm} is {actual}, the descriptor says {expected}", path.display())]
    RecordedIntegrity {
        /// The payload file.
        path: PathBuf,
        /// The algorithm's name.
        algorithm: &'static str,
        /// What the descriptor says.
        expected: String,
        /// What the bytes give.
        actual: String,
    },
    /// A snapshot's files are not those that its descriptor and its checkpoint name.
    #[error("the snapshot is damaged: {}: {reason}", path.display())]
    DamagedSnapshot {
        /// The code of such a finding.
        code: &'static str,
        /// The file.
        path: PathBuf,
        /// What it is and what it should be.
        reason: String,
    },
    /// No snapshot answers to the reference.
    #[error("no snapshot {reference:?} in {}{hint}", store.display())]
    SnapshotNotFound {
        /// What was asked for.
        reference: String,
        /// The store that was searched.
        store: PathBuf,
        /// What to do, beginning with a separator; may be empty.
        hint: String,
    },
    /// Nothing that can be read answers to it, and something is there that cannot be read for want of a right.
    #[error("{what} is not among what can be read, and may be among what cannot: {reason}")]
    MayBeHidden {
        /// What was looked for.
        what: String,
        /// Why something could not be looked at.
        reason: String,
    },
    /// A parent is neither in the store nor beside its child.
    #[error(
        "snapshot {child} names the parent {parent}, which is not in {}; import the parent first, or export without --with-parents",
        either(searched)
    )]
    ParentNotFound {
        /// The child's name.
        child: String,
        /// The parent as the child's descriptor names it.
        parent: String,
        /// The folders that were searched.
        searched: Vec<PathBuf>,
    },
    /// Several snapshots answer to the reference.
    #[error("{reference:?} is ambiguous; it can be {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// Everything that it can be.
        candidates: Vec<String>,
    },
    /// A file or folder that must exist does not.
    #[error("{what} not found: {}{hint}", path.display())]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What to do, beginning with a separator; may be empty.
        hint: String,
    },
    /// A folder that is to be a store is something else.
    #[error("{} is no store: {reason}", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// A bundle has no such tag.
    #[error("no tag {tag:?} in the bundle; it has {}", listed(tags))]
    TagNotFound {
        /// What was asked for.
        tag: String,
        /// What there is.
        tags: Vec<String>,
    },
    /// The destination exists and may not be replaced.
    #[error("{} already exists; use --force to replace it", path.display())]
    AlreadyExists {
        /// The destination.
        path: PathBuf,
    },
    /// A layout has the tag for another manifest.
    #[error("{} has the tag {tag} for the manifest {manifest}; use --force to move the tag, or --tag for another name of the head", path.display())]
    TagTaken {
        /// The layout.
        path: PathBuf,
        /// The tag.
        tag: String,
        /// What it names.
        manifest: String,
    },
    /// The other side of a sync did not succeed.
    #[error("{destination} says: {message}{hint}")]
    Remote {
        /// Where to.
        destination: String,
        /// What it said, without control characters.
        message: String,
        /// What to do, beginning with a separator; may be empty.
        hint: &'static str,
        /// The exit code there, if it is one of ours, else 1.
        code: u8,
    },
    /// A folder that is to be filled holds something.
    #[error("the folder {} is not empty; name another one, or empty it yourself", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The store holds another snapshot where this one belongs.
    #[error("{} holds {existing}, the bundle has {incoming}; use --force to replace it, --head-only to leave ancestors alone, or --dest (for the head also --name) to place it elsewhere", path.display())]
    Different {
        /// The snapshot directory.
        path: PathBuf,
        /// What is there.
        existing: String,
        /// What would be placed.
        incoming: String,
    },
    /// The image cache holds another file where this one belongs.
    #[error("{} holds other contents than the image-cache file of the bundle; use --force to replace it", path.display())]
    DifferentFile {
        /// The file.
        path: PathBuf,
    },
    /// The image cache holds another file where one belongs of which nothing proves that it is the image's.
    #[error("{} holds other contents than the image-cache file of the bundle, and nothing there proves that it is its image's: the bundle brings no metadata; pull the image instead, or move the file away", path.display())]
    OfNoImage {
        /// The file.
        path: PathBuf,
    },
    /// A record of an import says nothing.
    #[error("invalid record of an import {}: {reason}", path.display())]
    InvalidRecord {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not what was imported.
    #[error("{} is not as it was imported ({reason}); `snapcask check --repair-from` brings it back, and where the change is meant, removing {} makes it the snapshot's own", path.display(), record.display())]
    NotAsImported {
        /// The file.
        path: PathBuf,
        /// In what it differs.
        reason: String,
        /// The record of the import.
        record: PathBuf,
    },
    /// Whether a removal would leave children without their parents cannot be told.
    #[error("{} cannot be read ({reason}), so whose child it is is not known; see `snapcask check`, or use --orphan-children", path.display())]
    UnreadableSnapshot {
        /// The snapshot's directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Snapshots that would lose their parent are in the way of its removal.
    #[error("{snapshot} is the parent of {}; remove these too, or use --orphan-children", children.join(", "))]
    HasChildren {
        /// The parent, or one of them.
        snapshot: String,
        /// Who would lose a parent.
        children: Vec<String>,
    },
    /// A group's file is not one that msb takes.
    #[error("invalid group: {}: {reason}", path.display())]
    InvalidGroup {
        /// The file or the member.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A group has no head, so its name alone means no snapshot.
    #[error("the group {group} has no head; choose one with `snapcask head {group}:MEMBER`, or name a member")]
    NoHead {
        /// The group.
        group: String,
    },
    /// A group has no such member.
    #[error("the group {group} has no member {member:?}")]
    MemberNotFound {
        /// The group.
        group: String,
        /// What was asked for.
        member: String,
    },
    /// Another member of the group has the name.
    #[error("the name {name:?} belongs to {holder} in the group {group}; choose another with --name")]
    NameTaken {
        /// The group.
        group: String,
        /// The name.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// A member has a name already.
    #[error("the snapshot {id} has the name {existing:?} in the group {group}; it cannot get the name {name:?} too")]
    AlreadyNamed {
        /// The group.
        group: String,
        /// The member.
        id: String,
        /// Its name.
        existing: String,
        /// The name that was asked for.
        name: String,
    },
    /// A group would have a head that is gone.
    #[error(
        "{head} is the head of the group {group}, where others stay; --set-head MEMBER makes one of them the head, or remove these too"
    )]
    HeadStays {
        /// The group.
        group: String,
        /// Its head.
        head: String,
    },
    /// msb or another snapcask uses the snapshot.
    #[error("{} is in use by msb or another snapcask; try again when that has ended", path.display())]
    InUse {
        /// The snapshot's directory.
        path: PathBuf,
    },
    /// What stands where a snapshot goes is none, and would be lost.
    #[error("{} is no snapshot, and --force replaces nothing else; move it away, or place the bundle's elsewhere with --dest, --group or (the head) --name", path.display())]
    NotReplaced {
        /// The place.
        path: PathBuf,
    },
    /// What stands beside the files of a snapshot would be lost with it.
    #[error("{reason}")]
    Kept {
        /// What, and what to do.
        reason: String,
    },
    /// Snapshots that stay would lose their parent to an import.
    #[error("{} is the parent of {}, which would lose it; use --orphan-children too, or place the bundle's elsewhere with --dest or (the head) --name", path.display(), children.join(", "))]
    ReplacesParent {
        /// The parent, or one of them.
        path: PathBuf,
        /// Who would lose a parent.
        children: Vec<String>,
    },
    /// A place below a store is not reached by plain folders.
    #[error("cannot use {}: {reason}", path.display())]
    UnsafePath {
        /// The place.
        path: PathBuf,
        /// What is in the way.
        reason: &'static str,
    },
    /// msb's database does not say what its sandboxes need.
    #[error("cannot read msb's database {}: {reason}; nothing was removed, for a sandbox may need the images; leave out --prune-image", path.display())]
    MsbDatabase {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Which image-cache files nothing needs cannot be told.
    #[error("cannot prune the image: {reason}")]
    NotPruned {
        /// What could not be read, and what to do.
        reason: String,
    },
    /// The image cache lacks what the pinned image needs.
    #[error("cannot pack the image {image}: {reason}")]
    ImageCache {
        /// The image's reference or digest.
        image: String,
        /// What is missing or wrong.
        reason: String,
    },
    /// A blob's bytes are not those that its descriptor promises.
    #[error("blob {digest} is corrupt: {reason}")]
    CorruptBlob {
        /// The digest that it should have.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A blob that the bundle refers to is not in it.
    #[error("blob {digest} is missing from the bundle ({role})")]
    MissingBlob {
        /// Its digest.
        digest: Digest,
        /// What refers to it.
        role: String,
    },
    /// A thin bundle without what it was made over.
    #[error(
        "{bundle} leaves out what is neither installed nor in another source: {}; import what it was made over first, or name that with --base",
        first_of(layers)
    )]
    BaseMissing {
        /// The bundle.
        bundle: String,
        /// The layers that are missing, each with its snapshot.
        layers: Vec<String>,
    },
    /// What an export is to be made over is no part of it.
    #[error(
        "{base} is neither {head} nor an ancestor of it; --since takes one of these, a bundle, or oci://HOST/REPOSITORY[:TAG]"
    )]
    NoAncestor {
        /// The name of the base.
        base: String,
        /// The name of the snapshot that is exported.
        head: String,
    },
    /// A bundle that was copied without the ancestors' manifests.
    #[error(
        "the parent's manifest {digest} is not in the bundle; `import` and `verify` take --head-only, for the head without its ancestors"
    )]
    ParentManifestMissing {
        /// Its digest.
        digest: Digest,
    },
    /// A document or archive of the bundle is not what the format says.
    #[error("invalid bundle: {context}: {reason}")]
    InvalidBundle {
        /// Which document or archive entry.
        context: String,
        /// What is wrong.
        reason: String,
    },
    /// A restored file's root is not the one in the file table.
    #[error("{path} of snapshot {snapshot} is not what the file table says: root {actual}, expected {expected}")]
    RootMismatch {
        /// The snapshot's name.
        snapshot: String,
        /// The file's path in it.
        path: String,
        /// The table's root.
        expected: String,
        /// The restored file's root.
        actual: String,
    },
    /// A limit was exceeded.
    #[error("{what} is {value}, over the limit of {limit}{hint}")]
    Limit {
        /// What was measured.
        what: String,
        /// Its value, at least.
        value: u64,
        /// The limit.
        limit: u64,
        /// Which flag raises it, beginning with a separator; may be empty.
        hint: &'static str,
    },
    /// A disk has no room for what is known to come.
    #[error("no space left on the disk of {}: {what} is {needed}, and {free} are free{hint}", path.display())]
    NoRoom {
        /// What was measured.
        what: String,
        /// Its value, at least.
        needed: u64,
        /// What the disk has.
        free: u64,
        /// A place on the disk.
        path: PathBuf,
        /// What to do, beginning with a separator; may be empty.
        hint: &'static str,
    },
    /// A registry wants credentials, or refuses those that it was given.
    #[error(
        "cannot {operation}: {registry} refuses the credentials, or wants some ({reason}); run `snapcask login {registry}`{hint}"
    )]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// What was being done.
        operation: String,
        /// What the registry said.
        reason: String,
        /// What else may be the cause, beginning with a separator; may be empty.
        hint: String,
    },
    /// A registry refuses the user and the password that are to be kept for it.
    #[error(
        "cannot log in: {registry} refuses the credentials ({reason}); check the user's name and the password. Nothing was kept"
    )]
    LoginRefused {
        /// Host and port.
        registry: String,
        /// What the registry said.
        reason: String,
    },
    /// A registry does not allow it.
    #[error(
        "cannot {operation}: {registry} does not allow it ({reason}); the credentials lack the right, or a quota is used up{hint}"
    )]
    Forbidden {
        /// Host and port.
        registry: String,
        /// What was being done.
        operation: String,
        /// What the registry said.
        reason: String,
        /// What else may be the cause, beginning with a separator; may be empty.
        hint: String,
    },
    /// A registry has no such thing.
    #[error("cannot {operation}: {registry} has no such {what}{hint}")]
    RemoteNotFound {
        /// Host and port.
        registry: String,
        /// What was being done.
        operation: String,
        /// What is not there: "repository", "manifest", ...
        what: &'static str,
        /// What to do, beginning with a separator; may be empty.
        hint: String,
    },
    /// A registry answered with a failure.
    #[error("cannot {operation}: {registry} answered {status} ({reason}){hint}")]
    Refused {
        /// Host and port.
        registry: String,
        /// What was being done.
        operation: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        reason: String,
        /// What to do, beginning with a separator; may be empty.
        hint: String,
    },
    /// A snapshot in a registry that others need.
    #[error(
        "{reference} is the parent of {}; delete {} first, or leave {} without the parent with --orphan-children. Space is \
         freed when the registry collects garbage",
        first_of(children),
        if children.len() == 1 { "it" } else { "them" },
        if children.len() == 1 { "it" } else { "them" }
    )]
    RemoteHasChildren {
        /// The snapshot.
        reference: String,
        /// Tags of its children, digests where they have none.
        children: Vec<String>,
    },
    /// A tag does not name what the reference says.
    #[error("the tag {tag} names {actual} now, not {expected}; leave the tag out to read {expected}")]
    TagMoved {
        /// The tag.
        tag: String,
        /// What the reference says.
        expected: Digest,
        /// What the tag names.
        actual: Digest,
    },
    /// A registry does not show what a tag or digest names, which a push could overwrite.
    #[error(
        "cannot {operation}: {registry} does not let us see what is there ({reason}), so that a tag could be overwritten \
         unseen; --force goes on"
    )]
    Unseen {
        /// Host and port.
        registry: String,
        /// What was being done.
        operation: String,
        /// What the registry said.
        reason: String,
    },
    /// A registry cannot be reached, or the connection broke again and again.
    #[error(
        "cannot {operation}: no luck with {registry} after {attempts} attempt{}: {reason}",
        if *attempts == 1 { "" } else { "s" }
    )]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What was being done.
        operation: String,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong last.
        reason: String,
    },
    /// A server that is not trusted, trusts us not, or is spoken to in the wrong way.
    #[error("cannot {operation}: {server} {reason}")]
    Obstructed {
        /// Host and port, of the registry or of where it sends us.
        server: String,
        /// What was being done.
        operation: String,
        /// What is wrong, and what to do: a sentence whose subject is the server.
        reason: String,
    },
    /// A registry answered what it must not.
    #[error("the registry {registry} breaks the protocol: {reason}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What it did.
        reason: String,
    },
    /// A registry forgot an unfinished upload: the blob has to be sent again from its beginning.
    #[error("the registry {registry} lost the unfinished upload of a blob ({reason}). Run the same command again")]
    UploadLost {
        /// Host and port.
        registry: String,
        /// What the registry said.
        reason: String,
    },
    /// An archive of msb leaves out what nobody has.
    #[error(
        "{archive} leaves out {}, which neither the store nor another archive of the command has; name one that has it \
         with --base",
        missing.join(", ")
    )]
    DependenciesMissing {
        /// The archive.
        archive: String,
        /// Its members that are left out.
        missing: Vec<String>,
    },
    /// The work was cancelled.
    #[error("interrupted; nothing half-written is in place. Run the same command again")]
    Interrupted,
    /// Verification found something: the findings have been reported.
    #[error("verification failed: {count} finding(s)")]
    Findings {
        /// How many.
        count: usize,
    },
    /// What a thin bundle holds is good, and some is left out: the findings have been reported.
    #[error("the bundle is not whole: {count} layer(s) are left out; --base SOURCE names what has them")]
    NotWhole {
        /// How many.
        count: usize,
    },
    /// Some snapshots could not be read for want of a right: what could be read has been reported.
    #[error("{count} of the store's folders could not be read: {first}")]
    NotAllRead {
        /// How many.
        count: usize,
        /// What the first one says.
        first: String,
    },
    /// What could be read of a bundle or a store is good, and some could not be: the findings have been reported.
    #[error("not everything could be verified: {count} failure(s) to read")]
    Incomplete {
        /// How many.
        count: usize,
    },
}

impl Error {
    /// An I/O error, with what was done to which path.
    pub fn io(operation: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { operation, path: path.as_ref().to_path_buf(), source }
    }

    /// A document or entry of a bundle that breaks the format.
    pub fn bundle(context: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidBundle { context: context.into(), reason: reason.into() }
    }

    /// A reference that does not parse.
    pub fn invalid_reference(text: &str, reason: &'static str) -> Self {
        Self::InvalidReference { text: text.chars().take(300).collect(), reason }
    }

    /// A registry's name that does not parse.
    pub fn invalid_host(text: &str, reason: &'static str) -> Self {
        Self::InvalidHost { text: text.chars().take(300).collect(), reason }
    }

    /// As it is where the limit on data is the free space of `path`'s disk: nobody has set it.
    pub fn on_disk(self, path: &Path) -> Self {
        match self {
            Self::Limit { what, value, limit, hint: MAX_BYTES_HINT } => {
                Self::NoRoom { what, needed: value, free: limit, path: path.into(), hint: "; free some space" }
            }
            other => other,
        }
    }

    /// Whether the system denied it: somebody with other rights can do it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
    }

    /// The exit code: 1 failed, 2 usage, 3 verification failed, 4 not found, 5 already exists.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoAncestor { .. } => 2,
            Self::Remote { code, .. } => *code,
            Self::Usage(_)
            | Self::InvalidName { .. }
            | Self::InvalidReference { .. }
            | Self::InvalidHost { .. }
            | Self::Ambiguous { .. } => 2,
            Self::RecordedIntegrity { .. }
            | Self::DamagedSnapshot { .. }
            | Self::CorruptBlob { .. }
            | Self::TagMoved { .. }
            | Self::MissingBlob { .. }
            | Self::DependenciesMissing { .. }
            | Self::ParentManifestMissing { .. }
            | Self::InvalidBundle { .. }
            | Self::InvalidPath { .. }
            | Self::InvalidDigest { .. }
            | Self::RootMismatch { .. }
            | Self::NotAsImported { .. }
            | Self::InvalidRecord { .. }
            | Self::Findings { .. } => 3,
            Self::SnapshotNotFound { .. }
            | Self::NoSnapshot { .. }
            | Self::ParentNotFound { .. }
            | Self::NotFound { .. }
            | Self::NotAStore { .. }
            | Self::TagNotFound { .. }
            | Self::BaseMissing { .. }
            | Self::NoHead { .. }
            | Self::MemberNotFound { .. }
            | Self::RemoteNotFound { .. } => 4,
            Self::AlreadyExists { .. }
            | Self::TagTaken { .. }
            | Self::NotEmpty { .. }
            | Self::Different { .. }
            | Self::DifferentFile { .. }
            | Self::NotReplaced { .. }
            | Self::NameTaken { .. }
            | Self::AlreadyNamed { .. }
            | Self::ReplacesParent { .. }
            | Self::Kept { .. }
            | Self::OfNoImage { .. } => 5,
            _ => 1,
        }
    }
}

/// All of a list, as far as a person reads it.
fn listed(list: &[String]) -> String {
    const SHOWN: usize = 50;
    let shown = list.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match list.len().saturating_sub(SHOWN) {
        0 if list.is_empty() => "none".into(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What the system said; what people search for stands in the middle of a sentence as they write it.
fn told(source: &std::io::Error) -> String {
    match source.raw_os_error() {
        Some(number) if number == rustix::io::Errno::ACCESS.raw_os_error() => {
            format!("permission denied (os error {number})")
        }
        _ => source.to_string(),
    }
}

/// The first few of a list, and how many more there are.
fn first_of(list: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = list.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match list.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `/a or /b`.
fn either(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Gives an [`std::io::Error`] its operation and path.
pub trait IoContext<T> {
    /// Says what was done to which path.
    fn context(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn context(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(operation, path, source.into()))
    }
}
