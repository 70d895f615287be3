//! Repair: what a check found bad is taken from a bundle that holds the very same, staged, verified and exchanged.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
};

use crate::{
    bundle::BundledSnapshot,
    check::{BadSnapshot, Found},
    digest::Digest,
    error::{Error, IoContext, Result},
    import::BundleLocation,
    model::{Descriptor, FileRecord, LayerRecord},
    progress::Progress,
    restore::{Below, Restorer},
    settle::{Restored, Settler},
    snapshot::MEMBER_FILE,
    storage::Source,
    store::{
        Store,
        place::{Stage, place_directory, place_file},
        record::ImportRecord,
        vmdk,
    },
    temporary::{Folder, SCRATCH},
};

/// Repairs one store.
pub(crate) struct Repair<'a> {
    pub store: &'a Store,
    pub jobs: usize,
    pub progress: &'a Arc<dyn Progress>,
}

impl Repair<'_> {
    /// Repairs what the source holds of what is bad; the rest stays, and the next look finds it again.
    pub fn run(&self, location: &BundleLocation, found: &Found) -> Result<()> {
        let scratch = Folder::create(&std::env::temp_dir(), SCRATCH)?;
        // Leftovers go with the first stage, so there is one even where nothing else is bad.
        let snapshots = self.store.snapshots();
        let stage = Stage::create(&snapshots)?;
        let cache = self.store.cache();
        let cache_stage = if cache.is_dir() { Some(Stage::create(&cache)?) } else { None };
        let source = location.open(scratch.path())?;
        let bundled = all(source.as_ref())?;
        for (number, bad) in found.snapshots.iter().enumerate() {
            if let Some(same) = same(bad, &bundled)? {
                let directory = stage.path().join(number.to_string());
                self.snapshot(source.as_ref(), same, &bundled, found, &directory)?;
                let alias = bad.directory.join(MEMBER_FILE);
                if alias.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                    let copy = directory.join(MEMBER_FILE);
                    fs::copy(&alias, &copy).context("copy to", &copy)?;
                }
                stage.sync()?;
                place_directory(&snapshots, &directory, &bad.directory, true)?;
            }
        }
        if let Some(stage) = &cache_stage {
            for row in &found.cache {
                self.cache_file(source.as_ref(), &bundled, row, stage)?;
            }
        }
        Ok(())
    }

    /// The snapshot from the bundle, into a new folder, with every check of an import.
    fn snapshot(
        &self,
        source: &dyn Source,
        same: &BundledSnapshot,
        bundled: &[BundledSnapshot],
        found: &Found,
        directory: &Path,
    ) -> Result<()> {
        fs::create_dir(directory).context("create", directory)?;
        // A parent that is good saves fetching what is beneath the snapshot's own layer.
        let parent = bundled
            .iter()
            .find(|parent| same.extends(parent) && same.is_child_of(parent))
            .and_then(|parent| {
                Some(Below { bundled: parent, directory: found.good.get(&parent.config.snapshot.digest)? })
            })
            .filter(|below| {
                let record = ImportRecord::read(below.directory);
                matches!(record, Ok(Some(record)) if record.files == below.bundled.config.files)
            });
        let most = Some(Stage::free_bytes(directory)?);
        let inherited = self.restorer(source, most).restore(same, directory, parent)?;
        // The parent may be changed by others meanwhile: nothing is known of it, every file is looked at whole.
        let restored = Restored { bundled: same, directory: directory.into(), inherited, over_previous: false };
        let (sender, receiver) = sync_channel(1);
        let settler = Settler::new(self.jobs, false, self.progress.clone())?;
        // The receiver is here.
        let _ = sender.send(restored);
        drop(sender);
        settler.run(receiver)?;
        record_of(same).write(directory)
    }

    fn restorer<'s>(&'s self, source: &'s dyn Source, most: Option<u64>) -> Restorer<'s> {
        Restorer { source, jobs: self.jobs, progress: self.progress.as_ref(), most, writeback: None }
    }

    fn cache_file(
        &self,
        source: &dyn Source,
        bundled: &[BundledSnapshot],
        row: &FileRecord,
        stage: &Stage,
    ) -> Result<()> {
        let layers = bundled.iter().flat_map(|b| b.manifest.layers.iter().zip(&b.config.layers));
        let mut matching = layers.filter(|(_, layer)| matches!(layer, LayerRecord::Cache { file, .. } if file == row));
        let Some((descriptor, layer)) = matching.next() else { return Ok(()) };
        let cache = self.store.cache();
        let staged = stage.path().join(row.path.as_str().replace('/', "_"));
        self.restorer(source, None).restore_cache_file(descriptor, layer, row, &staged)?;
        if row.path.as_str().starts_with("vmdk/") {
            let here = std::path::absolute(&cache).context("resolve", &cache)?;
            let reduced = fs::read(&staged).context("read", &staged)?;
            fs::write(&staged, vmdk::expand(&reduced, &here)?).context("write", &staged)?;
        }
        stage.sync()?;
        place_file(&cache, &staged, &cache.join(&row.path), true).map(drop)
    }
}

/// What an import of this snapshot leaves behind.
pub(crate) fn record_of(bundled: &BundledSnapshot) -> ImportRecord {
    let cache = bundled.config.layers.iter().filter_map(|layer| match layer {
        LayerRecord::Cache { file, .. } => Some(file.clone()),
        _ => None,
    });
    ImportRecord {
        version: 1,
        manifest: bundled.descriptor.digest,
        snapshot: bundled.config.snapshot.digest,
        files: bundled.config.files.clone(),
        cache: cache.collect(),
    }
}

/// Every snapshot of the source.
fn all(source: &dyn Source) -> Result<Vec<BundledSnapshot>> {
    let mut queue: Vec<Descriptor> = source.index().manifests.clone();
    let (mut seen, mut loaded) = (HashSet::new(), HashMap::<Digest, BundledSnapshot>::new());
    while let Some(descriptor) = queue.pop() {
        if seen.insert(descriptor.digest) {
            let snapshot = BundledSnapshot::load(source, &descriptor)?;
            queue.extend(snapshot.manifest.subject.clone());
            loaded.entry(snapshot.config.snapshot.digest).or_insert(snapshot);
        }
    }
    Ok(loaded.into_values().collect())
}

/// The same snapshot of the source; none where the source does not have it.
///
/// # Errors
/// [`Error::Different`]: it has a snapshot of the same digest with other files.
fn same<'b>(bad: &BadSnapshot, bundled: &'b [BundledSnapshot]) -> Result<Option<&'b BundledSnapshot>> {
    let Some(digest) = bad.record.as_ref().map(|record| record.snapshot).or(bad.digest) else { return Ok(None) };
    let Some(same) = bundled.iter().find(|b| b.config.snapshot.digest == digest) else { return Ok(None) };
    match &bad.record {
        Some(record) if record.files != same.config.files => Err(Error::Different {
            path: PathBuf::from(&bad.directory),
            existing: format!("{digest} with the files of the manifest {}", record.manifest),
            incoming: format!("{digest} with other files (manifest {})", same.descriptor.digest),
        }),
        _ => Ok(Some(same)),
    }
}
