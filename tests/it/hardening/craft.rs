//! A small bundle whose every part can be replaced before it is written, and the place that it must not harm.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use snapcask::{
    Digest, Error,
    check_bundle::verify_bundle,
    import::{BundleLocation, ImportOptions, import},
    layer::analyze::{FileView, contents},
    media_type,
    model::Generation,
    progress::Silent,
};
use tempfile::TempDir;

use super::tar;
use crate::{
    fixture::{descriptor, import_options, is_lock_of_msb, random, write},
    tally,
};

/// The victim's name.
pub const NAME: &str = "victim";
/// Its disk.
pub const DISK: &str = "upper.ext4";
/// Its disk's size: two blocks with data.
pub const SIZE: u64 = 8192;

/// A change to a document.
pub type Change = Box<dyn Fn(&mut Value)>;

/// A bundle of one snapshot, good until something is replaced.
pub struct Craft {
    /// The files: path and contents. The table and the layer's record follow from them.
    pub files: Vec<(String, Vec<u8>)>,
    /// The layer's tar; none: the files, plain.
    pub tar: Option<Vec<u8>>,
    /// The layer's blob; none: the tar as one zstd frame.
    pub layer: Option<Vec<u8>>,
    /// Whether the layer is plain.
    pub plain: bool,
    /// Applied to the config, the manifest, the index.
    pub config: Change,
    pub manifest: Change,
    pub index: Change,
    /// More blobs.
    pub more: Vec<Vec<u8>>,
}

/// The documents and blobs of a bundle.
pub struct Made {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub index: Vec<u8>,
    pub blobs: BTreeMap<String, Vec<u8>>,
}

/// The contents of the victim's disk.
pub fn disk() -> Vec<u8> {
    random(SIZE as usize, 42)
}

/// The victim's descriptor: the file's name and bytes.
pub fn snapshot_descriptor() -> (String, Vec<u8>) {
    let (file, bytes, ..) = descriptor(Generation::Flat, NAME, None, SIZE, 0, Value::Null);
    (file.into(), bytes)
}

/// A row of a file table.
pub fn row(path: &str, bytes: &[u8]) -> Value {
    let temp = tempfile::NamedTempFile::new().unwrap();
    fs::write(temp.path(), bytes).unwrap();
    let view = FileView { file: temp.as_file(), path: temp.path(), size: bytes.len() as u64 };
    let (found, _) = contents(view, None, 1, &Silent).unwrap();
    json!({ "path": path, "executable": false, "size": bytes.len(), "dataBytes": found.data_bytes,
        "root": found.root.to_string() })
}

/// An OCI descriptor of a blob.
pub fn describes(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// One zstd frame.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).unwrap()
}

impl Default for Craft {
    fn default() -> Self {
        let nothing = || Box::new(|_: &mut Value| {}) as Change;
        let mut files = vec![snapshot_descriptor(), (DISK.to_owned(), disk())];
        files.sort();
        Self {
            files,
            tar: None,
            layer: None,
            plain: false,
            config: nothing(),
            manifest: nothing(),
            index: nothing(),
            more: Vec::new(),
        }
    }
}

impl Craft {
    /// With this layer tar.
    pub fn layer_tar(tar: Vec<u8>) -> Self {
        Self { tar: Some(tar), ..Self::default() }
    }

    /// With this change to the config.
    pub fn config(change: impl Fn(&mut Value) + 'static) -> Self {
        Self { config: Box::new(change), ..Self::default() }
    }

    /// With this change to the manifest.
    pub fn manifest(change: impl Fn(&mut Value) + 'static) -> Self {
        Self { manifest: Box::new(change), ..Self::default() }
    }

    /// With this change to the index.
    pub fn index(change: impl Fn(&mut Value) + 'static) -> Self {
        Self { index: Box::new(change), ..Self::default() }
    }

    /// The good layer's entries.
    pub fn entries(&self) -> Vec<Vec<u8>> {
        self.files.iter().map(|(path, bytes)| tar::file(path, bytes)).collect()
    }

    /// Everything, its digests as they should be.
    pub fn make(&self) -> Made {
        let tar = self.tar.clone().unwrap_or_else(|| [self.entries().concat(), tar::END.to_vec()].concat());
        let layer = self.layer.clone().unwrap_or_else(|| if self.plain { tar } else { frame(&tar) });
        let kind = if self.plain { media_type::LAYER_TAR } else { media_type::LAYER_ZSTD };
        let (file, bytes) = snapshot_descriptor();
        let digest = Digest::of(&bytes).to_string();
        let parsed: Value = serde_json::from_slice(&bytes).unwrap();
        let mut config = json!({
            "schemaVersion": 1,
            "snapshot": { "generation": "flat", "digest": digest, "name": NAME, "createdAt": parsed["created_at"],
                "image": { "reference": parsed["image"]["ref"], "manifestDigest": parsed["image"]["manifest_digest"] },
                "format": "raw", "virtualSize": SIZE, "descriptor": file, "disk": DISK },
            "files": self.files.iter().map(|(path, bytes)| row(path, bytes)).collect::<Vec<_>>(),
            "layers": [{ "kind": "base", "digest": Digest::of(&layer).to_string(), "snapshot": digest,
                "files": self.files.iter().map(|(path, _)| json!({ "path": path })).collect::<Vec<_>>() }],
        });
        (self.config)(&mut config);
        let config = config.to_string().into_bytes();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": media_type::ARTIFACT,
            "config": describes(media_type::CONFIG, &config), "layers": [describes(kind, &layer)],
        });
        (self.manifest)(&mut manifest);
        let manifest = manifest.to_string().into_bytes();
        let mut entry = describes(media_type::MANIFEST, &manifest);
        entry["annotations"] = json!({ media_type::REF_NAME: NAME });
        let mut index = json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [entry] });
        (self.index)(&mut index);
        let index = index.to_string().into_bytes();
        let mut blobs = BTreeMap::new();
        for blob in [&layer, &config, &manifest].into_iter().chain(&self.more) {
            blobs.insert(Digest::of(blob).hex(), blob.clone());
        }
        Made { layer, config, manifest, index, blobs }
    }
}

pub const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

impl Made {
    /// As a directory.
    pub fn write_dir(&self, path: &Path) {
        write(path.join("oci-layout"), OCI_LAYOUT);
        write(path.join("index.json"), &self.index);
        for (hex, bytes) in &self.blobs {
            write(path.join("blobs/sha256").join(hex), bytes);
        }
    }

    /// The entries of its tar, `index.json` last.
    pub fn entries(&self) -> Vec<Vec<u8>> {
        let mut all = vec![tar::file("oci-layout", OCI_LAYOUT)];
        all.extend(self.blobs.iter().map(|(hex, bytes)| tar::file(&format!("blobs/sha256/{hex}"), bytes)));
        all.push(tar::file("index.json", &self.index));
        all
    }

    /// As a tar.
    pub fn tar(&self) -> Vec<u8> {
        [self.entries().concat(), tar::END.to_vec()].concat()
    }
}

/// A store that holds something, and beside it what nobody may touch.
pub struct Arena {
    pub temp: TempDir,
    pub store: PathBuf,
}

impl Arena {
    pub fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let store = temp.path().join("store");
        let (file, bytes, ..) = descriptor(Generation::Flat, "other", None, 4096, 5, Value::Null);
        write(store.join("snapshots/other").join(file), &bytes);
        write(store.join("snapshots/other/upper.ext4"), &[7; 4096]);
        write(store.join("cache/layers/kept.erofs"), b"kept");
        write(temp.path().join("outside/canary/secret"), b"sings");
        symlink("secret", temp.path().join("outside/canary/link")).unwrap();
        Self { temp, store }
    }

    pub fn canary(&self) -> PathBuf {
        self.temp.path().join("outside/canary")
    }

    /// A file or folder of the bundle's, outside of what is watched.
    pub fn bundle(&self, name: &str) -> PathBuf {
        self.temp.path().join("bundles").join(name)
    }

    /// Kind, mode, size and contents of everything in store and canary.
    pub fn watched(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.store.clone(), self.temp.path().join("outside")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if is_lock_of_msb(path.file_name().unwrap()) {
                    continue;
                }
                let meta = fs::symlink_metadata(&path).unwrap();
                let contents = if meta.is_dir() {
                    folders.push(path.clone());
                    "folder".into()
                } else if meta.is_symlink() {
                    format!("link to {}", fs::read_link(&path).unwrap().display())
                } else {
                    Digest::of(&fs::read(&path).unwrap()).to_string()
                };
                let of = path.strip_prefix(self.temp.path()).unwrap().display().to_string();
                // The modification time of a folder changes with a stage in it; that of a file never may.
                let time = if meta.is_dir() { 0 } else { meta.mtime_nsec() };
                found.insert(of, format!("{:o} {} {time} {contents}", meta.mode(), meta.nlink()));
            }
        }
        for (key, value) in &mut found {
            if !key.starts_with("outside") && value.contains("folder") {
                *value = "folder".into();
            }
        }
        found
    }

    /// Imports, which must fail with this kind of error and this text, and change nothing.
    #[track_caller]
    pub fn refuses(&self, bundle: &Path, want: &str, text: &str) -> Error {
        self.refuses_with(&import_options(bundle, &self.store), want, text)
    }

    #[track_caller]
    pub fn refuses_with(&self, options: &ImportOptions, want: &str, text: &str) -> Error {
        let before = self.watched();
        let error = import(options).expect_err("the import must fail");
        assert_eq!(kind(&error), want, "{error}");
        assert!(error.to_string().contains(text), "{error}\nlacks {text:?}");
        assert_eq!(self.watched(), before, "something changed: {error}");
        counted("refused");
        error
    }

    /// Imports, which must succeed, and place nothing but the victim.
    #[track_caller]
    pub fn accepts(&self, bundle: &Path) -> PathBuf {
        let before = self.watched();
        import(&import_options(bundle, &self.store)).unwrap();
        let placed = self.store.join("snapshots").join(NAME);
        let mut after = self.watched();
        after.retain(|path, _| !path.starts_with(&format!("store/snapshots/{NAME}")));
        after.retain(|path, _| path != "store/.snapcask.lock");
        assert_eq!(after, before);
        counted("accepted");
        placed
    }
}

/// A case of the hostile corpus, by the test's file.
#[track_caller]
pub fn counted(verdict: &str) {
    let file = std::panic::Location::caller().file();
    let module = Path::new(file).file_stem().unwrap().to_str().unwrap();
    tally::cases(7, format!("{}, {verdict}", module.replace('_', " ")), 1);
}

/// The name of an error's variant.
pub fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "Io",
        Error::Usage(_) => "Usage",
        Error::OfNoImage { .. } => "OfNoImage",
        Error::InvalidDigest { .. } => "InvalidDigest",
        Error::InvalidPath { .. } => "InvalidPath",
        Error::InvalidName { .. } => "InvalidName",
        Error::InvalidDescriptor { .. } => "InvalidDescriptor",
        Error::UnsafePath { .. } => "UnsafePath",
        Error::Different { .. } => "Different",
        Error::CorruptBlob { .. } => "CorruptBlob",
        Error::MissingBlob { .. } => "MissingBlob",
        Error::InvalidBundle { .. } => "InvalidBundle",
        Error::RootMismatch { .. } => "RootMismatch",
        Error::Limit { .. } => "Limit",
        Error::TagNotFound { .. } => "TagNotFound",
        Error::Ambiguous { .. } => "Ambiguous",
        _ => "another",
    }
}

/// A bundle with this layer tar is refused, its layer plain and in a frame, from a directory and from a tar; `verify
/// --deep` finds it too.
#[track_caller]
pub fn layer_refused(tar: Vec<u8>, want: &str, text: &str) {
    for plain in [false, true] {
        let arena = Arena::new();
        let made = Craft { plain, ..Craft::layer_tar(tar.clone()) }.make();
        let bundle = arena.bundle("b.tar");
        write(bundle.clone(), &made.tar());
        arena.refuses(&bundle, want, text);
        let report = verify_bundle(&BundleLocation::path(bundle), true, 1, Arc::new(Silent)).unwrap();
        assert!(report.findings.iter().any(|f| f.message.contains(text)), "{:?}", report.findings);
    }
}

/// An outer tar is refused, read in place and spooled from a zstd frame.
#[track_caller]
pub fn outer_refused(tar: &[u8], want: &str, text: &str) {
    for zstd in [false, true] {
        let arena = Arena::new();
        let bundle = arena.bundle("b");
        write(bundle.clone(), &if zstd { frame(tar) } else { tar.to_vec() });
        arena.refuses(&bundle, want, text);
        assert!(verify_bundle(&BundleLocation::path(bundle), false, 1, Arc::new(Silent)).is_err());
    }
}

/// A bundle is refused as a directory and as a tar.
#[track_caller]
pub fn craft_refused(craft: &Craft, want: &str, text: &str) {
    let made = craft.make();
    let arena = Arena::new();
    let (folder, tar) = (arena.bundle("dir"), arena.bundle("b.tar"));
    made.write_dir(&folder);
    write(tar.clone(), &made.tar());
    arena.refuses(&folder, want, text);
    arena.refuses(&tar, want, text);
}
