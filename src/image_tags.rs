//! Where an image's metadata goes in a cache, and whether a tag gets another meaning by it.
//!
//! `manifests/<key of a reference>.json` is what msb takes a reference for. A bundle from a stranger must not decide what
//! `alpine:latest` is here, so its metadata goes under the image's own digest, unless the user trusts it with the tag.
//! msb finds a snapshot's image by that digest.

use std::path::Path;

use crate::{
    error::{Error, Result},
    model::{ImageRecord, TarPath},
    report::{TagOutcome, TagReport},
    store::{
        image_metadata::Metadata,
        image_reference::{ImageReference, pinned_file, reference_file},
    },
};

/// What a source may do with the tags of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagTrust {
    /// Nothing.
    None,
    /// Give a meaning to those that have none.
    New,
    /// Replace meanings, too.
    Replace,
}

impl TagTrust {
    /// What `--trust-image-tags` and `--force` allow together.
    pub fn of(trust_image_tags: bool, force: bool) -> Self {
        match (trust_image_tags, force) {
            (false, _) => Self::None,
            (true, false) => Self::New,
            (true, true) => Self::Replace,
        }
    }
}

/// What is done where the metadata goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Nothing: metadata of the image stands there.
    Kept,
    /// Nothing is there yet.
    New,
    /// What is there is exchanged.
    Replaced,
}

/// Where the metadata of an image goes.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Its path in the cache.
    pub path: TarPath,
    /// What is done there.
    pub put: Put,
    /// What becomes of the reference's tag; none where the reference is pinned by digest.
    pub tag: Option<TagReport>,
}

/// What stands under a key of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Nothing,
    /// Whole metadata of the image.
    Image,
    /// The image's metadata, damaged.
    Damaged,
    /// Something else.
    Other,
}

impl Standing {
    /// What stands at `path`, beside the metadata of `image` that comes.
    fn under(
        cache: &Path,
        path: &TarPath,
        image: &ImageRecord,
        incoming: &Metadata,
    ) -> Result<(Self, Option<Metadata>)> {
        let absolute = cache.join(path);
        let metadata = Metadata::at(&absolute)?;
        let standing = match &metadata {
            Some(metadata) if metadata.manifest_digest != image.manifest_digest => Self::Other,
            Some(metadata) if metadata.is_whole() && !metadata.contradicts(incoming) => Self::Image,
            Some(_) => Self::Damaged,
            None if crate::snapshot::is_there(&absolute)? => Self::Other,
            None => Self::Nothing,
        };
        Ok((standing, metadata))
    }
}

/// Where the metadata of `image`, `incoming`, goes in `cache`. With `force`, what is there and different is replaced.
///
/// # Errors
/// [`Error::DifferentFile`]: something else stands where only this image's metadata belongs, and `force` is not given.
/// [`Error::Io`].
pub(crate) fn destination(
    cache: &Path,
    image: &ImageRecord,
    incoming: &Metadata,
    trust: TagTrust,
    force: bool,
) -> Result<Destination> {
    let reference = ImageReference::of(&image.reference);
    let pinned = pinned_file(image)?;
    let path = reference_file(image)?;
    if path == pinned {
        return Ok(Destination { put: put(cache, image, incoming, &pinned, force)?, path: pinned, tag: None });
    }
    let (standing, there) = Standing::under(cache, &path, image, incoming)?;
    let report = |outcome| TagReport {
        reference: reference.canonical(),
        manifest_digest: image.manifest_digest,
        outcome,
        current: there.as_ref().map(|metadata| metadata.manifest_digest),
    };
    let own = |put, outcome| Ok(Destination { path: path.clone(), put, tag: Some(report(outcome)) });
    let outcome = match (standing, trust) {
        (Standing::Image, _) => return own(Put::Kept, TagOutcome::Already),
        // It means this image before and after.
        (Standing::Damaged, _) if force => return own(Put::Replaced, TagOutcome::Already),
        (Standing::Nothing, TagTrust::New | TagTrust::Replace) => return own(Put::New, TagOutcome::Set),
        (Standing::Other, TagTrust::Replace) => return own(Put::Replaced, TagOutcome::Set),
        (Standing::Nothing, TagTrust::None) => TagOutcome::NotSet,
        (Standing::Other | Standing::Damaged, _) => TagOutcome::Kept,
    };
    Ok(Destination { put: put(cache, image, incoming, &pinned, force)?, path: pinned, tag: Some(report(outcome)) })
}

/// What is done under a key that can mean this image only.
fn put(cache: &Path, image: &ImageRecord, incoming: &Metadata, pinned: &TarPath, force: bool) -> Result<Put> {
    match Standing::under(cache, pinned, image, incoming)?.0 {
        Standing::Image => Ok(Put::Kept),
        Standing::Nothing => Ok(Put::New),
        Standing::Damaged | Standing::Other if force => Ok(Put::Replaced),
        Standing::Damaged | Standing::Other => Err(Error::DifferentFile { path: cache.join(pinned) }),
    }
}
