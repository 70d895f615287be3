//! The head of a group of msb: read, or selected.

use std::{path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    model::GroupName,
    progress::Progress,
    report::HeadReport,
    snapshot::{GROUP_FILE, Snapshot},
    store::{
        Store,
        group::{GroupFile, LockedGroup, MemberFile, is_group_at},
        root,
    },
};

/// Which head to read or to select.
#[derive(Clone)]
pub struct HeadOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// `GROUP` to read, `GROUP:MEMBER` to select a member by its name or its `snapshot_id`.
    pub selector: String,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// Reads the head of a group, or selects it.
///
/// # Errors
/// [`Error::NotFound`]: there is no such group; [`Error::MemberNotFound`]; [`Error::InvalidGroup`] for files that msb
/// refuses, and when reading for a head that is no member; [`Error::InvalidName`].
pub fn head(options: &HeadOptions) -> Result<HeadReport> {
    let snapshots = Store::at(&options.store).snapshots();
    let (name, member) = match options.selector.split_once(':') {
        Some((group, member)) => (group, Some(member)),
        None => (options.selector.as_str(), None),
    };
    let group: GroupName = name.parse()?;
    root::existing(&options.store)?;
    let folder = snapshots.join(group.as_str());
    let not_found = || Error::NotFound {
        what: "group",
        path: folder.clone(),
        hint: "; `snapcask list` shows the groups of the store".into(),
    };
    if !is_group_at(&folder)? {
        return Err(not_found());
    }
    let mut report = HeadReport {
        store: options.store.clone(),
        group: group.clone(),
        previous: None,
        head: None,
        name: None,
        changed: false,
        mended: Vec::new(),
    };
    if let Some(member) = member {
        let mut locked = LockedGroup::lock(&snapshots, &group, options.progress.as_ref())?.ok_or_else(not_found)?;
        let member = locked.member(member)?.clone();
        report.previous = locked.head().map(str::to_owned);
        report.changed = report.previous.as_ref() != Some(&member.id);
        report.mended = locked.mended().to_vec();
        if report.changed {
            locked.set_head(Some(&member.id))?;
        }
        (report.head, report.name) = (Some(member.id), member.name);
        return Ok(report);
    }
    let invalid = |reason: String| Error::InvalidGroup { path: folder.join(GROUP_FILE), reason };
    match GroupFile::read(&folder)? {
        GroupFile::NoHead => {}
        GroupFile::Head(id) => {
            if !Snapshot::is_at(&folder.join(&id)) {
                return Err(invalid(format!(
                    "its head {id} is not a member; select one with `snapcask head {group}:MEMBER`"
                )));
            }
            report.name = match MemberFile::read(&folder.join(&id))? {
                MemberFile::Named(name) => Some(name),
                _ => None,
            };
            (report.previous, report.head) = (Some(id.clone()), Some(id));
        }
        GroupFile::Old => {
            return Err(invalid("an earlier snapcask wrote it; `snapcask check --repair` mends it".into()));
        }
        GroupFile::Invalid(reason) => return Err(invalid(reason)),
    }
    Ok(report)
}
