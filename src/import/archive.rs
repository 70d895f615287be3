//! Import of archives that msb wrote: unpacked beside the destination, verified, then placed as the snapshots of a bundle
//! are.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use super::{Import, Incoming, Published, cache::ImageFiles, finish_writeback, local_name, targets::Targets};
use crate::{
    bundle::Brought,
    error::{Error, IoContext, Result},
    layer::clone::copy_file,
    model::FileRecord,
    msb_archive::{Input, Staged, UnpackOptions, stage_all},
    report::{ImportReport, Outcome},
    store::{Readable, Store, place::Stage},
    writeback::Writeback,
};

impl Import<'_> {
    /// Imports archives, completed from each other, from `bases` and from the store; `missing` as in [`Import::run`].
    pub(super) fn archives(
        &self,
        archives: Vec<Input>,
        bases: Vec<Input>,
        stage: &Stage,
        started: Instant,
        missing: &mut Vec<PathBuf>,
    ) -> Result<ImportReport> {
        let options = self.options;
        if options.tag.is_some() {
            return Err(Error::Usage("an archive of msb has one head and no tags; leave --tag out".into()));
        }
        let writeback = Arc::new(Writeback::start().context("start a thread for", stage.path())?);
        let max_bytes = match options.max_bytes {
            Some(limit) => limit,
            None => Stage::free_bytes(&self.destination)?,
        };
        let unpacking = UnpackOptions {
            folder: stage.path(),
            max_bytes,
            max_files: options.max_files,
            jobs: options.jobs,
            writeback: Some(writeback.clone()),
            progress: options.progress.as_ref(),
        };
        let mut denied = None;
        let in_store = || {
            let Readable { snapshots, denied: one } = self.in_store()?;
            denied = one;
            Ok(snapshots)
        };
        let staged = stage_all(archives, bases, in_store, &unpacking);
        let mut staged = staged.map_err(|error| match (error, denied) {
            (error @ Error::DependenciesMissing { .. }, Some(one)) => {
                Error::MayBeHidden { what: format!("what completes the archive ({error})"), reason: one.to_string() }
            }
            (error, _) => error,
        })?;
        drop(unpacking);
        finish_writeback(writeback, stage)?;
        if options.head_only {
            staged.snapshots.truncate(1);
        }
        staged.verify(options.skip_recorded, options.jobs, &options.progress)?;
        self.place_staged(&staged, stage, started, missing)
    }

    /// Every snapshot from which something may be borrowed.
    fn in_store(&self) -> Result<Readable> {
        let mut all = Store::readable_in(&self.destination)?;
        if self.destination != self.store.snapshots() {
            let Readable { snapshots, denied } = self.store.readable()?;
            all.snapshots.extend(snapshots);
            all.denied = all.denied.or(denied);
        }
        Ok(all)
    }

    fn place_staged(
        &self,
        staged: &Staged,
        stage: &Stage,
        started: Instant,
        missing: &mut Vec<PathBuf>,
    ) -> Result<ImportReport> {
        let brought: Vec<Brought> = staged
            .snapshots
            .iter()
            .map(|snapshot| Brought { config: &snapshot.config, manifest: None, cache: &snapshot.cache })
            .collect();
        let Targets { group, all: targets, suggested_group, .. } = self.targets(&brought)?;
        self.check_targets(&brought, &targets)?;
        let mut incoming: Vec<Incoming> = Vec::new();
        let all = staged.snapshots.iter().zip(&brought).zip(targets);
        for (position, ((snapshot, brought), target)) in all.enumerate().rev() {
            let (brought, is_head) = (*brought, position == 0);
            let descriptor = || Ok(Some(snapshot.descriptor.clone()));
            let (directory, outcome, existing) = match self.already_there(brought.config, &target.path, &descriptor)? {
                Some((existing, _)) => (target.path.clone(), Outcome::AlreadyThere, Some(existing)),
                None => {
                    // One may be a child of what neither travelled nor is here.
                    let travelled = staged.snapshots.iter().any(|parent| snapshot.is_child_of(parent));
                    let without_parent = !travelled && self.misses_parent(brought.config)?;
                    self.complete(brought, &snapshot.directory, &target, without_parent)?;
                    (snapshot.directory.clone(), Outcome::Placed, None)
                }
            };
            let installed_name = existing.is_some().then(|| local_name(&target.path)).transpose()?;
            let reader = None;
            incoming.push(Incoming { brought, is_head, target, directory, outcome, existing, installed_name, reader });
        }
        let images: Vec<ImageFiles> = staged
            .snapshots
            .iter()
            .map(|snapshot| ImageFiles {
                image: snapshot.config.snapshot.image.as_ref(),
                files: snapshot.cache.iter().collect(),
            })
            .collect();
        let from = |file: &FileRecord| staged.snapshots.iter().find(|snapshot| snapshot.cache.contains(file));
        let cache = self.cache_import().stage(&images, &|file, to| match from(file) {
            Some(snapshot) => move_file(&snapshot.cache_folder.join(&file.path), to),
            None => Err(Error::bundle(&staged.name, format!("{} is not in it", file.path))),
        })?;
        let image_tags = cache.as_ref().map(|cache| cache.tags.clone()).unwrap_or_default();
        let published = self.publish(stage, incoming, group, cache, missing)?;
        let Published { cache_files, snapshots, head, mended, index } = published;
        Ok(ImportReport {
            source: staged.name.clone(),
            destination: self.destination.clone(),
            snapshots,
            cache_files,
            image_tags,
            head,
            suggested_group,
            mended,
            index,
            // An archive is unpacked and verified whole.
            source_verified: true,
            source_unread: false,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// To the stage of the image cache, which may be on another filesystem.
fn move_file(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::CrossesDevices => copy_file(from, to),
        other => other.context("rename", from),
    }
}
