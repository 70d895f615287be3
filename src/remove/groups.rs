//! The groups that removed snapshots are members of: another head is written, or none, before a head goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    error::{Error, Result},
    model::GroupName,
    progress::Progress,
    report::{HeadCase, HeadUpdate},
    snapshot::Snapshot,
    store::group::{GroupFile, LockedGroup, MemberFile, Members, is_group_at, read_members},
};

/// All groups that lose members.
#[derive(Debug)]
pub(super) struct Groups(Vec<Group>);

#[derive(Debug)]
struct Group {
    name: GroupName,
    head: Option<String>,
    members: Members,
    /// The `snapshot_id`s of those that go.
    doomed: BTreeSet<String>,
    update: Option<HeadUpdate>,
    /// None in a dry run.
    locked: Option<LockedGroup>,
}

impl Groups {
    /// Locks the groups of `doomed` in the order of their names; in a dry run only reads them.
    ///
    /// A group under a name that msb refuses has no head that msb could start from, and is not locked.
    pub fn of(snapshots: &Path, doomed: &[Snapshot], dry_run: bool, progress: &dyn Progress) -> Result<Self> {
        let mut by_name: BTreeMap<GroupName, BTreeSet<String>> = BTreeMap::new();
        for snapshot in doomed {
            let name = snapshot.directory.parent().filter(|folder| folder.parent() == Some(snapshots));
            let name = name.and_then(|folder| folder.file_name()?.to_str()?.parse().ok());
            let id = snapshot.directory.file_name().and_then(|id| id.to_str());
            if let (Some(name), Some(id)) = (name, id) {
                by_name.entry(name).or_default().insert(id.into());
            }
        }
        let mut groups = Vec::new();
        for (name, doomed) in by_name {
            let folder = snapshots.join(name.as_str());
            let group = match dry_run {
                true if is_group_at(&folder)? => Group::read(&folder, name, doomed)?,
                true => continue,
                false => match LockedGroup::lock(snapshots, &name, progress)? {
                    Some(locked) => {
                        let (head, members) = (locked.head().map(str::to_owned), locked.members().clone());
                        Group { name, head, members, doomed, update: None, locked: Some(locked) }
                    }
                    None => continue,
                },
            };
            groups.push(group);
        }
        Ok(Self(groups))
    }

    /// Decides on the heads; `selected` becomes the head of the one group whose head goes.
    pub fn decide(&mut self, selected: Option<&str>) -> Result<()> {
        let losing = self.0.iter().filter(|group| group.loses_head()).count();
        match (selected, losing) {
            (Some(_), 0) => {
                return Err(Error::Usage(
                    "--set-head selects another head for a group whose head is removed, and no group loses its head"
                        .into(),
                ));
            }
            (Some(_), 2..) => {
                return Err(Error::Usage(
                    "--set-head selects one head, and several groups lose theirs; remove them one after the other"
                        .into(),
                ));
            }
            _ => {}
        }
        self.0.iter_mut().try_for_each(|group| group.decide(selected))
    }

    /// What becomes of the heads.
    pub fn updates(&self) -> Vec<HeadUpdate> {
        self.0.iter().filter_map(|group| group.update.clone()).collect()
    }

    /// What locking mended, for people.
    pub fn mended(&self) -> Vec<String> {
        self.0.iter().filter_map(|group| group.locked.as_ref()).flat_map(|locked| locked.mended().to_vec()).collect()
    }

    /// Writes the heads, durably.
    pub fn apply(&mut self) -> Result<()> {
        for group in &mut self.0 {
            if let (Some(update), Some(locked)) = (&group.update, &mut group.locked) {
                locked.apply(update)?;
            }
        }
        Ok(())
    }
}

impl Group {
    /// As it is, for a dry run: one of an earlier snapcask has no head yet.
    fn read(folder: &Path, name: GroupName, doomed: BTreeSet<String>) -> Result<Self> {
        let (head, is_old) = match GroupFile::read(folder)? {
            GroupFile::Head(head) => (Some(head), false),
            GroupFile::NoHead => (None, false),
            GroupFile::Old => (None, true),
            GroupFile::Invalid(reason) => return Err(Error::InvalidGroup { path: folder.into(), reason }),
        };
        let any_old = || -> Result<bool> {
            for id in &doomed {
                if let MemberFile::Old(_) = MemberFile::read(&folder.join(id))? {
                    return Ok(true);
                }
            }
            Ok(is_old)
        };
        let members = if any_old()? { Members::new() } else { read_members(folder)? };
        Ok(Self { name, head, members, doomed, update: None, locked: None })
    }

    fn stays(&self) -> bool {
        self.members.keys().any(|id| !self.doomed.contains(id))
    }

    fn loses_head(&self) -> bool {
        self.stays() && self.head.as_ref().is_some_and(|head| self.doomed.contains(head))
    }

    fn decide(&mut self, selected: Option<&str>) -> Result<()> {
        let Some(head) = self.head.clone() else { return Ok(()) };
        let update = |case, head: Option<&str>, group: &Self| HeadUpdate {
            group: group.name.clone(),
            previous: group.head.clone(),
            head: head.map(str::to_owned),
            case,
        };
        if !self.stays() {
            self.update = Some(update(HeadCase::Cleared, None, self));
            return Ok(());
        }
        if let Some(locked) = &self.locked {
            locked.check_head()?;
        }
        if !self.doomed.contains(&head) {
            return Ok(());
        }
        let Some(selected) = selected else {
            return Err(Error::HeadStays { group: self.name.to_string(), head });
        };
        let named = |id: &&String| self.members[*id].name.as_ref().is_some_and(|name| name.as_str() == selected);
        let member = self.members.get_key_value(selected).map(|(id, _)| id);
        let member = member.or_else(|| self.members.keys().find(named)).filter(|id| !self.doomed.contains(*id));
        let Some(member) = member else {
            return Err(Error::MemberNotFound {
                group: self.name.to_string(),
                member: selected.chars().take(200).collect(),
            });
        };
        self.update = Some(update(HeadCase::Selected, Some(member), self));
        Ok(())
    }
}
