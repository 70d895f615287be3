//! Placing what is staged and verified: folders by one rename each, a new group with all its members by one rename, and
//! members of a group that exists in the order of msb: leases, the group's lock, checks, renames, names, head.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    Import, Incoming, local_name,
    targets::{GroupOrigin, Installed, Place, Target, TargetGroup},
};
use crate::{
    error::{Error, IoContext, Result},
    fixed_folder::is_fixed,
    model::{GroupName, MemberName, SnapshotIdentity, SnapshotRecord},
    report::{HeadUpdate, Outcome},
    snapshot::{GROUP_FILE, MEMBER_FILE, Snapshot, is_there},
    store::{
        group::{CreationLock, LockedGroup, Member, is_group_at, write_new},
        head::{HeadRule, check_ancestry, decide},
        lease::{DeletionLease, Lease},
        place::{Placed, Stage, place_directory, replace_file_by_file, sync_folder, sync_if_ours},
    },
};

/// What placing did beside the snapshots themselves.
#[derive(Debug, Default)]
pub(super) struct Placing {
    /// What became of a group's head.
    pub head: Option<HeadUpdate>,
    /// Files of a group that an earlier snapcask wrote and that msb can read now.
    pub mended: Vec<String>,
    /// Keep msb from removing what was placed.
    pub leases: Vec<Lease>,
    /// Keep msb away from what is exchanged, by its path.
    claims: BTreeMap<PathBuf, DeletionLease>,
    /// The head of the new group that is in the stage.
    staged: Option<HeadUpdate>,
    /// What is done to a group that exists.
    change: Option<GroupChange>,
}

/// A change of a group that exists and is locked.
#[derive(Debug)]
struct GroupChange {
    group: LockedGroup,
    /// `None` where the head is not asked about.
    head: Option<HeadUpdate>,
    /// A name for an installed member.
    name: Option<(String, MemberName)>,
}

impl Import<'_> {
    /// Makes the locks and the new group that placing needs, and checks the group that exists, because a full disk or an
    /// invalid group must say so before anything is visible.
    pub(super) fn prepare_places(
        &self,
        stage: &Stage,
        incoming: &mut [Incoming],
        group: Option<&TargetGroup>,
    ) -> Result<Placing> {
        let mut placing = Placing::default();
        let progress = self.options.progress.as_ref();
        for snapshot in incoming.iter().filter(|s| s.outcome == Outcome::Placed && member_of(s).is_none()) {
            let path = &snapshot.target.path;
            if !is_there(path)? {
                placing.leases.push(Lease::shared(path, progress)?);
            } else if self.options.force {
                placing.claims.insert(path.clone(), claim(path)?);
            }
        }
        if group.is_some() {
            drop(CreationLock::take(&self.destination, progress)?);
        }
        self.plan_groups(stage, incoming, group, &mut placing)?;
        Ok(placing)
    }

    /// Gives every staged snapshot its place, oldest first, because a child is never visible without its parent.
    pub(super) fn place_all(
        &self,
        stage: &Stage,
        incoming: &mut [Incoming],
        group: Option<TargetGroup>,
        mut placing: Placing,
    ) -> Result<Placing> {
        for snapshot in incoming.iter_mut().filter(|s| s.outcome == Outcome::Placed) {
            if matches!(snapshot.target.place, Place::Member { .. }) {
                continue;
            }
            snapshot.outcome = self.place(snapshot, &mut placing)?;
        }
        self.place_staged_group(stage, incoming, group, &mut placing)?;
        if let Some(change) = placing.change.take() {
            self.change_group(incoming, change, &mut placing)?;
        }
        // Whoever placed a member need not have made its group durable.
        let folders: BTreeSet<&Path> = incoming.iter().filter_map(|snapshot| snapshot.target.path.parent()).collect();
        folders
            .into_iter()
            .filter(|folder| *folder != self.destination)
            .try_for_each(|folder| sync_if_ours(folder, Path::new(GROUP_FILE)))?;
        Ok(placing)
    }

    /// Renames one snapshot into place; with `force` it is exchanged for what is installed, unless msb uses that.
    fn place(&self, snapshot: &Incoming, placing: &mut Placing) -> Result<Outcome> {
        let path = &snapshot.target.path;
        if self.options.force && is_there(path)? && !placing.claims.contains_key(path) {
            placing.claims.insert(path.clone(), claim(path)?);
        }
        match place_directory(&self.destination, &snapshot.directory, path, self.options.force) {
            Ok(Placed::Placed) => Ok(Outcome::Placed),
            // Another import was faster: identical is as good as placed by us.
            Ok(Placed::AlreadyThere) | Err(Error::AlreadyExists { .. }) => {
                let descriptor = || Snapshot::open(&snapshot.directory).map(|staged| Some(staged.descriptor));
                self.compare_existing(snapshot.brought.config, path, &descriptor)?;
                Ok(Outcome::AlreadyThere)
            }
            Err(error) if is_fixed(&error) => {
                let claim = placing.claims.get(path).ok_or(error)?;
                replace_file_by_file(&self.destination, &snapshot.directory, path, claim)?;
                Ok(Outcome::Placed)
            }
            Err(error) => Err(error),
        }
    }

    /// Decides what becomes of groups. Locks one that exists, and stages a new one.
    fn plan_groups(
        &self,
        stage: &Stage,
        incoming: &mut [Incoming],
        group: Option<&TargetGroup>,
        placing: &mut Placing,
    ) -> Result<()> {
        placing.change = match group {
            Some(group) if group.origin == GroupOrigin::Asked => self.plan_join(incoming, &group.name, placing)?,
            _ => self.plan_installed(incoming, placing)?,
        };
        let is_joined = |group: &TargetGroup| placing.change.as_ref().is_some_and(|c| *c.group.name() == group.name);
        placing.staged = match group.filter(|group| !is_joined(group)) {
            Some(group) => Some(self.stage_group(stage, incoming, &group.name)?),
            None => None,
        };
        Ok(())
    }

    /// Places the group that is staged. Somebody else may have made one of its name since, or installed its members.
    fn place_staged_group(
        &self,
        stage: &Stage,
        incoming: &mut [Incoming],
        mut group: Option<TargetGroup>,
        placing: &mut Placing,
    ) -> Result<()> {
        while let (Some(head), Some(target)) = (placing.staged.take(), &mut group) {
            let folder = self.destination.join(target.name.as_str());
            let lock = CreationLock::take(&self.destination, self.options.progress.as_ref())?;
            let is_fresh = target.origin == GroupOrigin::Fresh;
            if is_fresh && self.find_installed(incoming)? {
                if !incoming.iter().any(|snapshot| snapshot.outcome == Outcome::Placed) {
                    return Ok(());
                }
            } else {
                match place_directory(&self.destination, &stage.path().join(STAGED_GROUP), &folder, false) {
                    Ok(_) => placing.head = Some(head),
                    Err(Error::AlreadyExists { .. }) if is_fresh => {
                        *target = TargetGroup::fresh(&self.destination)?;
                        let folder = self.destination.join(target.name.as_str());
                        for snapshot in incoming.iter_mut() {
                            if let Place::Member { id, .. } = &snapshot.target.place {
                                snapshot.target.path = folder.join(id);
                            }
                        }
                    }
                    Err(Error::AlreadyExists { .. }) if is_group_at(&folder)? => {}
                    Err(error) => return Err(error),
                }
            }
            if placing.head.is_none() {
                // The next plan may wait for the lock of a group, which nobody does who holds this one.
                drop(lock);
                placing.change = None;
                self.plan_groups(stage, incoming, group.as_ref(), placing)?;
            }
        }
        Ok(())
    }

    /// Finds new members that another import has placed meanwhile: they stay where that put them. Tells whether there are any.
    fn find_installed(&self, incoming: &mut [Incoming]) -> Result<bool> {
        let installed = Installed::read(&self.destination)?;
        let mut any = false;
        for snapshot in incoming.iter_mut().filter(|snapshot| snapshot.outcome == Outcome::Placed) {
            let Place::Member { .. } = snapshot.target.place else { continue };
            let Some(path) = installed.same(&snapshot.brought.config.snapshot).map(Path::to_path_buf) else { continue };
            let descriptor = || Snapshot::open(&snapshot.directory).map(|staged| Some(staged.descriptor));
            self.compare_existing(snapshot.brought.config, &path, &descriptor)?;
            let staged = std::mem::replace(&mut snapshot.directory, path.clone());
            fs::remove_dir_all(&staged).context("remove", &staged)?;
            snapshot.installed_name = Some(local_name(&path)?);
            snapshot.target = Target { path, place: Place::Installed };
            snapshot.outcome = Outcome::AlreadyThere;
            any = true;
        }
        Ok(any)
    }

    /// Makes the whole group in the stage, with its members and its head, durably.
    fn stage_group(&self, stage: &Stage, incoming: &mut [Incoming], name: &GroupName) -> Result<HeadUpdate> {
        let staged = stage.path().join(STAGED_GROUP);
        if !is_there(&staged)? {
            fs::create_dir(&staged).context("create", &staged)?;
            // Everybody may list a group, as one that msb makes.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&staged, mode).context("set the mode of", &staged)?;
        }
        let mut members = std::collections::BTreeMap::new();
        for snapshot in incoming.iter_mut() {
            let Some(member) = member_of(snapshot) else { continue };
            let directory = staged.join(&member.id);
            if snapshot.directory != directory {
                fs::rename(&snapshot.directory, &directory).context("rename", &snapshot.directory)?;
                snapshot.directory = directory;
            }
            members.insert(member.id.clone(), member);
        }
        check_ancestry(&members)?;
        let candidates = candidates(incoming, &self.destination.join(name.as_str()));
        let head = decide(name, None, &candidates, &members, self.options.head)?;
        write_new(&staged, head.head.as_deref())?;
        sync_folder(stage.path())?;
        Ok(head)
    }

    /// Locks the group that exists, and checks that the new members may go there.
    fn plan_join(
        &self,
        incoming: &mut [Incoming],
        name: &GroupName,
        placing: &mut Placing,
    ) -> Result<Option<GroupChange>> {
        let progress = self.options.progress.as_ref();
        if !is_group_at(&self.destination.join(name.as_str()))? {
            return Ok(None);
        }
        // msb takes the leases first; the other order could wait for a removal that waits for the group's lock.
        for snapshot in incoming.iter().filter(|s| member_of(s).is_some()) {
            placing.leases.push(Lease::shared(&snapshot.target.path, progress)?);
        }
        let Some(group) = LockedGroup::lock(&self.destination, name, progress)? else { return Ok(None) };
        placing.mended.extend_from_slice(group.mended());
        group.check_head()?;
        let mut members = group.members().clone();
        for snapshot in incoming.iter_mut() {
            let Some(mut member) = member_of(snapshot) else { continue };
            match members.get(&member.id) {
                Some(existing) if existing.digest != member.digest => {
                    let (existing, incoming) = (existing.digest.to_string(), member.digest.to_string());
                    return Err(Error::Different { path: snapshot.target.path.clone(), existing, incoming });
                }
                Some(_) => continue,
                None => {}
            }
            let same_name = |other: &&Member| other.name.is_some() && other.name == member.name;
            if let Some(holder) = members.values().find(same_name) {
                let holder = holder.id.clone();
                self.drop_name(snapshot, &mut member, name, holder)?;
            }
            members.insert(member.id.clone(), member);
        }
        check_ancestry(&members)?;
        let candidates = candidates(incoming, group.folder());
        let head = Some(decide(name, group.head(), &candidates, &members, self.options.head)?);
        let name = self.name_for_head(incoming, &group)?;
        Ok(Some(GroupChange { group, head, name }))
    }

    /// Places new members in a group that exists, then changes names and the head.
    fn change_group(&self, incoming: &mut [Incoming], change: GroupChange, placing: &mut Placing) -> Result<()> {
        let GroupChange { mut group, head, name } = change;
        for snapshot in incoming.iter_mut().filter(|s| s.outcome == Outcome::Placed) {
            let is_new = matches!(snapshot.target.place, Place::Member { .. });
            if is_new && snapshot.target.path.parent() == Some(group.folder()) {
                snapshot.outcome = self.place(snapshot, placing)?;
            }
        }
        if let Some((id, name)) = name {
            group.name_member(&id, name)?;
        }
        sync_folder(group.folder())?;
        sync_if_ours(group.folder(), Path::new(GROUP_FILE))?;
        if let Some(head) = head {
            group.apply(&head)?;
            placing.head = Some(head);
        }
        Ok(())
    }

    /// Takes the name of a new member away, because another one got it meanwhile; the head's was chosen and is an error.
    fn drop_name(&self, snapshot: &mut Incoming, member: &mut Member, group: &GroupName, holder: String) -> Result<()> {
        let name = member.name.take().map(String::from).unwrap_or_default();
        if snapshot.is_head {
            return Err(Error::NameTaken { group: group.to_string(), name, holder });
        }
        let file = snapshot.directory.join(MEMBER_FILE);
        fs::remove_file(&file).context("remove", &file)?;
        snapshot.target.place = Place::Member { id: member.id.clone(), name: None };
        sync_folder(&snapshot.directory)
    }

    /// `--name` and `--set-head` for a snapshot that is installed, and that no new member joins.
    fn plan_installed(&self, incoming: &[Incoming], placing: &mut Placing) -> Result<Option<GroupChange>> {
        if self.options.name.is_none() && self.options.head == HeadRule::Automatic {
            return Ok(None);
        }
        let Some(head) = incoming.last().filter(|head| head.target.place == Place::Installed) else { return Ok(None) };
        let Some(id) = head.brought.config.snapshot.id.clone() else { return Ok(None) };
        let Some(name) = group_of(&head.target.path, &self.destination) else { return Ok(None) };
        let Some(group) = LockedGroup::lock(&self.destination, &name, self.options.progress.as_ref())? else {
            return Ok(None);
        };
        placing.mended.extend_from_slice(group.mended());
        let head = match self.options.head {
            HeadRule::Automatic => None,
            rule => Some(decide(&name, group.head(), &BTreeSet::from([id]), group.members(), rule)?),
        };
        let name = self.name_for_head(incoming, &group)?;
        Ok(Some(GroupChange { group, head, name }))
    }

    /// The name that `--name` asks for, where it has to be given to an installed head.
    fn name_for_head(&self, incoming: &[Incoming], group: &LockedGroup) -> Result<Option<(String, MemberName)>> {
        let Some(asked) = &self.options.name else { return Ok(None) };
        let Some(head) = incoming.last().filter(|head| head.target.path.parent() == Some(group.folder())) else {
            return Ok(None);
        };
        let name: MemberName = asked.parse()?;
        let Some(member) = head.brought.config.snapshot.id.as_ref().and_then(|id| group.members().get(id)) else {
            return Ok(None);
        };
        let (id, group_name) = (member.id.clone(), group.name().to_string());
        if let Some(existing) = &member.name {
            if *existing == name {
                return Ok(None);
            }
            let (existing, name) = (existing.to_string(), name.to_string());
            return Err(Error::AlreadyNamed { group: group_name, id, existing, name });
        }
        if let Some(holder) = group.members().values().find(|other| other.name.as_ref() == Some(&name)) {
            let holder = holder.id.clone();
            return Err(Error::NameTaken { group: group_name, name: name.to_string(), holder });
        }
        Ok(Some((id, name)))
    }
}

/// The new group's name in the stage.
const STAGED_GROUP: &str = "group";

/// Claims what is installed at `path`, which is exchanged.
fn claim(path: &Path) -> Result<DeletionLease> {
    DeletionLease::try_claim(path)?.ok_or_else(|| Error::InUse { path: path.into() })
}

/// The member that a staged snapshot becomes.
fn member_of(snapshot: &Incoming) -> Option<Member> {
    let Place::Member { id, name } = &snapshot.target.place else { return None };
    let record = &snapshot.brought.config.snapshot;
    let parent = match &record.parent {
        Some(SnapshotIdentity::Id(parent)) => Some(parent.clone()),
        _ => None,
    };
    Some(Member { id: id.clone(), digest: record.digest, parent, name: name.clone() })
}

/// What may become the head of the group at `folder`: those of its members among the incoming that no other one descends from.
fn candidates(incoming: &[Incoming], folder: &Path) -> BTreeSet<String> {
    let members = incoming.iter().filter(|snapshot| snapshot.target.path.parent() == Some(folder));
    let records: Vec<&SnapshotRecord> = members.map(|snapshot| &snapshot.brought.config.snapshot).collect();
    let parents: BTreeSet<&SnapshotIdentity> = records.iter().filter_map(|record| record.parent.as_ref()).collect();
    let is_tip = |record: &&&SnapshotRecord| !record.identities().iter().any(|identity| parents.contains(identity));
    records.iter().filter(is_tip).filter_map(|record| record.id.clone()).collect()
}

/// The group that `directory` is a member of.
fn group_of(directory: &Path, destination: &Path) -> Option<GroupName> {
    let folder: PathBuf = directory.parent()?.into();
    let name: GroupName = folder.strip_prefix(destination).ok()?.to_str()?.parse().ok()?;
    is_group_at(&folder).is_ok_and(|is_group| is_group).then_some(name)
}
