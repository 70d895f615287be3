//! What `--with-image` carries: the files of the image cache that the pinned image needs, and nothing else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::vmdk;
use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    model::{ImageRecord, TarPath},
    snapshot::is_there,
};

/// Largest metadata file that is read: two documents of 4 MiB, each quoted.
pub const MAX_METADATA: u64 = 16 << 20;

/// Where a cache file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheContent {
    /// In this file.
    File(PathBuf),
    /// Here: a VMDK with its paths reduced.
    Bytes(Vec<u8>),
}

/// One file of the image cache that travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFile {
    /// Its path in the cache.
    pub path: TarPath,
    /// Its bytes.
    pub content: CacheContent,
}

/// A cached image's metadata. It is a cache's file, not a contract: unknown members are no error.
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

/// The files of `cache` that a snapshot of `image` needs: its metadata alone where the snapshot's root disk is the whole
/// filesystem, else all of them.
///
/// # Errors
/// As [`files_for`].
pub fn needed_files(cache: &Path, image: &ImageRecord, flat_root: bool) -> Result<Vec<CacheFile>> {
    if !flat_root {
        return files_for(cache, image);
    }
    let fail = |reason: String| Error::ImageCache { image: image.reference.clone(), reason };
    let Some((path, metadata)) = find_metadata(cache, image)? else {
        let cache = cache.display();
        return Err(fail(format!("{cache} has no metadata of it (manifests/*.json); pull it, or leave the image out")));
    };
    Ok(vec![travelling_metadata(cache, image, &path, &metadata)?])
}

/// The metadata under the name by which it travels.
fn travelling_metadata(cache: &Path, image: &ImageRecord, path: &TarPath, metadata: &Metadata) -> Result<CacheFile> {
    if let Some(problem) = metadata.problems().first() {
        let reason = format!("{path}: {problem}");
        return Err(Error::ImageCache { image: image.reference.clone(), reason });
    }
    // Another tag of the same manifest, perhaps: it travels under the name that the descriptor gives it.
    let known = spellings(&image.reference).iter().any(|name| path.as_str() == metadata_name(name));
    let name = if known { path.clone() } else { metadata_name(&image.reference).parse()? };
    Ok(CacheFile { path: name, content: CacheContent::File(cache.join(path)) })
}

/// The files of `cache` that `image` needs, sorted by path.
///
/// # Errors
/// [`Error::ImageCache`]: neither metadata nor VMDK is there, a file that they name is missing, a raw document does not
/// hash to its digest, or the VMDK names something outside the cache.
pub fn files_for(cache: &Path, image: &ImageRecord) -> Result<Vec<CacheFile>> {
    let fail = |reason: String| Error::ImageCache { image: image.reference.clone(), reason };
    let hex = image.manifest_digest.hex();
    let mut files: BTreeMap<TarPath, CacheContent> = BTreeMap::new();
    let mut needed: Vec<TarPath> = Vec::new();

    let metadata = find_metadata(cache, image)?;
    if let Some((path, metadata)) = &metadata {
        let CacheFile { path, content } = travelling_metadata(cache, image, path, metadata)?;
        files.insert(path, content);
        needed.extend(metadata.layer_files()?);
    }

    let vmdk_path: TarPath = format!("vmdk/sha256_{hex}.vmdk").parse()?;
    let vmdk = read_file(&cache.join(&vmdk_path), vmdk::MAX_VMDK as u64)?;
    if let Some(bytes) = &vmdk {
        let named = |error| match error {
            Error::ImageCache { reason, .. } => fail(format!("{vmdk_path}: {reason}")),
            other => other,
        };
        let extents = vmdk::extents(bytes).map_err(named)?;
        if let Some((_, metadata)) = &metadata
            && let Some(problem) = unlike(&extents, &hex, &metadata.layer_files()?)
        {
            return Err(fail(format!("{vmdk_path}: {problem}; pull the image again")));
        }
        needed.extend(extents);
        let reduced = vmdk::reduce(bytes).map_err(named)?;
        files.insert(vmdk_path.clone(), CacheContent::Bytes(reduced));
    }
    if metadata.is_none() && vmdk.is_none() {
        return Err(fail(format!(
            "{} has neither its metadata (manifests/*.json) nor {vmdk_path}; pull the image, or export without --with-image",
            cache.display()
        )));
    }

    let fsmeta: TarPath = format!("fsmeta/sha256_{hex}.erofs").parse()?;
    if is_there(&cache.join(&fsmeta))? {
        needed.push(fsmeta);
    }
    for path in needed {
        let absolute = cache.join(&path);
        match absolute.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(fail(format!("{} is not a regular file", absolute.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(fail(format!("{} is missing; pull the image again", absolute.display())));
            }
            Err(error) => return Err(Error::io("read", &absolute, error)),
        }
        files.insert(path, CacheContent::File(absolute));
    }
    Ok(files.into_iter().map(|(path, content)| CacheFile { path, content }).collect())
}

/// Whether a cache file says which files an image has, rather than being one of them.
pub fn is_document(path: &TarPath) -> bool {
    path.as_str().starts_with("manifests/") || path.as_str().starts_with("vmdk/")
}

/// What is wrong with the files that an image's VMDK names: they are its fsmeta and the layers of its metadata, all of them.
fn unlike(extents: &[TarPath], hex: &str, layers: &[TarPath]) -> Option<String> {
    let fsmeta = format!("fsmeta/sha256_{hex}.erofs");
    if let Some(other) = extents.iter().find(|path| path.as_str() != fsmeta && !layers.contains(path)) {
        return Some(format!("{other} is no file of this image"));
    }
    let missing = layers.iter().find(|layer| !extents.contains(layer))?;
    Some(format!("it lacks the image's layer {missing}"))
}

/// Of the cache files that came with a snapshot, those that are not simply its image's.
#[derive(Default)]
pub struct Belonging {
    /// Metadata under the name of another reference: another tag of the same manifest, which a bundle does not set.
    pub foreign: Vec<TarPath>,
    /// Layers that the VMDK alone names, for the metadata did not come: they may be another image's, too.
    pub unproven: Vec<TarPath>,
}

/// What cache files that came with a snapshot must be: those of its image, and nothing else. `read` gives a file's bytes.
///
/// The metadata's documents must hash to the digest that the descriptor pins, its diff ids be those of the image's
/// config, its name be that of the image's reference, the VMDK name its layers: whatever a bundle says, the cache of
/// another image stays as it is. (An EROFS file's bytes cannot be compared with a diff id.)
///
/// # Errors
/// [`Error::InvalidBundle`], and those of `read`.
pub fn check_belongs<'p>(
    image: &ImageRecord,
    paths: impl Iterator<Item = &'p TarPath> + Clone,
    read: impl Fn(&TarPath) -> Result<Vec<u8>>,
) -> Result<Belonging> {
    let fail = |reason: String| Error::bundle(format!("the cache files of the image {}", image.reference), reason);
    let hex = image.manifest_digest.hex();
    let own = [format!("fsmeta/sha256_{hex}.erofs"), format!("vmdk/sha256_{hex}.vmdk")];
    let (mut layers, mut found) = (None, Belonging::default());
    for path in paths.clone().filter(|path| path.as_str().starts_with("manifests/")) {
        let metadata: Metadata = serde_json::from_slice(&read(path)?).map_err(|e| fail(format!("{path}: {e}")))?;
        if metadata.manifest_digest != image.manifest_digest {
            return Err(fail(format!("{path} is of the manifest {}", metadata.manifest_digest)));
        }
        if let Some(problem) = metadata.problems().first() {
            return Err(fail(format!("{path}: {problem}")));
        }
        if !spellings(&image.reference).iter().any(|name| path.as_str() == metadata_name(name)) {
            found.foreign.push(path.clone());
        }
        layers = Some(metadata.layer_files()?);
    }
    if let Some(path) = paths.clone().find(|path| path.as_str() == own[1]) {
        let extents = vmdk::reduced_extents(&read(path)?)?;
        match &layers {
            Some(layers) => {
                if let Some(problem) = unlike(&extents, &hex, layers) {
                    return Err(fail(format!("{path}: {problem}")));
                }
            }
            None => found.unproven = extents.into_iter().filter(|file| file.as_str().starts_with("layers/")).collect(),
        }
    }
    let layers = layers.as_ref().unwrap_or(&found.unproven);
    match paths.clone().find(|path| {
        !path.as_str().starts_with("manifests/") && !own.contains(&path.to_string()) && !layers.contains(path)
    }) {
        Some(path) => Err(fail(format!("{path} is no file of this image"))),
        None => Ok(found),
    }
}

/// Whether two files are metadata of different manifests, each whole.
///
/// # Errors
/// [`Error::Io`].
pub fn is_of_another_manifest(there: &Path, incoming: &Path) -> Result<bool> {
    Ok(matches!((manifest_of(there)?, manifest_of(incoming)?), (Some(there), Some(incoming)) if there != incoming))
}

/// The manifest that a file is the metadata of; none if it is not whole in itself.
///
/// # Errors
/// [`Error::Io`].
pub fn manifest_of(metadata: &Path) -> Result<Option<Digest>> {
    let Some(bytes) = read_file(metadata, MAX_METADATA)? else { return Ok(None) };
    let metadata = serde_json::from_slice::<Metadata>(&bytes).ok();
    Ok(metadata.filter(|metadata| metadata.problems().is_empty()).map(|metadata| metadata.manifest_digest))
}

/// Whether the metadata of the image's reference, however that is spelled, stands at `path`.
pub fn is_metadata_of(path: &TarPath, image: &ImageRecord) -> bool {
    spellings(&image.reference).iter().any(|reference| metadata_name(reference) == path.as_str())
}

/// The file of the metadata of a reference, as it is spelled.
fn metadata_name(reference: &str) -> String {
    format!("manifests/{}.json", Digest::of(reference.as_bytes()).hex())
}

/// The ways to spell an image's reference: with and without what is understood (the Docker Hub, its `library`, `latest`).
fn spellings(reference: &str) -> Vec<String> {
    let hub = ["docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/", ""];
    let rest = hub.iter().find_map(|prefix| reference.strip_prefix(prefix)).unwrap_or(reference);
    let rest = rest.strip_prefix("library/").unwrap_or(rest);
    let elsewhere = rest == reference
        && rest.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
    let untagged = !rest.contains('@') && !rest.rsplit('/').next().is_some_and(|name| name.contains(':'));
    let short = rest.strip_suffix(":latest");
    let tags: Vec<String> = match (untagged, short) {
        (true, _) => vec![rest.to_owned(), format!("{rest}:latest")],
        (false, Some(short)) => vec![rest.to_owned(), short.to_owned()],
        (false, None) => vec![rest.to_owned()],
    };
    let prefixes: &[&str] = match (elsewhere, rest.contains('/')) {
        (true, _) => &[""],
        (false, true) => &["", "docker.io/", "index.docker.io/"],
        (false, false) => &["", "library/", "docker.io/", "docker.io/library/", "index.docker.io/library/"],
    };
    let all = prefixes.iter().flat_map(|prefix| tags.iter().map(move |tag| format!("{prefix}{tag}")));
    all.chain([reference.to_owned()]).collect()
}

/// An image whose metadata is in the cache.
#[derive(Clone, Debug)]
pub struct CachedImage {
    /// Its metadata's file.
    pub path: TarPath,
    /// The image manifest's digest.
    pub manifest_digest: Digest,
    /// The files of its layers.
    pub layers: Vec<TarPath>,
    /// What is wrong with its documents.
    pub problems: Vec<String>,
}

/// A file that cannot be read, and why.
type Unreadable = (TarPath, Error);

/// Every image whose metadata can be read, sorted by file name; and the files of which nobody knows whether they are such,
/// for they cannot be read.
///
/// # Errors
/// [`Error::Io`]: the folder cannot be listed.
pub fn cached_images(cache: &Path) -> Result<(Vec<CachedImage>, Vec<Unreadable>)> {
    let folder = cache.join("manifests");
    let (mut images, mut unreadable) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((images, unreadable)),
        entries => entries.context("read", &folder)?,
    };
    for entry in entries {
        let Ok(name) = entry.context("read", &folder)?.file_name().into_string() else { continue };
        let Ok(path) = format!("manifests/{name}").parse::<TarPath>() else { continue };
        if !name.ends_with(".json") || name.starts_with('.') {
            continue;
        }
        let bytes = match read_file(&cache.join(&path), MAX_METADATA) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) => {
                unreadable.push((path, error));
                continue;
            }
        };
        let Ok(metadata) = serde_json::from_slice::<Metadata>(&bytes) else { continue };
        let (layers, problems) = (metadata.layer_files()?, metadata.problems());
        images.push(CachedImage { path, manifest_digest: metadata.manifest_digest, layers, problems });
    }
    images.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((images, unreadable))
}

/// Which files something in the cache names, or why that cannot be told.
type Named = std::result::Result<Vec<TarPath>, String>;

/// What every VMDK and every image's metadata of the cache names, itself too, with its path; sorted by path.
///
/// # Errors
/// [`Error::Io`].
pub fn named_files(cache: &Path) -> Result<Vec<(TarPath, Named)>> {
    let mut all = Vec::new();
    for (folder, ending, limit) in [("manifests", ".json", MAX_METADATA), ("vmdk", ".vmdk", vmdk::MAX_VMDK as u64)] {
        let entries = match fs::read_dir(cache.join(folder)) {
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            entries => entries.context("read", cache.join(folder))?,
        };
        for entry in entries {
            let Ok(name) = entry.context("read", cache.join(folder))?.file_name().into_string() else { continue };
            let Ok(path) = format!("{folder}/{name}").parse::<TarPath>() else { continue };
            if !name.ends_with(ending) || name.starts_with('.') {
                continue;
            }
            let named = match read_file(&cache.join(&path), limit)? {
                None => Err(format!("it is no file of at most {limit} bytes")),
                Some(bytes) if folder == "vmdk" => vmdk::extents(&bytes).map_err(|error| error.to_string()),
                Some(bytes) => serde_json::from_slice::<Metadata>(&bytes)
                    .map_err(|error| error.to_string())
                    .and_then(|metadata| metadata.layer_files().map_err(|error| error.to_string())),
            };
            let named = named.map(|mut files| {
                files.push(path.clone());
                files
            });
            all.push((path, named));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

impl Metadata {
    /// The files of its layers.
    fn layer_files(&self) -> Result<Vec<TarPath>> {
        self.layers.iter().map(|layer| format!("layers/sha256_{}.erofs", layer.diff_id.hex()).parse()).collect()
    }

    /// Raw documents that do not hash to their digests.
    fn problems(&self) -> Vec<String> {
        let documents = [
            ("raw_manifest_json", &self.raw_manifest_json, self.manifest_digest),
            ("raw_config_json", &self.raw_config_json, self.config_digest),
        ];
        let mut found = Vec::new();
        for (name, text, digest) in documents {
            let actual = Digest::of(text.as_bytes());
            if actual != digest {
                found.push(format!("{name} has the digest {actual}, not {digest}; pull the image again"));
            }
        }
        #[derive(Deserialize)]
        struct Pinned {
            digest: Digest,
        }
        #[derive(Deserialize)]
        struct Manifest {
            config: Pinned,
        }
        #[derive(Deserialize)]
        struct Rootfs {
            diff_ids: Vec<Digest>,
        }
        #[derive(Deserialize)]
        struct Config {
            rootfs: Rootfs,
        }
        // What the pinned manifest says, where it says it.
        if let Ok(manifest) = serde_json::from_str::<Manifest>(&self.raw_manifest_json)
            && manifest.config.digest != self.config_digest
        {
            found.push(format!(
                "config_digest is {}, the manifest names {}",
                self.config_digest, manifest.config.digest
            ));
        }
        if let Ok(config) = serde_json::from_str::<Config>(&self.raw_config_json)
            && !config.rootfs.diff_ids.is_empty()
            && !self.layers.iter().map(|layer| &layer.diff_id).eq(&config.rootfs.diff_ids)
        {
            found.push("its layers are not those of the image's config".into());
        }
        found
    }
}

/// The metadata under the reference as it is spelled, else the first that describes the same manifest: the
/// descriptor may spell the reference shorter than the cache does, and a tag moves.
fn find_metadata(cache: &Path, image: &ImageRecord) -> Result<Option<(TarPath, Metadata)>> {
    let folder = cache.join("manifests");
    let mut names = vec![format!("{}.json", Digest::of(image.reference.as_bytes()).hex())];
    match fs::read_dir(&folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &folder, error)),
        Ok(entries) => {
            let mut others = Vec::new();
            for entry in entries {
                others.extend(entry.context("read", &folder)?.file_name().into_string().ok());
            }
            others.retain(|name| name.ends_with(".json") && !name.starts_with('.'));
            others.sort_unstable();
            names.extend(others);
        }
    }
    for name in names {
        let Ok(path) = format!("manifests/{name}").parse::<TarPath>() else { continue };
        let Some(bytes) = read_file(&cache.join(&path), MAX_METADATA)? else { continue };
        match serde_json::from_slice::<Metadata>(&bytes) {
            Ok(metadata) if metadata.manifest_digest == image.manifest_digest => return Ok(Some((path, metadata))),
            Ok(_) => {}
            // Another version's file, or a torn one: as good as absent.
            Err(error) => tracing::debug!(%path, %error, "unreadable image metadata"),
        }
    }
    Ok(None)
}

/// The bytes of a regular file; none where there is none, or it is larger than `limit`.
fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty())) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error.into())),
    };
    let metadata = file.metadata().context("read", path)?;
    if !metadata.is_file() || metadata.len() > limit {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).context("read", path)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{"schemaVersion":2}"#;
    const CONFIG: &str = r#"{"os":"linux"}"#;

    /// A cache with one image of two layers, its record, and files of another image.
    fn cache() -> (tempfile::TempDir, ImageRecord) {
        let dir = tempfile::tempdir().unwrap();
        let manifest_digest = Digest::of(MANIFEST.as_bytes());
        let (hex, diffs) = (manifest_digest.hex(), [Digest::of(b"1"), Digest::of(b"2")]);
        for folder in ["manifests", "layers", "fsmeta", "vmdk"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("other.json"), "{").unwrap();
        }
        let layers: Vec<_> = diffs.iter().map(|d| serde_json::json!({"diff_id": d, "digest": d, "more": 1})).collect();
        let metadata = serde_json::json!({"manifest_digest": manifest_digest, "config_digest": Digest::of(CONFIG.as_bytes()),
            "raw_manifest_json": MANIFEST, "raw_config_json": CONFIG, "config": {}, "layers": layers});
        let mut vmdk = String::from("version=1\n");
        let root = dir.path().display();
        vmdk += &format!("RW 8 FLAT \"{root}/fsmeta/sha256_{hex}.erofs\" 0\n");
        fs::write(dir.path().join(format!("fsmeta/sha256_{hex}.erofs")), "m").unwrap();
        for diff in diffs {
            fs::write(dir.path().join(format!("layers/sha256_{}.erofs", diff.hex())), "l").unwrap();
            vmdk += &format!("RW 8 FLAT \"{root}/layers/sha256_{}.erofs\" 0\n", diff.hex());
        }
        fs::write(dir.path().join(format!("vmdk/sha256_{hex}.vmdk")), vmdk).unwrap();
        let name = Digest::of(b"docker.io/library/alpine:3").hex();
        fs::write(dir.path().join(format!("manifests/{name}.json")), metadata.to_string()).unwrap();
        (dir, ImageRecord { reference: "docker.io/library/alpine:3".into(), manifest_digest })
    }

    fn folders(files: &[CacheFile]) -> Vec<&str> {
        files.iter().map(|f| f.path.as_str().split('/').next().unwrap()).collect()
    }

    fn metadata_file(dir: &Path) -> PathBuf {
        dir.join(format!("manifests/{}.json", Digest::of(b"docker.io/library/alpine:3").hex()))
    }

    #[test]
    fn exactly_what_the_image_needs() {
        let (dir, mut image) = cache();
        let files = files_for(dir.path(), &image).unwrap();
        assert_eq!(folders(&files), ["fsmeta", "layers", "layers", "manifests", "vmdk"]);
        let CacheContent::Bytes(vmdk) = &files[4].content else { panic!() };
        assert!(!String::from_utf8_lossy(vmdk).contains(&*dir.path().to_string_lossy()));
        image.reference = "alpine:3".into();
        assert_eq!(files_for(dir.path(), &image).unwrap(), files);
        fs::remove_file(metadata_file(dir.path())).unwrap();
        let files = files_for(dir.path(), &image).unwrap();
        assert_eq!(folders(&files), ["fsmeta", "layers", "layers", "vmdk"]);
    }

    #[test]
    fn without_a_vmdk_the_metadata_says() {
        let (dir, image) = cache();
        fs::remove_dir_all(dir.path().join("vmdk")).unwrap();
        assert_eq!(folders(&files_for(dir.path(), &image).unwrap()), ["fsmeta", "layers", "layers", "manifests"]);
        fs::remove_dir_all(dir.path().join("fsmeta")).unwrap();
        assert_eq!(folders(&files_for(dir.path(), &image).unwrap()), ["layers", "layers", "manifests"]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        type Damage = fn(&Path);
        let cases: &[(Damage, &str)] = &[
            (|d| fs::remove_dir_all(d.join("layers")).unwrap(), "is missing"),
            (|d| fs::remove_dir_all(d.join("fsmeta")).unwrap(), "is missing"),
            (
                |d| {
                    fs::remove_dir_all(d.join("manifests")).unwrap();
                    fs::remove_dir_all(d.join("vmdk")).unwrap();
                },
                "neither its metadata",
            ),
            (
                |d| {
                    let path = metadata_file(d);
                    let text = fs::read_to_string(&path).unwrap().replace(r#"\"linux\""#, r#"\"bsd\""#);
                    fs::write(path, text).unwrap();
                },
                "raw_config_json",
            ),
            (
                |d| {
                    let path = metadata_file(d);
                    let text = fs::read_to_string(&path).unwrap().replace("schemaVersion", "schema");
                    fs::write(path, text).unwrap();
                },
                "raw_manifest_json",
            ),
            (
                |d| {
                    let path = d.join(format!("vmdk/sha256_{}.vmdk", Digest::of(MANIFEST.as_bytes()).hex()));
                    fs::write(path, "RW 8 FLAT \"/etc/passwd\" 0\n").unwrap();
                },
                "/etc/passwd",
            ),
        ];
        for (damage, say) in cases {
            let (dir, image) = cache();
            damage(dir.path());
            let error = files_for(dir.path(), &image).unwrap_err();
            assert!(matches!(error, Error::ImageCache { .. }), "{error:?}");
            assert!(error.to_string().contains(say), "{say}: {error}");
        }
    }
}
