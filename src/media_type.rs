//! The media types and annotation keys of the bundle format (`docs/format.md`).

/// A base layer or a cache-file layer, compressed: any OCI tool can unpack it.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The same, uncompressed.
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A delta layer, compressed: no other tool may mistake it for a whole.
pub const DELTA_ZSTD: &str = "application/vnd.snapcask.snapshot.delta.v1.tar+zstd";
/// The same, uncompressed.
pub const DELTA_TAR: &str = "application/vnd.snapcask.snapshot.delta.v1.tar";
/// The snapshot config.
pub const CONFIG: &str = "application/vnd.snapcask.snapshot.config.v1+json";
/// An OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The `artifactType` of a snapshot's manifest.
pub const ARTIFACT: &str = "application/vnd.snapcask.snapshot.v1";

/// The tag of an index entry.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The file name that `oras pull` gives a layer.
pub const TITLE: &str = "org.opencontainers.image.title";
/// A snapshot's creation time, RFC 3339.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Repeats the snapshot digest for people.
pub const SNAPSHOT_DIGEST: &str = "dev.snapcask.snapshot.digest";
/// The layers of a manifest that its bundle leaves out, separated by commas. Each is named by the oldest manifest that has it.
pub const LEFT_OUT: &str = "dev.snapcask.layers.left-out";
/// Repeats the parent for people.
pub const SNAPSHOT_PARENT: &str = "dev.snapcask.snapshot.parent";
