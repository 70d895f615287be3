//! Artifacts that are no snapshots: images, signatures, SBOMs. Nothing here knows what they mean; a copy takes along those
//! that refer to a snapshot.

use super::{Descriptor, json};
use crate::{
    error::{Error, Result},
    media_type,
};

/// The manifest of any artifact, as far as copying it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// `artifactType`, or the media type of the config where there is none.
    pub artifact_type: Option<String>,
    /// Config and layers.
    pub blobs: Vec<Descriptor>,
    /// The manifest that it refers to.
    pub subject: Option<Descriptor>,
}

impl Artifact {
    /// Parses an OCI image manifest of any type.
    ///
    /// # Errors
    /// [`Error::InvalidBundle`]: it is none.
    pub fn parse(bytes: &[u8], context: &str) -> Result<Self> {
        let manifest: oci_spec::image::ImageManifest = serde_json::from_value(json::parse(bytes, context)?)
            .map_err(|error| Error::bundle(context, error.to_string()))?;
        let config = Descriptor::from_oci(manifest.config(), context)?;
        let layers = manifest.layers().iter().map(|layer| Descriptor::from_oci(layer, context));
        let own = manifest.artifact_type().as_ref().map(ToString::to_string);
        Ok(Self {
            artifact_type: Some(own.unwrap_or_else(|| config.media_type.clone())),
            subject: manifest.subject().as_ref().map(|subject| Descriptor::from_oci(subject, context)).transpose()?,
            blobs: std::iter::once(Ok(config)).chain(layers).collect::<Result<_>>()?,
        })
    }

    /// Whether a manifest says that it is a snapshot's, by its type or its config's.
    pub fn is_snapshot(bytes: &[u8]) -> bool {
        let Ok(value) = json::parse::<serde_json::Value>(bytes, "a manifest") else { return false };
        let config = value.get("config").and_then(|config| config.get("mediaType"));
        value.get("artifactType").is_some_and(|artifact| artifact == media_type::ARTIFACT)
            || config.is_some_and(|config| config == media_type::CONFIG)
    }

    /// Whether it is a manifest of another artifact. What is no manifest at all is none.
    pub fn is_other(bytes: &[u8]) -> bool {
        !Self::is_snapshot(bytes) && Self::parse(bytes, "a manifest").is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn artifacts_are_told_by_their_types() {
        let digest = crate::Digest::of(b"{}").to_string();
        let blob = |media: &str| json!({ "mediaType": media, "digest": digest, "size": 2 });
        let manifest = |artifact: &str, config: &str| {
            let value = json!({
                "schemaVersion": 2, "mediaType": media_type::MANIFEST, "artifactType": artifact,
                "config": blob(config), "layers": [blob("application/x")], "subject": blob(media_type::MANIFEST),
            });
            value.to_string().into_bytes()
        };
        let empty = "application/vnd.oci.empty.v1+json";
        for snapshot in [manifest(media_type::ARTIFACT, empty), manifest("x/y", media_type::CONFIG)] {
            assert!(Artifact::is_snapshot(&snapshot) && !Artifact::is_other(&snapshot));
        }
        let other = manifest("x/y", empty);
        assert!(!Artifact::is_snapshot(&other) && Artifact::is_other(&other));
        let parsed = Artifact::parse(&other, "x").unwrap();
        assert_eq!((parsed.artifact_type.as_deref(), parsed.blobs.len()), (Some("x/y"), 2));
        assert!(parsed.subject.is_some());
        for none in ["", "{}", "[]", "x", r#"{"schemaVersion":2}"#] {
            assert!(!Artifact::is_other(none.as_bytes()), "{none}");
        }
    }
}
