//! The image cache's part of an import: what belongs to the snapshots' images, staged beside what is there.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use super::Import;
use crate::{
    bundle::BundledSnapshot,
    cached::CachedFile,
    error::{Error, IoContext, Result},
    model::{Descriptor, FileRecord, LayerRecord, TarPath},
    restore::Restorer,
    store::{
        image_cache::{check_belongs, is_document, is_of_another_manifest},
        place::{Stage, check_way, sync_if_ours},
        vmdk,
    },
};

/// The image cache's part of an import.
pub(super) struct StagedCache {
    pub stage: Stage,
    pub files: Vec<StagedFile>,
    /// What was there already, the same or as good.
    pub found: Vec<PathBuf>,
}

/// An image-cache file that is ready.
pub(super) struct StagedFile {
    pub staged: PathBuf,
    pub target: PathBuf,
    /// What is there is exchanged.
    pub replace: bool,
}

impl Import<'_> {
    /// Restores the image-cache files beside the cache. Those that are there and identical are left alone, and what is
    /// there and different is found before anything is placed.
    pub(super) fn stage_cache(&self, restorer: &Restorer, chain: &[BundledSnapshot]) -> Result<Option<StagedCache>> {
        let wanted = wanted_cache(chain)?;
        if wanted.is_empty() {
            return Ok(None);
        }
        let cache = self.store.cache();
        let stage = Stage::create(&cache)?;
        let staged = |path: &TarPath| stage.path().join(path.as_str().replace('/', "_"));
        let restore = |file: &WantedFile| {
            check_way(&cache, &cache.join(&file.record.path))?;
            restorer.restore_cache_file(file.descriptor, file.layer, file.record, &staged(&file.record.path))
        };
        let (documents, others): (Vec<&WantedFile>, Vec<&WantedFile>) =
            wanted.iter().partition(|file| is_document(&file.record.path));
        documents.iter().try_for_each(|file| restore(file))?;
        let read = |path: &TarPath| fs::read(staged(path)).context("read", staged(path));
        let (mut foreign, mut unproven) = (HashSet::new(), HashSet::new());
        for snapshot in chain {
            let paths = snapshot.config.layers.iter().filter_map(LayerRecord::cache_file).map(|file| &file.path);
            match &snapshot.config.snapshot.image {
                Some(image) => {
                    let belonging = check_belongs(image, paths, read)?;
                    foreign.extend(belonging.foreign);
                    unproven.extend(belonging.unproven);
                }
                None if paths.clone().next().is_none() => {}
                None => {
                    return Err(Error::bundle("the image cache", "its files come with a snapshot that has no image"));
                }
            }
        }
        let (mut files, mut found) = (Vec::new(), Vec::new());
        // What others refer to comes first, the VMDK that names all of them last.
        for file in others.into_iter().chain(documents).filter(|file| !foreign.contains(&file.record.path)) {
            let path = &file.record.path;
            let target = cache.join(path);
            let there = CachedFile::look(&cache, path, self.options.jobs, self.options.progress.as_ref());
            let replace = match there {
                Ok(None) => false,
                // (A VMDK of a cache that was moved names files that are somewhere else, or on another machine's path.)
                Ok(Some(there)) if there.is(file.record) && !there.elsewhere => {
                    sync_if_ours(&cache, Path::new(path.as_str()))?;
                    found.push(target);
                    continue;
                }
                // A tag that has moved on: the snapshot's image is found by its VMDK.
                Ok(Some(_)) if !self.options.force && is_of_another_manifest(&target, &staged(path))? => {
                    found.push(target);
                    continue;
                }
                // Another image's, perhaps.
                Ok(Some(_)) | Err(Error::ImageCache { .. }) if unproven.contains(path) => {
                    return Err(Error::OfNoImage { path: target });
                }
                Ok(Some(_)) | Err(Error::ImageCache { .. }) if self.options.force => true,
                Ok(Some(_)) | Err(Error::ImageCache { .. }) => return Err(Error::DifferentFile { path: target }),
                Err(error) => return Err(error),
            };
            if !is_document(path) {
                restore(file)?;
            }
            if path.as_str().starts_with("vmdk/") {
                vmdk::expand_file(&staged(path), &cache)?;
            }
            files.push(StagedFile { staged: staged(path), target, replace });
        }
        Ok(Some(StagedCache { stage, files, found }))
    }
}

/// An image-cache file that a chain brings.
struct WantedFile<'a> {
    record: &'a FileRecord,
    descriptor: &'a Descriptor,
    layer: &'a LayerRecord,
}

/// Every image-cache file of the chain once, in the order in which they are placed.
fn wanted_cache(chain: &[BundledSnapshot]) -> Result<Vec<WantedFile<'_>>> {
    let mut wanted: BTreeMap<(u8, &TarPath), WantedFile> = BTreeMap::new();
    for snapshot in chain {
        for (descriptor, layer) in snapshot.manifest.layers.iter().zip(&snapshot.config.layers) {
            let LayerRecord::Cache { file: record, .. } = layer else { continue };
            let rank = match record.path.as_str().split('/').next() {
                Some("vmdk") => 2,
                Some("manifests") => 1,
                _ => 0,
            };
            let other = wanted.entry((rank, &record.path)).or_insert(WantedFile { record, descriptor, layer });
            if other.record != record {
                let reason = format!("its snapshots have different files for {}", record.path);
                return Err(Error::bundle("the image cache", reason));
            }
        }
    }
    Ok(wanted.into_values().collect())
}
