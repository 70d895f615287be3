//! What `--with-image` carries: the files of the cache that the pinned image needs, and nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::vmdk;
use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    model::{ImageRecord, TarPath},
};

/// Where a cache file's bytes are.
#[derive(Clone, Debug)]
pub enum CacheContent {
    /// In this file.
    File(PathBuf),
    /// Here: a VMDK with reduced paths.
    Bytes(Vec<u8>),
}

/// One file of the image cache that travels.
#[derive(Clone, Debug)]
pub struct CacheFile {
    /// Its path in the cache.
    pub path: TarPath,
    /// Its bytes.
    pub content: CacheContent,
}

/// The metadata of a cached image; it is a cache, so unknown members are no error.
#[derive(Deserialize)]
struct Metadata {
    manifest_digest: Digest,
    config_digest: Digest,
    raw_manifest_json: String,
    raw_config_json: String,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    diff_id: Digest,
}

/// The files that `image` needs.
///
/// # Errors
/// [`Error::ImageCache`]: neither metadata nor VMDK is there, a file that they name is missing, or the raw documents
/// do not hash to their digests.
pub fn files_for(cache: &Path, image: &ImageRecord) -> Result<Vec<CacheFile>> {
    let fail = |reason: String| Error::ImageCache { image: image.reference.clone(), reason };
    let hex = image.manifest_digest.hex();
    let vmdk = cache.join(format!("vmdk/sha256_{hex}.vmdk"));
    let mut paths: Vec<TarPath> = Vec::new();
    match find_metadata(cache, image)? {
        Some((path, metadata)) => {
            if Digest::of(metadata.raw_manifest_json.as_bytes()) != image.manifest_digest {
                return Err(fail(format!("raw_manifest_json of {path} does not hash to the manifest's digest")));
            }
            if Digest::of(metadata.raw_config_json.as_bytes()) != metadata.config_digest {
                return Err(fail(format!("raw_config_json of {path} does not hash to its config_digest")));
            }
            paths.push(path);
            for layer in metadata.layers {
                paths.push(format!("layers/sha256_{}.erofs", layer.diff_id.hex()).parse()?);
            }
        }
        None if vmdk.is_file() => paths.extend(vmdk::extents(&read_bounded(&vmdk)?)?),
        None => {
            return Err(fail(format!(
                "neither its metadata nor its VMDK is in {}; pull the image again, or export without --with-image",
                cache.display()
            )));
        }
    }
    let fsmeta: TarPath = format!("fsmeta/sha256_{hex}.erofs").parse()?;
    if cache.join(&fsmeta).is_file() {
        paths.push(fsmeta);
    }
    paths.sort_unstable();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths {
        let absolute = cache.join(&path);
        if !absolute.symlink_metadata().is_ok_and(|m| m.is_file()) {
            return Err(fail(format!("{} is missing", absolute.display())));
        }
        files.push(CacheFile { path, content: CacheContent::File(absolute) });
    }
    if vmdk.is_file() {
        let reduced = vmdk::reduce(&read_bounded(&vmdk)?)?;
        files.push(CacheFile {
            path: format!("vmdk/sha256_{hex}.vmdk").parse()?,
            content: CacheContent::Bytes(reduced),
        });
    }
    Ok(files)
}

/// Under the reference as spelled, else any that describes the same manifest.
fn find_metadata(cache: &Path, image: &ImageRecord) -> Result<Option<(TarPath, Metadata)>> {
    let named = format!("{}.json", Digest::of(image.reference.as_bytes()).hex());
    let mut names = vec![named];
    if let Ok(entries) = fs::read_dir(cache.join("manifests")) {
        let mut others: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| n.ends_with(".json"))
            .collect();
        others.sort_unstable();
        names.extend(others);
    }
    for name in names {
        let Ok(path) = format!("manifests/{name}").parse::<TarPath>() else { continue };
        let absolute = cache.join(&path);
        if !absolute.is_file() {
            continue;
        }
        let Ok(metadata) = serde_json::from_slice::<Metadata>(&read_bounded(&absolute)?) else { continue };
        if metadata.manifest_digest == image.manifest_digest {
            return Ok(Some((path, metadata)));
        }
    }
    Ok(None)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path).context("stat", path)?.len();
    let limit = crate::model::json::MAX_DOCUMENT;
    if size > limit {
        return Err(Error::Limit { what: format!("the size of {}", path.display()), value: size, limit, hint: "" });
    }
    fs::read(path).context("read", path)
}
