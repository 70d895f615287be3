//! What the verbs report: the JSON output of the CLI is these types (`schemas/`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    digest::Digest,
    model::{Generation, GroupName, ImageRecord, MemberName, SnapshotConfig, SnapshotIdentity},
};

/// What import did with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is in the store now.
    Placed,
    /// It was in the store, identical, and was kept.
    AlreadyThere,
    /// It was left out as asked.
    Skipped,
}

/// One snapshot of an export or import.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotReport {
    /// Snapshot digest.
    pub digest: Digest,
    /// `snapshot_id`.
    pub id: Option<String>,
    /// Name in the store, or in the bundle.
    pub name: String,
    /// The parent's snapshot digest, where known.
    pub parent_digest: Option<Digest>,
    /// The parent as the descriptor names it.
    pub parent: Option<SnapshotIdentity>,
    /// The pinned image.
    pub image: Option<ImageRecord>,
    /// The descriptor's contract.
    pub generation: Generation,
    /// Disk format.
    pub format: String,
    /// Logical bytes of all files.
    pub size: u64,
    /// Bytes in blocks that are not zero.
    pub data_bytes: u64,
    /// Creation time.
    pub created_at: Option<String>,
    /// Digest of its OCI manifest; none of one that came in an archive of msb.
    pub manifest: Option<Digest>,
    /// `requires` that we do not know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_requires: Vec<String>,
    /// Where it was read or placed.
    #[serde(serialize_with = "lossy_option")]
    pub path: Option<PathBuf>,
    /// What was done; absent for an export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Files of a snapshot that was there already which the bundle does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_files: Vec<String>,
}

impl SnapshotReport {
    /// What a config says; path and outcome are the caller's.
    pub fn of(config: &SnapshotConfig, manifest: Option<Digest>, parent_digest: Option<Digest>) -> Self {
        let snapshot = &config.snapshot;
        let parent_digest = parent_digest.or(match snapshot.parent {
            Some(SnapshotIdentity::Digest(digest)) => Some(digest),
            _ => None,
        });
        Self {
            digest: snapshot.digest,
            id: snapshot.id.clone(),
            name: snapshot.name.to_string(),
            parent_digest,
            parent: snapshot.parent.clone(),
            image: snapshot.image.clone(),
            generation: snapshot.generation,
            format: snapshot.format.clone(),
            size: config.files.iter().fold(0, |sum, f| sum.saturating_add(f.size)),
            data_bytes: config.files.iter().fold(0, |sum, f| sum.saturating_add(f.data_bytes)),
            created_at: snapshot.created_at.clone(),
            manifest,
            unknown_requires: Vec::new(),
            path: None,
            outcome: None,
            more_files: Vec::new(),
        }
    }
}

/// A layer that a thin bundle names and does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOutLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
    /// The oldest snapshot that has it.
    pub snapshot: String,
}

/// The report of an export.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportReport {
    /// Where the bundle is; `-` for standard output.
    pub destination: String,
    /// The form: `dir`, `tar`, `tar.zst` or `registry`.
    pub form: String,
    /// Head first, then parent, grandparent, ...
    pub snapshots: Vec<SnapshotReport>,
    /// Image-cache files carried, relative to the cache.
    pub cache_files: Vec<String>,
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// Those of them that were written or sent: a registry may have had the others.
    pub sent_bytes: u64,
    /// Layers that the bundle leaves out, because its base has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutLayer>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// What an import did with an image's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagOutcome {
    /// It means the image now.
    Set,
    /// It had no meaning and has none: nobody trusted the bundle with it.
    NotSet,
    /// It meant something else, and still does.
    Kept,
    /// It meant the image before.
    Already,
}

/// The tag of an image that came with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagReport {
    /// The reference, in msb's spelling.
    pub reference: String,
    /// The image's manifest.
    pub manifest_digest: Digest,
    /// What was done.
    pub outcome: TagOutcome,
    /// The manifest that the tag meant before, where it meant one.
    pub current: Option<Digest>,
}

/// Why the head is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadCase {
    /// The group had no head.
    Initialized,
    /// The new snapshot is the head already.
    Unchanged,
    /// The new snapshot descends from the head through installed members.
    FastForwarded,
    /// The new snapshot's chain ends without meeting the head: the head is kept.
    Diverged,
    /// The new snapshot's chain leaves the group before it meets the head: the head is kept.
    UnknownAncestry,
    /// Several new snapshots could be the head: it is kept, and a new group has none.
    Ambiguous,
    /// The caller asked for it.
    Selected,
    /// The group has no members any more.
    Cleared,
}

/// What became of a group's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadUpdate {
    /// The group.
    pub group: GroupName,
    /// The head before.
    pub previous: Option<String>,
    /// The head from now on.
    pub head: Option<String>,
    /// Why.
    pub case: HeadCase,
}

/// Whether msb's database knows what has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum IndexReport {
    /// msb knows it.
    Done,
    /// There is no `msb` here: it knows after this command.
    Command {
        /// For a shell.
        command: String,
    },
    /// `msb` failed; nothing else did.
    Failed {
        /// For a shell, to try again.
        command: String,
        /// What it said.
        reason: String,
    },
    /// Nobody wanted it to know.
    Off,
}

/// The report of `head`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadReport {
    /// The store.
    #[serde(serialize_with = "lossy")]
    pub store: PathBuf,
    /// The group.
    pub group: GroupName,
    /// The head before.
    pub previous: Option<String>,
    /// The head now.
    pub head: Option<String>,
    /// Its local name.
    pub name: Option<MemberName>,
    /// Whether the head is another now.
    pub changed: bool,
    /// Files of an earlier snapcask that msb can read now, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<String>,
}

/// The report of an import.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// What was imported.
    pub source: String,
    /// The snapshots directory.
    #[serde(serialize_with = "lossy")]
    pub destination: PathBuf,
    /// Head first, then parent, grandparent, ...
    pub snapshots: Vec<SnapshotReport>,
    /// Image-cache files placed or already there.
    #[serde(serialize_with = "lossy_list")]
    pub cache_files: Vec<PathBuf>,
    /// The tags of images that came with their metadata.
    pub image_tags: Vec<TagReport>,
    /// What became of the head of the group that the snapshots are in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadUpdate>,
    /// A group that holds relatives of snapshots which went to a group of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_group: Option<String>,
    /// Files of an earlier snapcask that msb can read now, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<String>,
    /// Whether msb's database knows the snapshots; none where nothing changed, or not in the store's own folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexReport>,
    /// Whether every layer was read and verified, also of what was there already.
    pub source_verified: bool,
    /// Whether no layer was read, because all that they hold was there already.
    pub source_unread: bool,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A snapshot that another store has imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportedSnapshot {
    /// Snapshot digest.
    pub digest: Digest,
    /// Its name there.
    pub name: String,
    /// What was done.
    pub outcome: Outcome,
    /// Where it is there.
    pub path: Option<String>,
}

/// The report of `sync`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncReport {
    /// Where to.
    pub destination: String,
    /// What the other side says of them. Head first, then parent, grandparent, ...
    pub snapshots: Vec<ImportedSnapshot>,
    /// Bytes of the blobs that were sent.
    pub sent_bytes: u64,
    /// Layers that were not sent, because the other side has what they hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutLayer>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A snapshot that was copied.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopiedSnapshot {
    /// Snapshot digest.
    pub digest: Digest,
    /// Its name in the bundle.
    pub name: String,
    /// Its tag at the destination, if it has one.
    pub tag: Option<String>,
    /// Digest of its OCI manifest.
    pub manifest: Digest,
}

/// The report of `copy`, and of `push` and `pull` of a bundle.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyReport {
    /// What was copied.
    pub source: String,
    /// Where to.
    pub destination: String,
    /// `dir`, `tar`, `tar.zst` or `registry`.
    pub form: String,
    /// Children before parents.
    pub snapshots: Vec<CopiedSnapshot>,
    /// Blobs, manifests among them.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Blobs that were sent or written.
    pub sent_blobs: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Blobs that the registry took from another of its repositories.
    pub mounted_blobs: usize,
    /// Layers that the source leaves out, and that no base has: the copy leaves them out too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutLayer>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A snapshot that tags of a repository name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteSnapshot {
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// The name that it was packed under.
    pub name: String,
    /// When it was made, RFC 3339, as its descriptor says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Bytes of its layers in the registry; those that it shares with others count each time.
    pub size: u64,
    /// The snapshot digest.
    pub digest: Digest,
    /// The manifest's digest.
    pub manifest: Digest,
    /// The parent's snapshot digest or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The parent's manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_manifest: Option<Digest>,
    /// The first tag of each child.
    pub children: Vec<String>,
}

/// What a delete took away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deleted {
    /// The manifest with all its tags.
    Manifest,
    /// One tag of several: the snapshot stays.
    Tag,
}

/// What was deleted from a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteReport {
    /// The reference that was given.
    pub reference: String,
    /// The manifest that it named.
    pub manifest: Digest,
    /// What went.
    pub deleted: Deleted,
    /// The tags that went with the manifest; of a tag, those that the snapshot still has.
    pub tags: Vec<String>,
}

/// The tags of a repository.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagsReport {
    /// The repository.
    pub repository: String,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// What they name; only with `--long`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Vec<RemoteSnapshot>>,
}

/// One thing that verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// A stable code, such as `blob-missing`.
    pub code: &'static str,
    /// The blob or entry that it is about.
    pub subject: String,
    /// What is wrong.
    pub message: String,
}

/// The report of `verify`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// What was verified.
    pub source: String,
    /// Whether layers were to be decoded and roots compared.
    pub deep: bool,
    /// Whether that came to its end: every layer of every snapshot was decoded.
    pub decoded: bool,
    /// Snapshots found.
    pub snapshots: usize,
    /// Blobs checked.
    pub blobs: usize,
    /// Bytes of those blobs.
    pub blob_bytes: u64,
    /// Layers that the bundle leaves out, and that no base has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOutLayer>,
    /// Everything found; empty is good.
    pub findings: Vec<Finding>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A layer, as `inspect` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerReport {
    /// Digest of the blob.
    pub digest: Digest,
    /// `base`, `delta` or `cache`.
    pub kind: &'static str,
    /// Bytes of the blob.
    pub size: u64,
    /// The files in it.
    pub files: Vec<String>,
    /// How many snapshots of the bundle use it.
    pub used_by: usize,
    /// Whether the bundle leaves it out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
}

/// A file, as `inspect` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileReport {
    /// Path in the snapshot directory.
    pub path: String,
    /// Logical size, in bytes.
    pub size: u64,
    /// Bytes in blocks that are not zero.
    pub data_bytes: u64,
    /// Executable.
    pub executable: bool,
}

/// A snapshot of a bundle or store, as `inspect` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InspectedSnapshot {
    /// The tag, in a bundle.
    pub tag: Option<String>,
    /// The snapshot; `manifest` is absent for one in a store.
    pub digest: Digest,
    /// `snapshot_id`.
    pub id: Option<String>,
    /// Name.
    pub name: String,
    /// Parent as the descriptor names it.
    pub parent: Option<SnapshotIdentity>,
    /// Pinned image.
    pub image: Option<ImageRecord>,
    /// The descriptor's contract.
    pub generation: Generation,
    /// Disk format.
    pub format: String,
    /// Creation time.
    pub created_at: Option<String>,
    /// Manifest digest, in a bundle.
    pub manifest: Option<Digest>,
    /// Files.
    pub files: Vec<FileReport>,
    /// Layers, in a bundle.
    pub layers: Vec<LayerReport>,
}

/// The report of `inspect`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InspectReport {
    /// What was inspected.
    pub source: String,
    /// Head first.
    pub snapshots: Vec<InspectedSnapshot>,
    /// Bytes of all distinct blobs, in a bundle.
    pub blob_bytes: Option<u64>,
    /// What is said of an archive of msb.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveReport>,
}

/// An archive of msb, as `inspect` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveReport {
    /// Its form: `microsandbox.snapshot-archive/1`, `schema 1` or `0.6.6`.
    pub form: &'static str,
    /// Files in it.
    pub files: usize,
    /// Their bytes in it.
    pub bytes: u64,
    /// Whether it needs nothing of others.
    pub complete: bool,
    /// Members that it leaves out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Files of the image cache in it.
    pub cache_files: Vec<String>,
}

/// One snapshot of `list`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSnapshot {
    /// Name, `group:member` for one in a group.
    pub name: String,
    /// Its group.
    pub group: Option<String>,
    /// Whether it is the head of its group.
    pub is_head: bool,
    /// Snapshot digest.
    pub digest: Digest,
    /// `snapshot_id`.
    pub id: Option<String>,
    /// Parent as the descriptor names it.
    pub parent: Option<SnapshotIdentity>,
    /// Whether the parent is in the store.
    pub parent_present: bool,
    /// The descriptor's contract.
    pub generation: Generation,
    /// Logical size of the head disk, in bytes.
    pub virtual_size: u64,
    /// Bytes that a full snapshot takes on disk.
    pub allocated_bytes: Option<u64>,
    /// Creation time.
    pub created_at: Option<String>,
    /// Image reference.
    pub image: Option<String>,
    /// Directory.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
}

/// The report of `list`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListReport {
    /// The store.
    #[serde(serialize_with = "lossy")]
    pub store: PathBuf,
    /// Parents before children.
    pub snapshots: Vec<ListedSnapshot>,
    /// Directories that are no readable snapshot, with the reason.
    #[serde(serialize_with = "lossy_pairs")]
    pub unreadable: Vec<(PathBuf, String)>,
    /// The EROFS files of the image cache, relative to it; none unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_files: Option<Vec<String>>,
}

/// The report of `check`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The store.
    #[serde(serialize_with = "lossy")]
    pub store: PathBuf,
    /// Snapshot directories looked at.
    pub snapshots: usize,
    /// Those that an import left a record of: every file is compared with it.
    pub recorded: usize,
    /// Files read.
    pub files: usize,
    /// Bytes of them in blocks that are not zero.
    pub data_bytes: u64,
    /// Everything that is wrong now; empty is good.
    pub findings: Vec<Finding>,
    /// What nothing vouches for, so that it could not be compared, and parents that an import left out: no damage, as far as
    /// anybody knows.
    pub notes: Vec<Finding>,
    /// What was wrong and has been repaired.
    pub repaired: Vec<Finding>,
    /// Whether msb's database knows what was repaired; none where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexReport>,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A snapshot that was removed, or would be.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedSnapshot {
    /// Name, `group:member` for one in a group.
    pub name: String,
    /// Snapshot digest.
    pub digest: Digest,
    /// `snapshot_id`.
    pub id: Option<String>,
    /// Its directory.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
}

/// The report of `remove`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveReport {
    /// The store.
    #[serde(serialize_with = "lossy")]
    pub store: PathBuf,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The snapshots, children before their parents.
    pub removed: Vec<RemovedSnapshot>,
    /// Those that have lost their parent.
    pub orphaned: Vec<String>,
    /// What became of the heads of groups.
    pub heads: Vec<HeadUpdate>,
    /// Image-cache files that went too.
    #[serde(serialize_with = "lossy_list")]
    pub cache_files: Vec<PathBuf>,
    /// Why image-cache files stay, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Files of an earlier snapcask that msb can read now, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<String>,
    /// Whether msb's database knows that they are gone; none where nothing was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexReport>,
    /// Bytes that all of it took on disk; blocks shared with others count, too.
    pub allocated_bytes: u64,
    /// Wall time, seconds.
    pub seconds: f64,
}

// JSON is UTF-8, paths need not be: what does not fit is shown with U+FFFD, as everywhere in messages.

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn lossy_option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

fn lossy_list<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}

fn lossy_pairs<S: Serializer>(pairs: &[(PathBuf, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(pairs.iter().map(|(path, text)| (path.to_string_lossy(), text)))
}
