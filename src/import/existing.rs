//! Snapshots that are installed where the bundle's belong: compared, or replaced with `--force`.

use std::{fs, io::ErrorKind, path::Path};

use super::{Import, targets::Target};
use crate::{
    bundle::Brought,
    error::{Error, Result},
    model::{SnapshotConfig, SnapshotIdentity},
    remove::{display, no_child_is_hidden, orphans, staying},
    same::{self, Existing, IncomingDescriptor},
    snapshot::{MEMBER_FILE, SNAPSHOT_FILE, Snapshot, V066_FILE, hides, is_there},
    store::{
        Store,
        place::sync_if_ours,
        record::{ImportRecord, RECORD_FILE},
    },
};

impl Import<'_> {
    /// What is there must be the snapshot, file by file; it is made durable, for whoever put it there need not have.
    pub(super) fn compare_existing(
        &self,
        config: &SnapshotConfig,
        target: &Path,
        descriptor: IncomingDescriptor,
    ) -> Result<Existing> {
        let different = |existing: String| Error::Different {
            path: target.into(),
            existing,
            incoming: config.snapshot.digest.to_string(),
        };
        let existing = Snapshot::open(target).map_err(|error| match error {
            // It may be the same.
            error if hides(&error) => error,
            error => different(format!("no readable snapshot ({error})")),
        })?;
        let Some(same) = same::same(&existing.descriptor, &config.snapshot, descriptor)? else {
            return Err(different(existing.descriptor.digest.to_string()));
        };
        let (jobs, progress) = (self.options.jobs, self.options.progress.as_ref());
        let compared = same::compare(&existing, same, config, jobs, progress).map_err(|error| match error {
            Error::Io { operation: "fsync", .. } => error,
            // What cannot be read may be the same; by force it is replaced all the same.
            error if hides(&error) && !self.options.force => error,
            error => different(format!("the same descriptor with other contents ({error})")),
        })?;
        [RECORD_FILE, MEMBER_FILE].iter().try_for_each(|own| sync_if_ours(target, Path::new(own)))?;
        Ok(compared)
    }

    /// With `--force` snapshots are replaced, nothing else, and no parent under children that stay, unless that is asked for.
    pub(super) fn check_replaced(&self, chain: &[Brought], targets: &[Target]) -> Result<()> {
        let mut replaced = Vec::new();
        for (snapshot, target) in chain.iter().zip(targets) {
            let target = &target.path;
            match fs::symlink_metadata(target) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                // What it leads to stays.
                Ok(metadata) if metadata.is_symlink() => {}
                Ok(_) => {
                    let marks = [SNAPSHOT_FILE, V066_FILE, RECORD_FILE].map(|file| is_there(&target.join(file)));
                    if !marks.into_iter().collect::<Result<Vec<_>>>()?.contains(&true) {
                        return Err(Error::NotReplaced { path: target.clone() });
                    }
                }
                Err(error) => return Err(Error::io("look at", target, error)),
            }
            replaced
                .extend(Snapshot::of(target)?.filter(|old| old.descriptor.digest != snapshot.config.snapshot.digest));
        }
        if replaced.is_empty() || self.options.orphan_children {
            return Ok(());
        }
        let (all, mut unreadable) = Store::all_in(&self.destination)?;
        unreadable.retain(|(directory, _)| targets.iter().all(|target| target.path != *directory));
        no_child_is_hidden(&unreadable)?;
        let staying = staying(&all, &replaced)?;
        let brought = |identity: &SnapshotIdentity| {
            chain.iter().any(|bundled| bundled.config.snapshot.identities().contains(identity))
        };
        let mut orphans = orphans(&replaced, &staying);
        orphans.retain(|(_, child)| child.descriptor.parent.as_ref().is_some_and(|parent| !brought(parent)));
        match orphans.first() {
            Some((parent, _)) => Err(Error::ReplacesParent {
                path: parent.directory.clone(),
                children: orphans.iter().map(|(_, child)| display(child)).collect(),
            }),
            None => Ok(()),
        }
    }
}

/// Whether a directory holds this very snapshot, or what is left of it.
pub(super) fn is_or_was(directory: &Path, config: &SnapshotConfig) -> Result<bool> {
    let digest = config.snapshot.digest;
    let is = Snapshot::of(directory)?.is_some_and(|snapshot| snapshot.descriptor.digest == digest);
    Ok(is || ImportRecord::of(directory)?.is_some_and(|record| record.snapshot == digest))
}
