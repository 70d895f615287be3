//! What a snapshot consists of beyond its file table.

use std::{collections::HashSet, path::Path};

use super::{FILE_UNREADABLE, Look};
use crate::{
    beneath::Folder,
    snapshot::{
        Snapshot, closure,
        damage::{Damage, DamageKind},
        scan::SourceFile,
    },
};

impl Look<'_> {
    /// Folders that msb needs, even where they are empty.
    pub(super) fn folders(&mut self, snapshot: &Snapshot) {
        let directory = &snapshot.directory;
        for folder in &snapshot.descriptor.folders {
            match Folder::open(directory).and_then(|root| root.folder(folder)) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.report("folder-missing", &directory.join(folder), "msb needs it, even when it is empty")
                }
                Err(error) => self.report(FILE_UNREADABLE, &directory.join(folder), error),
            }
        }
    }

    /// Verifies what a snapshot consists of beyond its table; gives the files that nothing names. Of a file that has a finding
    /// since `before`, there is no second one.
    pub(super) fn closure(&mut self, snapshot: &Snapshot, present: &[SourceFile], before: usize) -> Vec<Damage> {
        if present.is_empty() {
            return Vec::new();
        }
        let directory = &snapshot.directory;
        let paths = present.iter().map(|file| (&file.path, &file.at));
        let verified = Folder::open(directory).and_then(|folder| {
            closure::verify_in(&snapshot.descriptor, &folder, paths, self.jobs, self.progress.as_ref())
        });
        let damages = verified.unwrap_or_else(|error| {
            self.report(FILE_UNREADABLE, directory, error);
            Vec::new()
        });
        let known: HashSet<String> = self.found.findings[before..].iter().map(|f| f.subject.clone()).collect();
        let (unreferenced, damages): (Vec<_>, Vec<_>) = damages
            .into_iter()
            .filter(|damage| !known.contains(&self.subject(&directory.join(&damage.path))))
            .partition(|damage| damage.kind == DamageKind::Unreferenced);
        damages.iter().for_each(|damage| self.damage(directory, damage));
        unreferenced
    }

    pub(super) fn damage(&mut self, directory: &Path, damage: &Damage) {
        self.report(damage.kind.code(), &directory.join(&damage.path), &damage.reason);
    }
}
