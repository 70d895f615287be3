//! The image cache's part of an import: what belongs to the snapshots' images, staged beside what is there.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    bundle::BundledSnapshot,
    cached::CachedFile,
    error::{Error, IoContext, Result},
    image_tags::{Destination, Put, TagTrust, destination},
    model::{Descriptor, FileRecord, ImageRecord, LayerRecord, TarPath},
    progress::Progress,
    report::TagReport,
    restore::Restorer,
    store::{
        image_cache::{Belonging, check_belongs, is_document},
        image_metadata::Metadata,
        image_reference::{pinned_file, reference_file},
        lease::Lease,
        place::{Stage, check_way, place_file, sync_if_ours},
        vmdk,
    },
};

/// The image-cache files that came with one snapshot, from wherever it comes.
pub(crate) struct ImageFiles<'a> {
    /// The image that the snapshot pins.
    pub image: Option<&'a ImageRecord>,
    /// The files; a VMDK with its paths reduced.
    pub files: Vec<&'a FileRecord>,
}

/// Puts image-cache files into a cache.
pub(crate) struct CacheImport<'a> {
    /// The cache.
    pub cache: PathBuf,
    /// What the source may do with tags.
    pub trust: TagTrust,
    /// Replace what is there and different.
    pub force: bool,
    /// Worker threads.
    pub jobs: usize,
    /// Told about progress.
    pub progress: &'a dyn Progress,
}

/// The image cache's part of an import.
pub(crate) struct StagedCache {
    stage: Stage,
    /// What is placed, in this order.
    pub files: Vec<StagedFile>,
    /// What was there already, the same or as good.
    found: Vec<PathBuf>,
    /// What becomes of tags.
    pub tags: Vec<TagReport>,
}

/// An image-cache file that is ready.
pub(crate) struct StagedFile {
    staged: PathBuf,
    pub target: PathBuf,
    /// What is there is exchanged.
    replace: bool,
    is_metadata: bool,
}

/// One file, and where it is staged.
struct Wanted<'a> {
    record: &'a FileRecord,
    staged: PathBuf,
}

impl CacheImport<'_> {
    /// Stages the files beside the cache. `restore` writes one of them, verified, to a path in the stage. Those that are
    /// there and identical are left alone, and what is there and different is found before anything is placed.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`]: files that are not those of the snapshots' images. [`Error::DifferentFile`] and
    /// [`Error::OfNoImage`]: other contents are there. Those of `restore`.
    pub fn stage(
        &self,
        brought: &[ImageFiles],
        restore: &dyn Fn(&FileRecord, &Path) -> Result<()>,
    ) -> Result<Option<StagedCache>> {
        if brought.iter().all(|snapshot| snapshot.files.is_empty()) {
            return Ok(None);
        }
        let stage = Stage::create(&self.cache)?;
        let wanted = wanted(brought, stage.path())?;
        for file in wanted.iter().filter(|file| is_document(&file.record.path)) {
            restore(file.record, &file.staged)?;
        }
        let images = belonging(brought, &wanted)?;
        let unproven: HashSet<&TarPath> = images.iter().flat_map(|(_, image)| &image.unproven).collect();
        let mut staged = StagedCache { stage, files: Vec::new(), found: Vec::new(), tags: Vec::new() };
        // What others refer to comes first, the VMDK that names all of them last.
        let (vmdks, others): (Vec<&Wanted>, Vec<&Wanted>) = wanted
            .iter()
            .filter(|file| !is_metadata(&file.record.path))
            .partition(|file| file.record.path.as_str().starts_with("vmdk/"));
        others.iter().try_for_each(|file| self.content(&mut staged, file, &unproven, restore))?;
        self.metadata(&mut staged, &images, brought, &wanted)?;
        vmdks.iter().try_for_each(|file| self.content(&mut staged, file, &unproven, restore))?;
        Ok(Some(staged))
    }

    /// A file whose name says what its bytes are.
    fn content(
        &self,
        staged: &mut StagedCache,
        file: &Wanted,
        unproven: &HashSet<&TarPath>,
        restore: &dyn Fn(&FileRecord, &Path) -> Result<()>,
    ) -> Result<()> {
        let path = &file.record.path;
        let target = self.cache.join(path);
        check_way(&self.cache, &target)?;
        let replace = match CachedFile::look(&self.cache, path, self.jobs, self.progress) {
            Ok(None) => false,
            // (A VMDK of a cache that was moved names files that are somewhere else, or on another machine's path.)
            Ok(Some(there)) if there.is(file.record) && !there.elsewhere => {
                sync_if_ours(&self.cache, Path::new(path.as_str()))?;
                staged.found.push(target);
                return Ok(());
            }
            // Another image's, perhaps.
            Ok(Some(_)) | Err(Error::ImageCache { .. }) if unproven.contains(path) => {
                return Err(Error::OfNoImage { path: target });
            }
            Ok(Some(_)) | Err(Error::ImageCache { .. }) if self.force => true,
            Ok(Some(_)) | Err(Error::ImageCache { .. }) => return Err(Error::DifferentFile { path: target }),
            Err(error) => return Err(error),
        };
        match is_document(path) {
            true => vmdk::expand_file(&file.staged, &self.cache)?,
            false => restore(file.record, &file.staged)?,
        }
        let staged_file = StagedFile { staged: file.staged.clone(), target, replace, is_metadata: false };
        staged.files.push(staged_file);
        Ok(())
    }

    /// The metadata of every image, under the name that the rule for tags gives it.
    fn metadata(
        &self,
        staged: &mut StagedCache,
        images: &[(usize, Belonging)],
        brought: &[ImageFiles],
        wanted: &[Wanted],
    ) -> Result<()> {
        let mut taken: HashSet<TarPath> = HashSet::new();
        for (number, belonging) in images {
            let (Some(image), Some((path, incoming))) = (brought[*number].image, &belonging.metadata) else { continue };
            let Destination { path: to, put, tag } = destination(&self.cache, image, incoming, self.trust, self.force)?;
            if let Some(tag) = tag
                && !staged.tags.iter().any(|known| known.reference == tag.reference)
            {
                staged.tags.push(tag);
            }
            let target = self.cache.join(&to);
            check_way(&self.cache, &target)?;
            // Two snapshots may spell their reference differently, or bring metadata in another order of labels.
            if !taken.insert(to.clone()) {
                continue;
            }
            if put == Put::Kept {
                sync_if_ours(&self.cache, Path::new(to.as_str()))?;
                staged.found.push(target);
                continue;
            }
            let file = brought[*number].files.iter().find(|file| file.path == *path);
            let Some(file) = file.and_then(|file| wanted.iter().find(|wanted| wanted.record == *file)) else {
                continue;
            };
            let replace = put == Put::Replaced;
            staged.files.push(StagedFile { staged: file.staged.clone(), target, replace, is_metadata: true });
        }
        Ok(())
    }
}

impl StagedCache {
    /// Makes everything in the stage durable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self) -> Result<()> {
        self.stage.sync()
    }

    /// Keeps msb from removing the files, those that are placed and those that are there already.
    ///
    /// # Errors
    /// [`Error::Io`]: one that was there is gone; the import can be run again.
    pub fn lease(&self, progress: &dyn Progress) -> Result<Vec<Lease>> {
        let mut paths: Vec<&Path> = self.found.iter().map(PathBuf::as_path).collect();
        paths.extend(self.files.iter().map(|file| file.target.as_path()));
        // One order for all, so that nobody waits for a lease while somebody waits for one of theirs.
        paths.sort_unstable();
        paths.dedup();
        let leases = paths.into_iter().map(|path| Lease::shared(path, progress)).collect::<Result<_>>()?;
        for path in &self.found {
            fs::metadata(path).context("look at", path)?;
        }
        Ok(leases)
    }

    /// Renames everything into place below `cache`; gives all files, those that were there too.
    ///
    /// # Errors
    /// Those of [`place_file`].
    pub fn place(&self, cache: &Path) -> Result<Vec<PathBuf>> {
        let mut all = self.found.clone();
        for StagedFile { staged, target, replace, is_metadata } in &self.files {
            match place_file(cache, staged, target, *replace) {
                // Another import was faster, with labels in another order.
                Err(Error::DifferentFile { .. }) if *is_metadata && Metadata::at(target)? == Metadata::at(staged)? => {}
                other => drop(other?),
            }
            all.push(target.clone());
        }
        Ok(all)
    }
}

impl super::Import<'_> {
    /// Puts files into the store's cache, as the options say.
    pub(super) fn cache_import(&self) -> CacheImport<'_> {
        CacheImport {
            cache: self.store.cache(),
            trust: TagTrust::of(self.options.trust_image_tags, self.options.force),
            force: self.options.force,
            jobs: self.options.jobs,
            progress: self.options.progress.as_ref(),
        }
    }

    /// Stages the image-cache files of a bundle.
    pub(super) fn stage_cache(&self, restorer: &Restorer, chain: &[BundledSnapshot]) -> Result<Option<StagedCache>> {
        let mut layers: HashMap<&FileRecord, (&Descriptor, &LayerRecord)> = HashMap::new();
        let mut brought = Vec::new();
        for snapshot in chain {
            let mut files = Vec::new();
            for (descriptor, layer) in snapshot.manifest.layers.iter().zip(&snapshot.config.layers) {
                if let Some(file) = layer.cache_file() {
                    layers.entry(file).or_insert((descriptor, layer));
                    files.push(file);
                }
            }
            brought.push(ImageFiles { image: snapshot.config.snapshot.image.as_ref(), files });
        }
        self.cache_import().stage(&brought, &|file, to| match layers.get(file) {
            Some((descriptor, layer)) => restorer.restore_cache_file(descriptor, layer, file, to),
            None => Err(Error::bundle("the image cache", format!("{} is not in it", file.path))),
        })
    }
}

/// Where a file of the cache can go.
pub(super) fn possible_places(file: &FileRecord, image: Option<&ImageRecord>) -> Result<Vec<TarPath>> {
    match image.filter(|_| is_metadata(&file.path)) {
        Some(image) => Ok(vec![reference_file(image)?, pinned_file(image)?]),
        None => Ok(vec![file.path.clone()]),
    }
}

fn is_metadata(path: &TarPath) -> bool {
    path.as_str().starts_with("manifests/")
}

/// Every file once, sorted by path. Of one that stands for its own bytes there can be one only.
fn wanted<'a>(brought: &[ImageFiles<'a>], stage: &Path) -> Result<Vec<Wanted<'a>>> {
    let mut wanted: BTreeMap<(&TarPath, Option<String>), &FileRecord> = BTreeMap::new();
    for record in brought.iter().flat_map(|snapshot| &snapshot.files) {
        // Metadata of one image may differ in the order of its labels.
        let root = is_metadata(&record.path).then(|| record.root.to_string());
        if *wanted.entry((&record.path, root)).or_insert(record) != *record {
            let reason = format!("its snapshots have different files for {}", record.path);
            return Err(Error::bundle("the image cache", reason));
        }
    }
    let named = |(number, record): (usize, &'a FileRecord)| Wanted { record, staged: stage.join(number.to_string()) };
    Ok(wanted.into_values().enumerate().map(named).collect())
}

/// What the staged documents say of every image, with the number of a snapshot that brought it. Each set of files is read
/// once, however many snapshots bring it.
fn belonging(brought: &[ImageFiles], wanted: &[Wanted]) -> Result<Vec<(usize, Belonging)>> {
    let staged: HashMap<&FileRecord, &Path> = wanted.iter().map(|file| (file.record, file.staged.as_path())).collect();
    let (mut seen, mut found) = (HashSet::new(), Vec::new());
    for (number, ImageFiles { image, files }) in brought.iter().enumerate() {
        let Some(image) = image else {
            match files.is_empty() {
                true => continue,
                false => {
                    return Err(Error::bundle("the image cache", "its files come with a snapshot that has no image"));
                }
            }
        };
        if files.is_empty() || !seen.insert((image, files)) {
            continue;
        }
        let rows: HashMap<&TarPath, &FileRecord> = files.iter().map(|file| (&file.path, *file)).collect();
        let read = |path: &TarPath| match rows.get(path).and_then(|row| staged.get(row)) {
            Some(staged) => fs::read(staged).context("read", staged),
            None => Err(Error::bundle("the image cache", format!("{path} is not in it"))),
        };
        found.push((number, check_belongs(image, files.iter().map(|file| &file.path), read)?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another import has placed it between the look and the rename.
    #[test]
    fn metadata_that_came_in_between_is_as_good_if_it_means_the_same() {
        let raw = crate::digest::Digest::of(b"{}");
        let load = |labels: &str| {
            format!(
                r#"{{"manifest_digest":"{raw}","config_digest":"{raw}","raw_manifest_json":"{{}}","raw_config_json":"{{}}","config":{{"labels":{labels}}},"layers":[]}}"#
            )
        };
        for (labels, same) in [(r#"{"b":"2","a":"1"}"#, true), (r#"{"b":"2","a":"2"}"#, false)] {
            let cache = tempfile::tempdir().unwrap();
            let stage = Stage::create(cache.path()).unwrap();
            let (staged, target) = (stage.path().join("0"), cache.path().join("manifests/x.json"));
            fs::create_dir(cache.path().join("manifests")).unwrap();
            fs::write(&staged, load(r#"{"a":"1","b":"2"}"#)).unwrap();
            fs::write(&target, load(labels)).unwrap();
            let file = StagedFile { staged, target: target.clone(), replace: false, is_metadata: true };
            let staged = StagedCache { stage, files: vec![file], found: Vec::new(), tags: Vec::new() };
            let placed = staged.place(cache.path());
            assert_eq!(placed.is_ok(), same, "{placed:?}");
            assert_eq!(fs::read_to_string(&target).unwrap(), load(labels));
        }
    }
}
