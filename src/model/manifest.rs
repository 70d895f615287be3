//! OCI descriptors, manifests and indexes, as far as a bundle uses them. Parsing goes through `oci-spec`;
//! what comes out has been validated.

use std::collections::BTreeMap;

use oci_spec::image as oci;
use serde::{Deserialize, Serialize};

use super::json;
use crate::{
    digest::Digest,
    error::{Error, Result},
    media_type,
};

/// An OCI descriptor: the type, digest and size of a blob, and annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The blob's media type.
    pub media_type: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
    /// `artifactType` of the manifest that it describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Annotations; never trusted for a decision.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of a blob with these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, artifact_type: None, annotations: BTreeMap::new() }
    }

    /// With one more annotation.
    pub fn annotated(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    pub(super) fn from_oci(descriptor: &oci::Descriptor, context: &str) -> Result<Self> {
        let digest = descriptor.digest().to_string().parse()?;
        if descriptor.size() > i64::MAX as u64 {
            return Err(Error::bundle(context, format!("{digest} has an impossible size")));
        }
        Ok(Self {
            media_type: descriptor.media_type().to_string(),
            digest,
            size: descriptor.size(),
            artifact_type: descriptor.artifact_type().as_ref().map(ToString::to_string),
            annotations: descriptor.annotations().clone().unwrap_or_default().into_iter().collect(),
        })
    }
}

/// A snapshot's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    artifact_type: &'static str,
    /// The snapshot config.
    pub config: Descriptor,
    /// The stack, oldest first, then the image cache's files.
    pub layers: Vec<Descriptor>,
    /// The parent's manifest, where it is in the bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// For people.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// From its parts.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>, subject: Option<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::MANIFEST,
            artifact_type: media_type::ARTIFACT,
            config,
            layers,
            subject,
            annotations: BTreeMap::new(),
        }
    }

    /// Canonical bytes: compact JSON with sorted keys.
    pub fn encode(&self) -> Vec<u8> {
        json::canonical(self)
    }

    /// Parses and validates a snapshot's manifest.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`]: not an image manifest, manifest and index at once (CVE-2021-41190), or not a snapshot's.
    pub fn parse(bytes: &[u8], context: &str) -> Result<Self> {
        let value: serde_json::Value = json::parse(bytes, context)?;
        let fail = |reason: String| Err(Error::bundle(context, reason));
        if value.get("manifests").is_some() {
            if value.get("config").is_none() && value.get("layers").is_none() {
                return fail("it is an index of manifests, not the manifest of one snapshot".into());
            }
            return fail("it has both the members of a manifest and `manifests` of an index".into());
        }
        if value.get("mediaType").is_some_and(|m| m != media_type::MANIFEST) {
            return fail(format!("mediaType is {}, not {}", value["mediaType"], media_type::MANIFEST));
        }
        let manifest: oci::ImageManifest =
            serde_json::from_value(value).map_err(|e| Error::bundle(context, e.to_string()))?;
        if manifest.schema_version() != 2 {
            return fail(format!("schemaVersion is {}, not 2", manifest.schema_version()));
        }
        let artifact_type = manifest.artifact_type().as_ref().map(ToString::to_string);
        if artifact_type.as_deref() != Some(media_type::ARTIFACT) {
            let found = artifact_type.unwrap_or_else(|| "absent".into());
            return fail(format!("it is no snapshot: its artifactType is {found}, not {}", media_type::ARTIFACT));
        }
        let config = Descriptor::from_oci(manifest.config(), context)?;
        if config.media_type != media_type::CONFIG {
            return fail(format!("it is no snapshot: its config is {}, not {}", config.media_type, media_type::CONFIG));
        }
        let layers = manifest.layers().iter().map(|d| Descriptor::from_oci(d, context)).collect::<Result<Vec<_>>>()?;
        let subject = manifest.subject().as_ref().map(|d| Descriptor::from_oci(d, context)).transpose()?;
        let mut parsed = Self::new(config, layers, subject);
        parsed.annotations = manifest.annotations().clone().unwrap_or_default().into_iter().collect();
        Ok(parsed)
    }
}

/// `index.json`: the tagged manifests, head first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    schema_version: u32,
    media_type: &'static str,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// Of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: media_type::INDEX, manifests }
    }

    /// Canonical bytes: compact JSON with sorted keys.
    pub fn encode(&self) -> Vec<u8> {
        json::canonical(self)
    }

    /// Parses and validates.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`]: not an index, or index and manifest at once.
    pub fn parse(bytes: &[u8], context: &str) -> Result<Self> {
        let value: serde_json::Value = json::parse(bytes, context)?;
        if let Some(member) = ["layers", "config"].iter().find(|m| value.get(**m).is_some()) {
            return Err(Error::bundle(context, format!("it has both `manifests` and `{member}` of a manifest")));
        }
        let index: oci::ImageIndex =
            serde_json::from_value(value).map_err(|e| Error::bundle(context, e.to_string()))?;
        if index.schema_version() != 2 {
            return Err(Error::bundle(context, format!("schemaVersion is {}, not 2", index.schema_version())));
        }
        let manifests =
            index.manifests().iter().map(|d| Descriptor::from_oci(d, context)).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(manifests))
    }

    /// The entries that can be snapshots, or other artifacts. Tools list indexes too: the referrers of a manifest under the tag
    /// `sha256-HEX`, or a collection of images. They hold nothing that a restore needs. (An `artifactType` decides nothing:
    /// one byte of it would turn a snapshot into something to pass over.)
    pub fn snapshots(&self) -> impl DoubleEndedIterator<Item = &Descriptor> {
        self.manifests.iter().filter(|d| d.media_type != media_type::INDEX)
    }

    /// The tag of an entry, if it has one.
    pub fn tag_of(descriptor: &Descriptor) -> Option<&str> {
        descriptor.annotations.get(media_type::REF_NAME).map(String::as_str)
    }

    /// The tag of each entry.
    pub fn tags(&self) -> Vec<Option<String>> {
        self.manifests.iter().map(|entry| Self::tag_of(entry).map(str::to_owned)).collect()
    }
}

/// The content of the file `oci-layout`.
pub const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
