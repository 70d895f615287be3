//! What a check finds in the files of groups: msb refuses every operation on a group in which one is wrong.

use std::{collections::HashMap, fs, path::Path};

use super::{FILE_UNREADABLE, Look};
use crate::{
    error::{Error, IoContext, Result},
    model::{GroupName, MemberName},
    snapshot::{GROUP_FILE, MEMBER_FILE, SNAPSHOT_FILE, Snapshot, V066_FILE, hides, is_folder, is_there, seen},
    store::group::{GROUP_LOCK, GroupFile, MemberFile},
};

/// A folder with `group.json` and no descriptor of its own; what cannot be looked at is an error.
fn is_group(folder: &Path) -> Result<bool> {
    let there = |file: &str| is_there(&folder.join(file));
    Ok(there(GROUP_FILE)? && !there(V066_FILE)? && !there(SNAPSHOT_FILE)?)
}

impl Look<'_> {
    pub(super) fn groups(&mut self) -> Result<()> {
        let snapshots = self.store.snapshots();
        if !is_there(&snapshots)? {
            return Ok(());
        }
        let mut folders = Vec::new();
        for entry in fs::read_dir(&snapshots).context("list", &snapshots)? {
            let entry = entry.context("list", &snapshots)?;
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let looked = || Ok(seen(is_folder(&entry.path()))? && seen(is_group(&entry.path()))?);
            match looked() {
                Ok(true) if !is_hidden => folders.push(entry.path()),
                // Whatever it is, it cannot be read as a snapshot either, which is a finding.
                Err(error) if !Error::is_denied(&error) => return Err(error),
                _ => {}
            }
        }
        folders.sort_unstable();
        for folder in &folders {
            match self.group(folder) {
                Err(error) if error.is_denied() => self.report(FILE_UNREADABLE, folder, error),
                other => other?,
            }
        }
        Ok(())
    }

    fn group(&mut self, folder: &Path) -> Result<()> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Err(error) = name.parse::<GroupName>() {
            self.report("group-name", folder, format!("msb cannot address it ({error}); rename the folder"));
        }
        if !is_there(&folder.join(GROUP_LOCK))? {
            let text = "msb needs it, and a repair makes it";
            self.report("group-lock-missing", &folder.join(GROUP_LOCK), text);
        }
        let file = folder.join(GROUP_FILE);
        let outdated = "an earlier snapcask wrote it, and msb refuses it; a repair mends it";
        match GroupFile::read(folder) {
            Ok(GroupFile::NoHead) => {}
            Ok(GroupFile::Old) => self.report("group-outdated", &file, outdated),
            Ok(GroupFile::Invalid(reason)) => self.report("group-invalid", &file, format!("msb refuses it: {reason}")),
            Ok(GroupFile::Head(head)) if is_there(&folder.join(&head))? => {}
            Ok(GroupFile::Head(head)) => {
                let text = format!(
                    "its head {head} is not there; a repair clears it, `snapcask head {name}:MEMBER` selects one"
                );
                self.report("head-missing", &file, text);
            }
            Err(error) => self.report(FILE_UNREADABLE, &file, error),
        }
        let mut names: HashMap<MemberName, String> = HashMap::new();
        let mut members = Vec::new();
        for entry in fs::read_dir(folder).context("list", folder)? {
            let entry = entry.context("list", folder)?;
            members.extend(entry.file_name().into_string().ok().filter(|name| name.starts_with("snap_")));
        }
        members.sort_unstable();
        for id in members {
            let directory = folder.join(&id);
            // One that cannot be read has its own finding.
            match Snapshot::open(&directory) {
                Ok(snapshot) if snapshot.descriptor.id.as_ref() != Some(&id) => {
                    self.report("group-invalid", &directory, "its name is not the snapshot_id of its descriptor");
                }
                Err(error) if hides(&error) => self.report(FILE_UNREADABLE, &directory, error),
                _ => {}
            }
            let file = directory.join(MEMBER_FILE);
            match MemberFile::read(&directory) {
                Ok(MemberFile::Absent) => {}
                Ok(MemberFile::Old(_)) => self.report("group-outdated", &file, outdated),
                Ok(MemberFile::Invalid(reason)) => {
                    self.report("group-invalid", &file, format!("msb refuses it: {reason}"));
                }
                Ok(MemberFile::Named(name)) => {
                    if let Some(other) = names.get(&name) {
                        self.report(
                            "name-taken",
                            &file,
                            format!("{other} has the name {name} too; msb refuses the group"),
                        );
                    } else {
                        names.insert(name, id);
                    }
                }
                Err(error) => self.report(FILE_UNREADABLE, &file, error),
            }
        }
        Ok(())
    }
}
