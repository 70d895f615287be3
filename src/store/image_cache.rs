//! What `--with-image` carries: the files of the image cache that the pinned image needs, and nothing else.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    image_metadata::{MAX_METADATA, Metadata, read_file},
    image_reference::{pinned_file, reference_file},
    vmdk,
};
use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    model::{ImageRecord, TarPath},
    snapshot::is_there,
};

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
    // Under whatever name it is found, it travels under that of the descriptor's reference.
    Ok(CacheFile { path: reference_file(image)?, content: CacheContent::File(cache.join(path)) })
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
    let known: HashSet<&TarPath> = layers.iter().collect();
    if let Some(other) = extents.iter().find(|path| path.as_str() != fsmeta && !known.contains(path)) {
        return Some(format!("{other} is no file of this image"));
    }
    let named: HashSet<&TarPath> = extents.iter().collect();
    let missing = layers.iter().find(|layer| !named.contains(layer))?;
    Some(format!("it lacks the image's layer {missing}"))
}

/// What the cache files that came with a snapshot say of its image.
#[derive(Debug, Default)]
pub struct Belonging {
    /// The image's metadata, and the path that it came by.
    pub metadata: Option<(TarPath, Metadata)>,
    /// Layers that the VMDK alone names, for the metadata did not come: they may be another image's, too.
    pub unproven: Vec<TarPath>,
}

/// What cache files that came with a snapshot must be: those of its image, and nothing else. `read` gives a file's bytes.
///
/// The metadata must be of the manifest that the descriptor pins and follow from its documents, the VMDK name its layers,
/// and nothing that did not come: whatever a bundle says, the cache of another image stays as it is, and is not shown to a
/// snapshot. (An EROFS file's bytes cannot be compared with a diff id.)
///
/// # Errors
/// [`Error::InvalidBundle`], and those of `read`.
pub fn check_belongs<'p>(
    image: &ImageRecord,
    paths: impl Iterator<Item = &'p TarPath>,
    read: impl Fn(&TarPath) -> Result<Vec<u8>>,
) -> Result<Belonging> {
    let fail = |reason: String| Error::bundle(format!("the cache files of the image {}", image.reference), reason);
    let hex = image.manifest_digest.hex();
    let [fsmeta, vmdk] = [format!("fsmeta/sha256_{hex}.erofs"), format!("vmdk/sha256_{hex}.vmdk")];
    let (documents, others): (Vec<&TarPath>, Vec<&TarPath>) =
        paths.partition(|path| path.as_str().starts_with("manifests/"));
    let mut found = Belonging::default();
    for path in documents {
        let metadata = Metadata::parse(&read(path)?).map_err(|reason| fail(format!("{path}: {reason}")))?;
        if metadata.manifest_digest != image.manifest_digest {
            return Err(fail(format!("{path} is of the manifest {}", metadata.manifest_digest)));
        }
        if let Some(problem) = metadata.problems().first() {
            return Err(fail(format!("{path}: {problem}")));
        }
        match &found.metadata {
            Some((other, known)) if *known != metadata => {
                return Err(fail(format!("{path} says something else than {other}")));
            }
            Some(_) => {}
            None => found.metadata = Some((path.clone(), metadata)),
        }
    }
    let layers = found.metadata.as_ref().map(|(_, metadata)| metadata.layer_files()).transpose()?;
    if let Some(path) = others.iter().find(|path| path.as_str() == vmdk) {
        let extents = vmdk::reduced_extents(&read(path)?)?;
        let came: HashSet<&TarPath> = others.iter().copied().collect();
        if let Some(problem) = layers.as_ref().and_then(|layers| unlike(&extents, &hex, layers)) {
            return Err(fail(format!("{path}: {problem}")));
        }
        // What is in the cache already may be another image's, which nobody has shown to this one.
        if let Some(other) = extents.iter().find(|file| file.as_str() != fsmeta && !came.contains(file)) {
            return Err(fail(format!("{path} names {other}, which did not come with the image")));
        }
        if layers.is_none() {
            found.unproven = extents;
            found.unproven.retain(|file| file.as_str() != fsmeta);
        }
    }
    let known: HashSet<&TarPath> = layers.as_ref().unwrap_or(&found.unproven).iter().collect();
    let own = |path: &TarPath| path.as_str() == fsmeta || path.as_str() == vmdk || known.contains(path);
    match others.iter().find(|path| !own(path)) {
        Some(path) => Err(fail(format!("{path} is no file of this image"))),
        None => Ok(found),
    }
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
        let Ok(metadata) = Metadata::parse(&bytes) else { continue };
        let (layers, problems) = (metadata.layer_files()?, metadata.problems());
        images.push(CachedImage { path, manifest_digest: metadata.manifest_digest, layers, problems });
    }
    images.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((images, unreadable))
}

/// The EROFS files of an image cache, sorted.
///
/// # Errors
/// [`Error::Io`]: a folder cannot be listed.
pub fn image_files(cache: &Path) -> Result<Vec<TarPath>> {
    let mut found = Vec::new();
    for folder in ["fsmeta", "layers"] {
        let path = cache.join(folder);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.context("list", &path)?,
        };
        for entry in entries {
            let entry = entry.context("read", &path)?;
            let is_file = entry.file_type().context("look at", entry.path())?.is_file();
            if let Some(name) = entry.file_name().to_str().filter(|name| is_file && name.ends_with(".erofs")) {
                found.extend(format!("{folder}/{name}").parse::<TarPath>());
            }
        }
    }
    found.sort();
    Ok(found)
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
                Some(bytes) => Metadata::parse(&bytes)
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

/// The image's metadata: under the key that can mean this image only, else under its reference, else the first under any
/// other key. What is not whole counts only where nothing is.
fn find_metadata(cache: &Path, image: &ImageRecord) -> Result<Option<(TarPath, Metadata)>> {
    let folder = cache.join("manifests");
    let mut paths = vec![pinned_file(image)?, reference_file(image)?];
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
            paths.extend(others.iter().filter_map(|name| format!("manifests/{name}").parse().ok()));
        }
    }
    let mut damaged = None;
    for path in paths {
        // Another version's file, or a torn one: as good as absent.
        let Some(metadata) = Metadata::at(&cache.join(&path))? else { continue };
        if metadata.manifest_digest != image.manifest_digest {
            continue;
        }
        if metadata.is_whole() {
            return Ok(Some((path, metadata)));
        }
        damaged = damaged.or(Some((path, metadata)));
    }
    Ok(damaged)
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
