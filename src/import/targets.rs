//! Where each snapshot of a chain goes: a folder of its own, the import's group, or where it is installed already.

use std::{
    collections::HashMap,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::Import;
use crate::{
    bundle::Brought,
    error::{Error, IoContext, Result},
    model::{GroupName, MemberName, SnapshotIdentity, SnapshotRecord},
    snapshot::{Snapshot, is_folder, is_there, seen, visible},
    store::{
        Readable, Store,
        group::{MemberFile, is_group_at},
        place::check_way,
    },
};

/// What a snapshot's place is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A folder of its own in the destination: snapshots without a `snapshot_id`.
    Folder,
    /// The import's group, under this `snapshot_id`, with this local name.
    Member {
        /// `snapshot_id`.
        id: String,
        /// Local name; `None` where msb refuses the bundle's name, or another member has it.
        name: Option<MemberName>,
    },
    /// Where it is installed.
    Installed,
}

/// Where one snapshot goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Its directory.
    pub path: PathBuf,
    /// What that is.
    pub place: Place,
}

/// How the import's group came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupOrigin {
    /// `--group` names it.
    Asked,
    /// A new one, under a name that nobody has.
    Fresh,
}

/// The group that new `final` snapshots go to.
#[derive(Clone, Debug)]
pub(super) struct TargetGroup {
    /// Its name.
    pub name: GroupName,
    /// Where the name is from.
    pub origin: GroupOrigin,
}

/// The targets of a chain, head first.
#[derive(Debug)]
pub(super) struct Targets {
    /// The group; `None` where no snapshot of the chain is or becomes a member of it.
    pub group: Option<TargetGroup>,
    /// One for each snapshot of the chain.
    pub all: Vec<Target>,
    /// A group that holds a parent of what goes elsewhere.
    pub suggested_group: Option<String>,
    /// Why one of them may be installed unseen.
    pub denied: Option<Error>,
}

impl TargetGroup {
    /// A group under a name as msb gives one, `msb-` and eight hex digits, that nothing in `destination` has.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn fresh(destination: &Path) -> Result<Self> {
        loop {
            let name = format!("msb-{:08x}", RandomState::new().build_hasher().finish() & 0xffff_ffff);
            if !is_there(&destination.join(&name))? {
                return Ok(Self { name: name.parse()?, origin: GroupOrigin::Fresh });
            }
        }
    }
}

impl Import<'_> {
    /// Where every snapshot of the chain goes.
    pub(super) fn targets(&self, chain: &[Brought]) -> Result<Targets> {
        let asked = self.options.group.as_deref().map(str::parse::<GroupName>).transpose()?;
        if let (Some(group), true) = (&asked, chain.iter().all(|s| s.config.snapshot.id.is_none())) {
            return Err(Error::Usage(format!(
                "--group {group}: groups are for snapshots of msb 0.7, and the bundle has none; leave --group out"
            )));
        }
        let installed = Installed::read(&self.destination)?;
        let group = match asked {
            Some(name) => TargetGroup { name, origin: GroupOrigin::Asked },
            None => TargetGroup::fresh(&self.destination)?,
        };
        let folder = self.destination.join(group.name.as_str());
        let mut taken = names_in(&folder)?;
        let mut all: Vec<Target> = Vec::new();
        for (position, snapshot) in chain.iter().enumerate() {
            let target = self.target(position, snapshot, &installed, &group, &mut taken)?;
            if all.iter().any(|other| other.path == target.path) {
                return Err(Error::Usage(format!(
                    "two snapshots of the bundle would be placed at {}; choose a name for the head with --name",
                    target.path.display()
                )));
            }
            all.push(target);
        }
        if all.iter().any(|target| target.path.parent() == Some(&folder)) {
            // A link in the group's place is told as what it is.
            check_way(&self.destination, &folder.join("member"))?;
        }
        let is_taken = is_there(&folder)? && !is_group_at(&folder)? || all.iter().any(|other| other.path == folder);
        if is_taken && all.iter().any(|target| target.path.parent() == Some(&folder)) {
            return Err(Error::Usage(format!(
                "{} is no group of snapshots; choose another group with --group",
                folder.display()
            )));
        }
        let suggested_group = self.suggested(chain, &all, &installed, &group);
        let used = all.iter().any(|target| target.path.parent() == Some(&folder));
        Ok(Targets { group: used.then_some(group), all, suggested_group, denied: installed.denied })
    }

    fn target(
        &self,
        position: usize,
        snapshot: &Brought,
        installed: &Installed,
        group: &TargetGroup,
        taken: &mut HashMap<MemberName, String>,
    ) -> Result<Target> {
        let record = &snapshot.config.snapshot;
        let is_head = position == 0;
        let asked = self.options.name.as_deref().filter(|_| is_head);
        let Some(id) = &record.id else {
            let name = asked.map(str::parse).transpose()?.unwrap_or_else(|| record.name.clone());
            let path = self.destination.join(name.as_str());
            // A name that is asked for, or that something has, is where it goes or what is compared.
            if asked.is_none()
                && !is_there(&path)?
                && let Some(path) =
                    installed.same(record).or_else(|| installed.named(&SnapshotIdentity::migrated(&record.digest)))
            {
                return Ok(Target { path: path.into(), place: Place::Installed });
            }
            return Ok(Target { path, place: Place::Folder });
        };
        let folder = self.destination.join(group.name.as_str());
        let path = folder.join(id);
        if seen(is_folder(&path))? {
            return Ok(Target { path, place: Place::Installed });
        }
        // A head goes into the group that is asked for, parents stay where they are.
        if group.origin == GroupOrigin::Fresh || !is_head {
            let original = || installed.named(&SnapshotIdentity::Id(id.clone()));
            if let Some(path) = installed.same(record).or_else(|| installed.member(id)).or_else(original) {
                return Ok(Target { path: path.into(), place: Place::Installed });
            }
        }
        let name = match asked {
            Some(name) => Some(name.parse::<MemberName>()?),
            None => record.name.as_str().parse().ok(),
        };
        // Only the head's name can be chosen, so a parent whose name is taken goes without.
        let name = match name {
            Some(name) => match taken.get(&name) {
                Some(holder) if is_head => {
                    let (group, holder) = (group.name.to_string(), holder.clone());
                    return Err(Error::NameTaken { group, name: name.to_string(), holder });
                }
                Some(_) => None,
                None => {
                    taken.insert(name.clone(), id.clone());
                    Some(name)
                }
            },
            None => None,
        };
        Ok(Target { path, place: Place::Member { id: id.clone(), name } })
    }

    /// The group of a relative of what goes to a fresh group: of a snapshot of the chain that is installed, else of the
    /// oldest one's parent.
    fn suggested(
        &self,
        chain: &[Brought],
        all: &[Target],
        installed: &Installed,
        group: &TargetGroup,
    ) -> Option<String> {
        let is_new = |target: &Target| matches!(target.place, Place::Member { .. });
        if group.origin == GroupOrigin::Asked || !all.iter().any(is_new) {
            return None;
        }
        let parent = || installed.named(chain.last()?.config.snapshot.parent.as_ref()?);
        let relative = all.iter().find(|target| target.place == Place::Installed).map(|target| target.path.as_path());
        let folder = relative.or_else(parent)?.parent()?;
        let name: GroupName = folder.strip_prefix(&self.destination).ok()?.to_str()?.parse().ok()?;
        Some(name.into())
    }
}

/// The snapshots of the destination.
pub(super) struct Installed {
    snapshots: Vec<Snapshot>,
    /// Why one more may be there.
    pub(super) denied: Option<Error>,
    /// Folders of members, by their names, whatever they hold.
    members: Vec<PathBuf>,
}

impl Installed {
    pub(super) fn read(destination: &Path) -> Result<Self> {
        let Readable { snapshots, denied } = Store::readable_in(destination)?;
        let mut members = Vec::new();
        let entries = match fs::read_dir(destination) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self { snapshots, denied, members }),
            entries => entries.context("list", destination)?,
        };
        for entry in entries {
            let path = entry.context("list", destination)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if hidden || !visible(is_group_at(&path))? {
                continue;
            }
            for member in visible(fs::read_dir(&path).context("list", &path).map(Some))?.into_iter().flatten() {
                members.push(member.context("list", &path)?.path());
            }
        }
        members.sort_unstable();
        Ok(Self { snapshots, denied, members })
    }

    /// The directory of this very snapshot; else of what a migration made of it, or will make it of, as far as ids tell.
    /// It is compared before it is taken for the same.
    pub(super) fn same(&self, record: &SnapshotRecord) -> Option<&Path> {
        let identical = |snapshot: &&Snapshot| snapshot.descriptor.digest == record.digest;
        let may_be = |snapshot: &&Snapshot| snapshot.descriptor.may_be(record);
        let found = self.snapshots.iter().find(identical).or_else(|| self.snapshots.iter().find(may_be));
        found.map(|snapshot| snapshot.directory.as_path())
    }

    /// The directory of a member with this `snapshot_id`, which may be damaged or another snapshot.
    fn member(&self, id: &str) -> Option<&Path> {
        self.members.iter().find(|path| path.file_name().is_some_and(|name| name == id)).map(PathBuf::as_path)
    }

    /// The directory of the snapshot that a child calls so.
    fn named(&self, identity: &SnapshotIdentity) -> Option<&Path> {
        let named = |snapshot: &&Snapshot| snapshot.identities().contains(identity);
        self.snapshots.iter().find(named).map(|snapshot| snapshot.directory.as_path())
    }
}

/// The local names in a group, each with its member.
fn names_in(folder: &Path) -> Result<HashMap<MemberName, String>> {
    let mut names = HashMap::new();
    if !is_group_at(folder)? {
        return Ok(names);
    }
    for entry in fs::read_dir(folder).context("list", folder)? {
        let entry = entry.context("list", folder)?;
        if !seen(is_folder(&entry.path()))? {
            continue;
        }
        let name = seen(MemberFile::read(&entry.path()).map(|file| match file {
            MemberFile::Named(name) => Some(name),
            MemberFile::Old(name) => name.parse().ok(),
            MemberFile::Absent | MemberFile::Invalid(_) => None,
        }))?;
        names.extend(name.map(|name| (name, entry.file_name().to_string_lossy().into_owned())));
    }
    Ok(names)
}
