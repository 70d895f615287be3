//! A reference to an image as msb reads it, and the names of the cache's files that follow from it.

use crate::{
    digest::Digest,
    error::Result,
    model::{ImageRecord, TarPath},
};

/// What a reference names: a repository with its registry, and a tag, a digest, or both.
///
/// Every text can be read as one. What msb would refuse names nothing there, and is harmless here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// `docker.io/library/alpine`.
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// Reads a reference; the Docker Hub, its `library` and `latest` are understood where they are left out.
    pub fn of(text: &str) -> Self {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].split_once(':') {
            Some((component, tag)) => (&rest[..last + component.len()], Some(tag.to_owned())),
            None => (rest, None),
        };
        let is_host = |word: &str| word.contains(['.', ':']) || word == "localhost";
        let (host, repository) = match name.split_once('/') {
            Some((host, repository)) if is_host(host) => (host, repository),
            _ => ("docker.io", name),
        };
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        let library = if host == "docker.io" && !repository.contains('/') { "library/" } else { "" };
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Self { name: format!("{host}/{library}{repository}"), tag, digest }
    }

    /// The one spelling under which msb keeps it.
    pub fn canonical(&self) -> String {
        let tag = self.tag.iter().map(|tag| format!(":{tag}"));
        let digest = self.digest.iter().map(|digest| format!("@{digest}"));
        std::iter::once(self.name.clone()).chain(tag).chain(digest).collect()
    }

    /// Whether the reference itself says that it means this manifest.
    pub fn is_pinned_to(&self, manifest: &Digest) -> bool {
        self.digest.as_ref().is_some_and(|digest| *digest == manifest.to_string())
    }

    /// The repository with the manifest's digest instead of a tag: what msb asks for first when it restores a snapshot.
    pub fn pinned_to(&self, manifest: &Digest) -> String {
        format!("{}@{manifest}", self.name)
    }
}

/// The metadata file of an image's reference: whatever stands there is what the reference means.
///
/// # Errors
/// None: a digest in hex is a path.
pub fn reference_file(image: &ImageRecord) -> Result<TarPath> {
    metadata_file(&ImageReference::of(&image.reference).canonical())
}

/// The metadata file that can mean this image only.
///
/// # Errors
/// As [`reference_file`].
pub fn pinned_file(image: &ImageRecord) -> Result<TarPath> {
    let reference = ImageReference::of(&image.reference);
    match reference.is_pinned_to(&image.manifest_digest) {
        true => metadata_file(&reference.canonical()),
        false => metadata_file(&reference.pinned_to(&image.manifest_digest)),
    }
}

/// The file of a reference in its canonical spelling.
fn metadata_file(canonical: &str) -> Result<TarPath> {
    format!("manifests/{}.json", Digest::of(canonical.as_bytes()).hex()).parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_spelled_as_msb_spells_them() {
        let digest = Digest::of(b"x");
        for (text, canonical) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("library/alpine", "docker.io/library/alpine:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine:3", "docker.io/library/alpine:3"),
            ("user/image", "docker.io/user/image:latest"),
            ("test.com:tag", "docker.io/library/test.com:tag"),
            ("test.com/repo:tag", "test.com/repo:tag"),
            ("test:5000/repo", "test:5000/repo:latest"),
            ("localhost/repo", "localhost/repo:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080"),
        ] {
            assert_eq!(ImageReference::of(text).canonical(), canonical, "{text}");
            assert_eq!(ImageReference::of(canonical).canonical(), canonical);
        }
        let pinned = format!("docker.io/library/alpine@{digest}");
        assert_eq!(ImageReference::of(&format!("alpine@{digest}")).canonical(), pinned);
        assert_eq!(ImageReference::of("alpine:3.20").pinned_to(&digest), pinned);
        let both = format!("alpine:3@{digest}");
        assert_eq!(ImageReference::of(&both).canonical(), format!("docker.io/library/alpine:3@{digest}"));
        assert!(ImageReference::of(&both).is_pinned_to(&digest));
        assert!(!ImageReference::of(&both).is_pinned_to(&Digest::of(b"y")));
        assert!(!ImageReference::of("alpine").is_pinned_to(&digest));
    }
}
