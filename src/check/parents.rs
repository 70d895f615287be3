//! What a check finds of parents.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{Look, PARENT_LEFT_OUT, PARENT_UNREADABLE};
use crate::{model::SnapshotIdentity, snapshot::Snapshot, store::record::ImportRecord};

impl Look<'_> {
    /// That every parent is there, and no chain a circle; `hidden` is a directory that could not be read and may be one.
    pub(super) fn parents(&mut self, snapshots: &[Snapshot], hidden: Option<&Path>) {
        let mut known: HashMap<SnapshotIdentity, &Snapshot> = HashMap::new();
        for snapshot in snapshots {
            for identity in snapshot.identities() {
                self.found.known.insert(identity.clone());
                known.entry(identity).or_insert(snapshot);
            }
        }
        for snapshot in snapshots {
            let Some(parent) = &snapshot.descriptor.parent else { continue };
            if !known.contains_key(parent) {
                self.missing_parent(snapshot, parent, hidden);
            }
            let mut seen = HashSet::from([snapshot.descriptor.digest]);
            let mut at = snapshot;
            while let Some(above) = at.descriptor.parent.as_ref().and_then(|parent| known.get(parent)) {
                if !seen.insert(above.descriptor.digest) {
                    self.report("parent-cycle", &snapshot.directory, "its chain of parents is a circle");
                    break;
                }
                at = above;
            }
        }
    }

    fn missing_parent(&mut self, child: &Snapshot, parent: &SnapshotIdentity, hidden: Option<&Path>) {
        let directory = &child.directory;
        let alone = ImportRecord::read(directory).is_ok_and(|r| r.is_some_and(|r| r.without_parent));
        match hidden {
            _ if alone => {
                let text = format!("its parent {parent} is not in the store, and was not when it was imported");
                self.note(PARENT_LEFT_OUT, directory, text);
            }
            Some(hidden) => {
                let text = format!(
                    "whether its parent {parent} is in the store is not known, because {} cannot be read",
                    hidden.display()
                );
                self.report(PARENT_UNREADABLE, directory, text);
            }
            None => {
                let text =
                    format!("its parent {parent} is not in the store; import it, or export without --with-parents");
                self.report("parent-missing", directory, text);
                self.found.missing.push((parent.clone(), directory.clone()));
            }
        }
    }
}
