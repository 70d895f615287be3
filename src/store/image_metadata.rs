//! An image's metadata as msb caches it: the image's documents, and what msb has read out of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::Path,
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use crate::{
    digest::Digest,
    error::{Error, IoContext, Result},
    model::{TarPath, json::reject_duplicate_keys},
};

/// Largest metadata file that is read: two documents of 4 MiB, each quoted.
pub const MAX_METADATA: u64 = 16 << 20;

/// A cached image's metadata, as far as msb reads it: it is a cache's file, not a contract, and more members are no error.
///
/// Two of them are equal if they mean the same. Their bytes may differ, because msb writes labels, ports and volumes in
/// random order.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    /// The image manifest's digest.
    pub manifest_digest: Digest,
    config_digest: Digest,
    raw_manifest_json: String,
    raw_config_json: String,
    #[serde(default)]
    config: Value,
    layers: Vec<Layer>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Layer {
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    size_bytes: Option<u64>,
    diff_id: Digest,
}

impl Metadata {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A text that says why it is no metadata.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        reject_duplicate_keys(bytes)?;
        let mut metadata: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for unordered in ["exposed_ports", "volumes"] {
            if let Some(Value::Array(names)) = metadata.config.get_mut(unordered) {
                names.sort_by_key(ToString::to_string);
            }
        }
        Ok(metadata)
    }

    /// What stands at `path`: none where there is no file, or one that is no metadata.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn at(path: &Path) -> Result<Option<Self>> {
        Ok(read_file(path, MAX_METADATA)?.and_then(|bytes| Self::parse(&bytes).ok()))
    }

    /// Whether all that it says follows from its documents, and these from its digests.
    pub fn is_whole(&self) -> bool {
        self.problems().is_empty()
    }

    /// Whether one of the two is damaged, though each is whole in itself: both were read out of one config, and say
    /// different things of it. (msb keeps manifests in encodings of its own, so these may differ.)
    pub fn contradicts(&self, other: &Self) -> bool {
        self.config_digest == other.config_digest && (self.layers != other.layers || self.config != other.config)
    }

    /// The files of its layers.
    ///
    /// # Errors
    /// None: a digest in hex is a path.
    pub fn layer_files(&self) -> Result<Vec<TarPath>> {
        self.layers.iter().map(|layer| format!("layers/sha256_{}.erofs", layer.diff_id.hex()).parse()).collect()
    }

    /// What does not fit: documents that do not hash to their digests, and members that say something else than these.
    pub fn problems(&self) -> Vec<String> {
        let manifest = serde_json::from_str::<Manifest>(&self.raw_manifest_json).ok();
        let names_config = manifest.as_ref().is_some_and(|manifest| manifest.config.digest == self.config_digest);
        let mut found = Vec::new();
        let mut hashes = |name: &str, text: &str, digest: Digest| {
            let actual = Digest::of(text.as_bytes());
            if actual != digest {
                found.push(format!("{name} has the digest {actual}, not {digest}; pull the image again"));
            }
        };
        // Of an image that it pulled, msb keeps the manifest in its own encoding: the config's digest in it is what binds.
        if !names_config {
            hashes("raw_manifest_json", &self.raw_manifest_json, self.manifest_digest);
        }
        hashes("raw_config_json", &self.raw_config_json, self.config_digest);
        // What the manifest and the config say, where they say it.
        if let Some(manifest) = manifest {
            let (named, described) = (manifest.config.digest, manifest.layers);
            if !names_config {
                found.push(format!("config_digest is {}, the manifest names {named}", self.config_digest));
            }
            let unlike = |(layer, described): (&Layer, &Described)| !described.is(layer);
            if described.len() == self.layers.len() && self.layers.iter().zip(&described).any(unlike) {
                found.push("its layers are not those of the image's manifest".into());
            }
        }
        if let Ok(config) = serde_json::from_str::<Config>(&self.raw_config_json) {
            let diff_ids = config.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
            if !diff_ids.is_empty() && !self.layers.iter().map(|layer| &layer.diff_id).eq(&diff_ids) {
                found.push("its layers are not those of the image's config".into());
            }
            if let Some(member) = config.config.unwrap_or_default().unlike(&self.config) {
                found.push(format!("its {member} is not that of the image's config"));
            }
        }
        found
    }
}

#[derive(Deserialize)]
struct Pinned {
    digest: Digest,
}

#[derive(Deserialize)]
struct Manifest {
    config: Pinned,
    #[serde(default)]
    layers: Vec<Described>,
}

/// A layer, as a manifest describes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    digest: String,
    media_type: String,
    size: u64,
}

impl Described {
    /// Whether msb has read the same out of it.
    fn is(&self, layer: &Layer) -> bool {
        layer.digest.as_ref().is_none_or(|digest| *digest == self.digest)
            && layer.media_type.as_ref().is_none_or(|media_type| *media_type == self.media_type)
            && layer.size_bytes.is_none_or(|size| size == self.size)
    }
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<Rootfs>,
    config: Option<Defaults>,
}

/// With what an image starts, as its config says it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Defaults {
    env: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

impl Defaults {
    /// The first member of what msb has read out that says something else.
    fn unlike(&self, read: &Value) -> Option<&'static str> {
        let keys = |map: &Option<BTreeMap<String, IgnoredAny>>| {
            map.as_ref().map(|map| map.keys().collect::<BTreeSet<_>>()).map(|keys| serde_json::json!(keys))
        };
        let members = [
            ("env", self.env.as_ref().map(|env| serde_json::json!(env))),
            ("cmd", self.cmd.as_ref().map(|cmd| serde_json::json!(cmd))),
            ("entrypoint", self.entrypoint.as_ref().map(|entrypoint| serde_json::json!(entrypoint))),
            ("working_dir", self.working_dir.as_ref().map(|folder| serde_json::json!(folder))),
            ("user", self.user.as_ref().map(|user| serde_json::json!(user))),
            ("exposed_ports", keys(&self.exposed_ports)),
            ("volumes", keys(&self.volumes)),
            ("labels", self.labels.as_ref().map(|labels| serde_json::json!(labels))),
            ("stop_signal", self.stop_signal.as_ref().map(|signal| serde_json::json!(signal))),
        ];
        let said = |value: &Value| !is_nothing(value);
        let differs = |(name, expected): &(&str, Option<Value>)| {
            // A version of msb that does not read this member says nothing of it.
            let Some(read) = read.get(name) else { return false };
            Some(read).filter(|read| said(read)) != expected.as_ref().filter(|value| said(value))
        };
        members.iter().find(|member| differs(member)).map(|(name, _)| *name)
    }
}

/// A member that is left out and one that is empty are the same.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// The bytes of a regular file; none where there is none, or it is larger than `limit`.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
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
    use serde_json::json;

    use super::*;

    /// Metadata whose members follow from its documents, with its labels in this order.
    fn document(labels: &str, ports: &str, change: impl Fn(&mut Value)) -> String {
        let diff = Digest::of(b"diff");
        let config = json!({
            "config": {
                "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "Labels": {"a": "1", "b": "2"}, "WorkingDir": "",
                "ExposedPorts": {"80/tcp": {}, "81/tcp": {}},
            },
            "rootfs": { "type": "layers", "diff_ids": [diff] },
        })
        .to_string();
        let config_digest = Digest::of(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "config": { "digest": config_digest },
            "layers": [{ "digest": "sha256:0", "mediaType": "tar", "size": 1 }],
        })
        .to_string();
        let mut value = json!({
            "manifest_digest": Digest::of(manifest.as_bytes()),
            "config_digest": config_digest,
            "raw_manifest_json": manifest,
            "raw_config_json": config,
            "config": {
                "env": ["PATH=/bin"], "cmd": ["/bin/sh"], "entrypoint": null, "working_dir": null, "user": null,
                "exposed_ports": "PORTS", "volumes": [], "labels": "LABELS", "stop_signal": null,
            },
            "layers": [{ "digest": "sha256:0", "media_type": "tar", "size_bytes": 1, "diff_id": diff }],
        });
        change(&mut value);
        value.to_string().replace("\"LABELS\"", labels).replace("\"PORTS\"", ports)
    }

    const LABELS: [&str; 2] = [r#"{"a":"1","b":"2"}"#, r#"{"b":"2","a":"1"}"#];
    const PORTS: [&str; 2] = [r#"["80/tcp","81/tcp"]"#, r#"["81/tcp","80/tcp"]"#];

    fn parsed(change: impl Fn(&mut Value)) -> Metadata {
        Metadata::parse(document(LABELS[0], PORTS[0], change).as_bytes()).unwrap()
    }

    #[test]
    fn the_order_of_labels_and_ports_means_nothing() {
        let one = document(LABELS[0], PORTS[0], |_| {});
        let other = document(LABELS[1], PORTS[1], |_| {});
        assert_ne!(one, other);
        let [one, other] = [one, other].map(|text| Metadata::parse(text.as_bytes()).unwrap());
        assert_eq!(one, other);
        assert_eq!(one.problems(), Vec::<String>::new());
        assert_ne!(one, parsed(|v| v["raw_manifest_json"] = format!("{} ", v["raw_manifest_json"]).into()));
        assert_ne!(one, parsed(|v| v["layers"][0]["size_bytes"] = 2.into()));
    }

    #[test]
    fn members_that_do_not_follow_from_the_documents_are_problems() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 10] = [
            (|v| v["layers"][0]["digest"] = json!("sha256:1"), "its layers are not those of the image's manifest"),
            (|v| v["layers"][0]["media_type"] = json!("tar+gzip"), "its layers are not those of the image's manifest"),
            (|v| v["layers"][0]["size_bytes"] = json!(2), "its layers are not those of the image's manifest"),
            (|v| v["config"]["cmd"] = json!(["/bin/evil"]), "its cmd is not that"),
            (|v| v["config"]["env"] = json!(["PATH=/bin", "LD_PRELOAD=/x"]), "its env is not that"),
            (|v| v["config"]["user"] = json!("root"), "its user is not that"),
            (|v| v["config"]["labels"] = json!({"a": "1"}), "its labels is not that"),
            (|v| v["config"]["exposed_ports"] = json!(["80/tcp"]), "its exposed_ports is not that"),
            (
                |v| v["layers"][0]["diff_id"] = json!(Digest::of(b"other")),
                "its layers are not those of the image's config",
            ),
            (|v| v["config_digest"] = json!(Digest::of(b"other")), "raw_config_json has the digest"),
        ];
        for (change, say) in cases {
            let problems = parsed(change).problems();
            assert!(problems.iter().any(|problem| problem.contains(say)), "{say}: {problems:?}");
        }
        // What this version of msb does not write, or writes as empty, is no difference.
        for change in [
            (|v| v["config"]["working_dir"] = json!("")) as Change,
            |v| v["config"] = json!({}),
            |v| v["config"] = Value::Null,
        ] {
            assert_eq!(parsed(change).problems(), Vec::<String>::new());
        }
    }

    /// msb encodes the manifest anew when it pulls: its bytes are not those that the registry's digest is of.
    #[test]
    fn a_manifest_in_another_encoding_is_bound_by_the_config_that_it_names() {
        let pulled = parsed(|v| v["manifest_digest"] = json!(Digest::of(b"as the registry wrote it")));
        assert_eq!(pulled.problems(), Vec::<String>::new());
        let unbound = parsed(|v| v["raw_manifest_json"] = "{}".into());
        assert!(unbound.problems()[0].contains("raw_manifest_json has the digest"), "{:?}", unbound.problems());
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        let text = document(r#"{"a":"1","a":"2"}"#, PORTS[0], |_| {});
        assert!(Metadata::parse(text.as_bytes()).unwrap_err().contains("duplicate key"));
    }
}
