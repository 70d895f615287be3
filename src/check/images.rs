//! What a check finds in the image cache.

use std::collections::HashSet;

use super::{CACHE_UNREADABLE, Look, is_metadata, vouched::NOT_IMPORTED};
use crate::{
    bundle::BundledSnapshot,
    cached::CachedFile,
    error::{Error, Result},
    model::{FileRecord, ImageRecord, LayerRecord},
    snapshot::{Snapshot, is_there},
    store::{
        image_cache::{CachedImage, cached_images, image_files, needed_files},
        image_metadata::Metadata,
        image_reference::{pinned_file, reference_file},
    },
};

/// The code of a note about an image-cache file that nothing vouches for.
pub(super) const NOT_COMPARED: &str = "cache-not-compared";

impl Look<'_> {
    /// What the cache says of itself: raw documents against their digests, and the files of every image that is there.
    pub(super) fn images(&mut self, snapshots: &[Snapshot]) -> Result<Vec<CachedImage>> {
        let cache = self.store.cache();
        let (cached, unreadable) = cached_images(&cache)?;
        for (path, error) in unreadable {
            self.report(CACHE_UNREADABLE, &cache.join(&path), error);
        }
        let pins = |image: &CachedImage, flat_root: bool| {
            let pinned =
                |s: &&Snapshot| s.descriptor.image.as_ref().is_some_and(|i| i.manifest_digest == image.manifest_digest);
            snapshots.iter().filter(pinned).any(|s| s.descriptor.flat_root == flat_root)
        };
        for image in &cached {
            for problem in &image.problems {
                self.report("image-document", &cache.join(&image.path), problem);
            }
            // Of an image that only flat root disks pin, the metadata is enough.
            if pins(image, true) && !pins(image, false) {
                continue;
            }
            for layer in &image.layers {
                if is_there(&cache.join(layer))? {
                    continue;
                }
                let text = format!("{} needs it and it is not there; pull the image again", image.path);
                self.report("image-layer-missing", &cache.join(layer), text);
            }
        }
        let mut seen = HashSet::new();
        for snapshot in snapshots {
            let (Some(image), flat_root) = (&snapshot.descriptor.image, snapshot.descriptor.flat_root) else {
                continue;
            };
            let vmdk = cache.join(format!("vmdk/sha256_{}.vmdk", image.manifest_digest.hex()));
            // A snapshot may be in a store without its image.
            let there = is_there(&vmdk)? || cached.iter().any(|c| c.manifest_digest == image.manifest_digest);
            if seen.insert((image.manifest_digest, flat_root))
                && there
                && let Err(error) = needed_files(&cache, image, flat_root)
            {
                let code = if matches!(error, Error::Io { .. }) { CACHE_UNREADABLE } else { "image-invalid" };
                self.report(code, &vmdk, error);
            }
        }
        Ok(cached)
    }

    /// Image-cache files against what came with the snapshots.
    pub(super) fn cache_rows(&mut self, cached: &[CachedImage], bundled: &[BundledSnapshot]) -> Result<()> {
        let cache = self.store.cache();
        self.unvouched_images(bundled)?;
        for (path, rows) in std::mem::take(&mut self.cache) {
            if is_metadata(&path) {
                // Whose it is, a descriptor says. One that cannot be read is a finding, and is repaired first.
                let images = self.brought.remove(&path).unwrap_or_default();
                self.metadata(cached, &images, &rows)?;
                continue;
            }
            let (code, text) = match CachedFile::look(&cache, &path, self.jobs, self.progress.as_ref()) {
                Ok(Some(file)) => {
                    self.found.counts.files += 1;
                    self.found.counts.data_bytes += file.contents.data_bytes;
                    match rows.iter().any(|row| file.is(row)) {
                        true if !file.elsewhere => continue,
                        true => ("cache-corrupt", format!("it names files outside of {}", cache.display())),
                        false => {
                            let expected: Vec<String> = rows.iter().map(|row| row.root.to_string()).collect();
                            let (root, expected) = (file.contents.root, expected.join(" or "));
                            ("cache-corrupt", format!("its root is {root}; {expected} came with a snapshot"))
                        }
                    }
                }
                Ok(None) => ("cache-missing", "it came with a snapshot and is not there".into()),
                // A VMDK that is none.
                Err(error @ Error::ImageCache { .. }) => ("cache-corrupt", error.to_string()),
                Err(error) => (CACHE_UNREADABLE, error.to_string()),
            };
            self.report(code, &cache.join(&path), text);
            self.found.cache.extend(rows);
        }
        Ok(())
    }

    /// Metadata that came with snapshots of these images. It need not stand where it stood in the bundle, nor byte by byte:
    /// whatever key whole metadata of the image has, msb finds it by the manifest's digest.
    fn metadata(&mut self, cached: &[CachedImage], images: &HashSet<ImageRecord>, rows: &[FileRecord]) -> Result<()> {
        let cache = self.store.cache();
        for image in images {
            let is_whole = |c: &&CachedImage| c.manifest_digest == image.manifest_digest && c.problems.is_empty();
            if let Some(whole) = cached.iter().find(is_whole) {
                match CachedFile::look(&cache, &whole.path, self.jobs, self.progress.as_ref()) {
                    Ok(file) => {
                        self.found.counts.files += 1;
                        self.found.counts.data_bytes += file.map_or(0, |file| file.contents.data_bytes);
                    }
                    Err(error) => self.report(CACHE_UNREADABLE, &cache.join(&whole.path), error),
                }
                continue;
            }
            let (pinned, tag) = (pinned_file(image)?, reference_file(image)?);
            let mut finding = ("cache-missing", pinned.clone(), "it came with a snapshot and is not there".to_owned());
            // What another image's tag means now is nobody's damage.
            for path in [tag, pinned] {
                match Metadata::at(&cache.join(&path)) {
                    Ok(Some(metadata)) if metadata.manifest_digest != image.manifest_digest && metadata.is_whole() => {}
                    Ok(None) if !is_there(&cache.join(&path))? => {}
                    Ok(_) => {
                        let text =
                            format!("it is not the metadata of {}, which came with a snapshot", image.manifest_digest);
                        finding = ("cache-corrupt", path, text);
                    }
                    Err(error) => finding = (CACHE_UNREADABLE, path, error.to_string()),
                }
            }
            let (code, path, text) = finding;
            self.report(code, &cache.join(&path), text);
            self.found.cache.extend(rows.iter().cloned());
        }
        Ok(())
    }

    /// Files of filesystems that came with no snapshot: msb made them, and nothing says what they were. The bundle does, of
    /// those that it has; it is no damage if they differ, because msb may have made them another time.
    fn unvouched_images(&mut self, bundled: &[BundledSnapshot]) -> Result<()> {
        let cache = self.store.cache();
        let layers = bundled.iter().flat_map(|snapshot| &snapshot.config.layers);
        let rows: Vec<&FileRecord> = layers.filter_map(LayerRecord::cache_file).collect();
        for path in image_files(&cache)? {
            if self.cache.contains_key(&path) {
                continue;
            }
            let brought: Vec<_> = rows.iter().filter(|row| row.path == path).collect();
            let found = match brought.is_empty() {
                true => Ok(None),
                false => CachedFile::look(&cache, &path, self.jobs, self.progress.as_ref()),
            };
            let text = match found {
                Ok(Some(file)) if brought.iter().any(|row| file.is(row)) => continue,
                Ok(Some(_)) => format!("{NOT_IMPORTED}, and it is not what the bundle has"),
                Ok(None) => NOT_IMPORTED.into(),
                Err(error) => {
                    self.report(CACHE_UNREADABLE, &cache.join(&path), error);
                    continue;
                }
            };
            self.note(NOT_COMPARED, &cache.join(&path), text);
        }
        Ok(())
    }
}
