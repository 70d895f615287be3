//! Groups of msb 0.7: a folder of members, their local names, and the head that a sandbox starts from.
//!
//! ```text
//! snapshots/
//!   .groups.lock                  held while a group is made
//!   web/
//!     group.json                  {"schema":"microsandbox.snapshot-group/1","head":"snap_..."|null}
//!     .group.lock                 held while names, members or the head change
//!     snap_<32 hex digits>/
//!       snapshot.json
//!       group-member.json         {"schema":"microsandbox.snapshot-group-member/1","name":"v2"}
//! ```
//!
//! msb refuses every operation on a group with an unknown field in one of these files, so they are written exactly so.
//! Source: `group.rs` of microsandbox 0.7.13.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::lease::{GROUPS_LOCK, lock_exclusive, open_lock_file};
use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    model::{GroupName, MemberName, SnapshotIdentity},
    progress::Progress,
    report::HeadUpdate,
    snapshot::{GROUP_FILE, MEMBER_FILE, SNAPSHOT_FILE, Snapshot, V066_FILE, is_folder, is_there},
    temporary::{self, publish},
};

/// Held by whoever changes a group.
pub const GROUP_LOCK: &str = ".group.lock";
/// Keeps a name of an earlier snapcask that msb would refuse.
const OLD_NAME_FILE: &str = ".group-member.json.old";
const GROUP_SCHEMA: &str = "microsandbox.snapshot-group/1";
const MEMBER_SCHEMA: &str = "microsandbox.snapshot-group-member/1";
/// Largest `group.json` or `group-member.json`, in bytes.
const MAX_STATE: u64 = 4096;
/// Begins the names of files that are about to replace one of these.
const PREFIX: &str = ".snapcask-group-";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupState {
    schema: String,
    // msb writes it always, as null where there is no head.
    head: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberState {
    schema: String,
    name: String,
}

/// What snapcask before msb's format was known wrote as `group.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldGroup {
    #[serde(rename = "name")]
    _name: String,
}

/// What it wrote as `group-member.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldMember {
    alias: String,
}

/// What a `group.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupFile {
    /// The group has this head.
    Head(String),
    /// The group has no head.
    NoHead,
    /// An earlier snapcask wrote it; msb refuses it.
    Old,
    /// Neither msb nor snapcask wrote it; with the reason.
    Invalid(String),
}

/// What a `group-member.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberFile {
    /// The member has no name of its own.
    Absent,
    /// The member's name.
    Named(MemberName),
    /// An earlier snapcask wrote this name; msb refuses the file.
    Old(String),
    /// Neither msb nor snapcask wrote it; with the reason.
    Invalid(String),
}

impl GroupFile {
    /// Reads that of the group at `folder`.
    ///
    /// # Errors
    /// [`Error::Io`], also where it does not exist.
    pub fn read(folder: &Path) -> Result<Self> {
        let bytes = match read_state(folder, GROUP_FILE)? {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(Error::io("open", folder.join(GROUP_FILE), ErrorKind::NotFound.into())),
            Err(reason) => return Ok(Self::Invalid(reason)),
        };
        if serde_json::from_slice::<OldGroup>(&bytes).is_ok() {
            return Ok(Self::Old);
        }
        Ok(match serde_json::from_slice::<GroupState>(&bytes) {
            Err(error) => Self::Invalid(error.to_string()),
            Ok(state) if state.schema != GROUP_SCHEMA => {
                Self::Invalid(format!("its schema is {:?}, not {GROUP_SCHEMA:?}", state.schema))
            }
            Ok(GroupState { head: None, .. }) => Self::NoHead,
            Ok(GroupState { head: Some(head), .. }) => match head.parse() {
                Ok(SnapshotIdentity::Id(id)) => Self::Head(id),
                _ => Self::Invalid(format!("its head {head:?} is no snapshot_id")),
            },
        })
    }
}

impl MemberFile {
    /// Reads that of the member at `directory`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(directory: &Path) -> Result<Self> {
        let bytes = match read_state(directory, MEMBER_FILE)? {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Self::Absent),
            Err(reason) => return Ok(Self::Invalid(reason)),
        };
        if let Ok(OldMember { alias }) = serde_json::from_slice(&bytes) {
            return Ok(Self::Old(alias));
        }
        Ok(match serde_json::from_slice::<MemberState>(&bytes) {
            Err(error) => Self::Invalid(error.to_string()),
            Ok(state) if state.schema != MEMBER_SCHEMA => {
                Self::Invalid(format!("its schema is {:?}, not {MEMBER_SCHEMA:?}", state.schema))
            }
            Ok(state) => match state.name.parse() {
                Ok(name) => Self::Named(name),
                Err(error) => Self::Invalid(error.to_string()),
            },
        })
    }
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its `snapshot_id`.
    pub id: String,
    /// Its snapshot digest.
    pub digest: crate::Digest,
    /// Its parent's `snapshot_id`.
    pub parent: Option<String>,
    /// Its local name.
    pub name: Option<MemberName>,
}

impl Member {
    /// The member that `snapshot` is, under this name; `None` for a snapshot without a `snapshot_id`.
    pub fn of(snapshot: &Snapshot, name: Option<MemberName>) -> Option<Self> {
        let parent = match &snapshot.descriptor.parent {
            Some(SnapshotIdentity::Id(id)) => Some(id.clone()),
            _ => None,
        };
        Some(Self { id: snapshot.descriptor.id.clone()?, digest: snapshot.descriptor.digest, parent, name })
    }
}

/// Members by their `snapshot_id`.
pub type Members = BTreeMap<String, Member>;

/// A group that nobody else changes.
#[derive(Debug)]
pub struct LockedGroup {
    folder: PathBuf,
    name: GroupName,
    head: Option<String>,
    members: Members,
    mended: Vec<String>,
    _lock: File,
}

impl LockedGroup {
    /// Locks the group `name` in the folder `snapshots`, mends files that an earlier snapcask wrote, and reads all members.
    /// `None` where there is no such group.
    ///
    /// # Errors
    /// [`Error::InvalidGroup`] for a file that msb would refuse and that is not ours to mend, for a member that cannot be
    /// read, and for a name that two members have; [`Error::Io`].
    pub fn lock(snapshots: &Path, name: &GroupName, progress: &dyn Progress) -> Result<Option<Self>> {
        let folder = snapshots.join(name.as_str());
        loop {
            if !is_group_at(&folder)? {
                return Ok(None);
            }
            let (lock, path) = open_lock_file(folder.join(GROUP_LOCK))?;
            lock_exclusive(&lock, &path, progress)?;
            // Another run may have put the group away meanwhile.
            if is_file_at(&lock, &path)? {
                let mended = mend(&folder)?;
                let head = read_head(&folder)?;
                let members = read_members(&folder)?;
                let name = name.clone();
                return Ok(Some(Self { folder, name, head, members, mended, _lock: lock }));
            }
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its name.
    pub fn name(&self) -> &GroupName {
        &self.name
    }

    /// Its head's `snapshot_id`.
    pub fn head(&self) -> Option<&str> {
        self.head.as_deref()
    }

    /// Its members.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// What locking mended, for people.
    pub fn mended(&self) -> &[String] {
        &self.mended
    }

    /// The member that `reference` names: a name or a `snapshot_id`.
    ///
    /// # Errors
    /// [`Error::MemberNotFound`].
    pub fn member(&self, reference: &str) -> Result<&Member> {
        let named = |member: &&Member| member.name.as_ref().is_some_and(|name| name.as_str() == reference);
        self.members.get(reference).or_else(|| self.members.values().find(named)).ok_or_else(|| Error::MemberNotFound {
            group: self.name.to_string(),
            member: reference.chars().take(200).collect(),
        })
    }

    /// That the head is a member.
    ///
    /// # Errors
    /// [`Error::InvalidGroup`].
    pub fn check_head(&self) -> Result<()> {
        match &self.head {
            Some(head) if !self.members.contains_key(head) => Err(Error::InvalidGroup {
                path: self.folder.join(GROUP_FILE),
                reason: format!(
                    "its head {head} is not a member; select one with `snapcask head {}:MEMBER`",
                    self.name
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Writes the head, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_head(&mut self, head: Option<&str>) -> Result<()> {
        write_head(&self.folder, head)?;
        self.head = head.map(str::to_owned);
        Ok(())
    }

    /// Writes the head that `update` decided on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn apply(&mut self, update: &HeadUpdate) -> Result<()> {
        if update.head == self.head { Ok(()) } else { self.set_head(update.head.as_deref()) }
    }

    /// Gives an installed member a name, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn name_member(&mut self, id: &str, name: MemberName) -> Result<()> {
        write_name(&self.folder.join(id), &name)?;
        if let Some(member) = self.members.get_mut(id) {
            member.name = Some(name);
        }
        Ok(())
    }
}

/// Whether the folder of a group is at `folder`: a plain folder with `group.json` and no descriptor of its own.
///
/// # Errors
/// [`Error::Io`].
pub fn is_group_at(folder: &Path) -> Result<bool> {
    let plain = match fs::symlink_metadata(folder) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => false,
        metadata => metadata.context("look at", folder)?.is_dir(),
    };
    if !plain || !is_there(&folder.join(GROUP_FILE))? {
        return Ok(false);
    }
    Ok(!is_there(&folder.join(SNAPSHOT_FILE))? && !is_there(&folder.join(V066_FILE))?)
}

/// Held by whoever gives a new group its name.
#[derive(Debug)]
pub struct CreationLock {
    _file: File,
}

impl CreationLock {
    /// Locks the making of groups in the folder `snapshots`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn take(snapshots: &Path, progress: &dyn Progress) -> Result<Self> {
        let (file, path) = open_lock_file(snapshots.join(GROUPS_LOCK))?;
        lock_exclusive(&file, &path, progress)?;
        Ok(Self { _file: file })
    }
}

/// Writes the files of a new group into `folder`, which nobody sees yet, durably.
///
/// # Errors
/// [`Error::Io`].
pub fn write_new(folder: &Path, head: Option<&str>) -> Result<()> {
    let state = GroupState { schema: GROUP_SCHEMA.into(), head: head.map(str::to_owned) };
    write_staged(&folder.join(GROUP_FILE), &encode(&state))?;
    let (lock, path) = open_lock_file(folder.join(GROUP_LOCK))?;
    lock.sync_all().context("fsync", &path)?;
    super::place::sync_folder(folder)
}

/// Writes a member's name into its staged directory, durably.
///
/// # Errors
/// [`Error::Io`].
pub fn write_staged_name(directory: &Path, name: &MemberName) -> Result<()> {
    let state = MemberState { schema: MEMBER_SCHEMA.into(), name: name.to_string() };
    write_staged(&directory.join(MEMBER_FILE), &encode(&state))?;
    super::place::sync_folder(directory)
}

/// Every member of the group at `folder`.
///
/// # Errors
/// As [`LockedGroup::lock`].
pub fn read_members(folder: &Path) -> Result<Members> {
    let invalid = |path: PathBuf, reason: String| Error::InvalidGroup { path, reason };
    let mut members = Members::new();
    for (directory, snapshot) in member_snapshots(folder)? {
        let name = match MemberFile::read(&directory)? {
            MemberFile::Absent => None,
            MemberFile::Named(name) => Some(name),
            MemberFile::Old(_) => {
                return Err(invalid(directory.join(MEMBER_FILE), "an earlier snapcask wrote it".into()));
            }
            MemberFile::Invalid(reason) => return Err(invalid(directory.join(MEMBER_FILE), reason)),
        };
        if let Some(other) =
            name.as_ref().and_then(|name| members.values().find(|m: &&Member| m.name.as_ref() == Some(name)))
        {
            return Err(invalid(directory.join(MEMBER_FILE), format!("{} has the same name", other.id)));
        }
        match Member::of(&snapshot, name) {
            Some(member) if directory.file_name().is_some_and(|name| *name == *member.id) => {
                members.insert(member.id.clone(), member);
            }
            _ => return Err(invalid(directory, "its name is not the snapshot_id of its descriptor".into())),
        }
    }
    Ok(members)
}

/// The directories that msb takes for members, each with its snapshot.
fn member_snapshots(folder: &Path) -> Result<Vec<(PathBuf, Snapshot)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).context("list", folder)? {
        let path = entry.context("list", folder)?.path();
        let is_member = path.file_name().and_then(|n| n.to_str()).is_some_and(|name| name.starts_with("snap_"));
        if !is_member {
            continue;
        }
        let snapshot = Snapshot::open(&path).map_err(|error| match error {
            error @ Error::Io { .. } => error,
            error => Error::InvalidGroup { path: path.clone(), reason: format!("it is no readable member ({error})") },
        })?;
        found.push((path, snapshot));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Writes anew what an earlier snapcask wrote in another form, so that msb reads it. No name is lost: one that msb refuses
/// or that is taken stays in a hidden file beside the snapshot. Gives a line for each file.
///
/// # Errors
/// [`Error::Io`].
pub fn mend(folder: &Path) -> Result<Vec<String>> {
    let mut mended = Vec::new();
    let snapshots = member_snapshots(folder)?;
    let mut names: Vec<MemberName> = Vec::new();
    for (directory, _) in &snapshots {
        if let MemberFile::Named(name) = MemberFile::read(directory)? {
            names.push(name);
        }
    }
    for (directory, _) in &snapshots {
        let MemberFile::Old(old) = MemberFile::read(directory)? else { continue };
        let path = directory.join(MEMBER_FILE);
        match old.parse::<MemberName>() {
            Ok(name) if !names.contains(&name) => {
                write_name(directory, &name)?;
                names.push(name);
                mended.push(format!("{} has msb's form now", path.display()));
            }
            _ => {
                let kept = directory.join(OLD_NAME_FILE);
                publish(|| fs::rename(&path, &kept)).context("rename", &path)?;
                super::place::sync_folder(directory)?;
                mended.push(format!("msb cannot take the name {old:?}; {} keeps it", kept.display()));
            }
        }
    }
    if GroupFile::read(folder)? == GroupFile::Old {
        let members: Members =
            snapshots.iter().filter_map(|(_, s)| Member::of(s, None)).map(|m| (m.id.clone(), m)).collect();
        let is_parent = |id: &String| members.values().any(|m| m.parent.as_ref() == Some(id));
        let mut tips = members.keys().filter(|id| !is_parent(id));
        // Of several tips nobody ever said which one is the head.
        let head = match (tips.next(), tips.next()) {
            (Some(tip), None) => Some(tip.as_str()),
            _ => None,
        };
        write_head(folder, head)?;
        mended.push(format!("{} has msb's form now", folder.join(GROUP_FILE).display()));
    }
    Ok(mended)
}

fn read_head(folder: &Path) -> Result<Option<String>> {
    match GroupFile::read(folder)? {
        GroupFile::Head(head) => Ok(Some(head)),
        GroupFile::NoHead => Ok(None),
        GroupFile::Old => Err(Error::InvalidGroup {
            path: folder.join(GROUP_FILE),
            reason: "an earlier snapcask wrote it, and it was not mended".into(),
        }),
        GroupFile::Invalid(reason) => Err(Error::InvalidGroup { path: folder.join(GROUP_FILE), reason }),
    }
}

/// The bytes of a small file in `folder`; the reason where it is no such file.
fn read_state(folder: &Path, name: &str) -> Result<std::result::Result<Option<Vec<u8>>, String>> {
    let file = match Folder::open(folder)?.file(name, OFlags::RDONLY) {
        Ok(file) => file,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(Ok(None)),
        Err(Error::UnsafePath { reason, .. }) => return Ok(Err(reason.into())),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_STATE + 1).read_to_end(&mut bytes).context("read", folder.join(name))?;
    Ok(if bytes.len() as u64 > MAX_STATE {
        Err(format!("it is larger than {MAX_STATE} bytes"))
    } else {
        Ok(Some(bytes))
    })
}

fn encode(state: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(state).expect("strings and options encode")
}

pub(super) fn write_head(folder: &Path, head: Option<&str>) -> Result<()> {
    let state = GroupState { schema: GROUP_SCHEMA.into(), head: head.map(str::to_owned) };
    replace(folder, GROUP_FILE, &encode(&state))
}

fn write_name(directory: &Path, name: &MemberName) -> Result<()> {
    let state = MemberState { schema: MEMBER_SCHEMA.into(), name: name.to_string() };
    replace(directory, MEMBER_FILE, &encode(&state))
}

/// Replaces a file by one rename, durably.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (temporary, mut file) = temporary::make_file(folder, PREFIX.as_ref(), "", 0o666)?;
    let target = folder.join(name);
    let written =
        file.write_all(bytes).context("write", &temporary).and_then(|()| file.sync_all().context("fsync", &temporary));
    let renamed = written.and_then(|()| publish(|| fs::rename(&temporary, &target)).context("rename over", &target));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    temporary::forget(&temporary);
    renamed?;
    super::place::sync_folder(folder)
}

fn write_staged(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).context("create", path)?;
    file.write_all(bytes).context("write", path)?;
    file.sync_all().context("fsync", path)
}

pub(super) fn is_file_at(file: &File, path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata().context("look at", path)?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

/// Every group in the folder `snapshots`, sorted by name; folders that msb cannot address are left out.
///
/// # Errors
/// [`Error::Io`].
pub fn all(snapshots: &Path) -> Result<Vec<GroupName>> {
    let entries = match fs::read_dir(snapshots) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", snapshots)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.context("list", snapshots)?;
        let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if is_folder(&entry.path())? && is_group_at(&entry.path())? {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
