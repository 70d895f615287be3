//! Disk layers: their sizes, their roots, and what qcow2 layers go over.

use microsandbox_types::snapshot::{FileSnapshotState, SnapshotFormat, disk::DiskGenerationManifest};

use super::{
    super::{
        damage::DamageKind,
        qcow2::{Header, MAX_CLUSTER},
    },
    Look, beginning,
};
use crate::{
    error::Result,
    layer::analyze::{FileView, checkpoint_root},
    model::TarPath,
};

/// The layer that a layer goes over.
struct Beneath {
    name: String,
    format: String,
}

impl Look<'_> {
    /// The layers of a disk, below `root`.
    pub(super) fn generation(&mut self, root: &str, disk: &DiskGenerationManifest) -> Result<()> {
        let mut beneath: Option<Beneath> = None;
        for layer in &disk.layers {
            let name = format!("{}.{}", layer.layer_id, layer.format);
            let path: TarPath = format!("{root}layers/{name}").parse()?;
            let format = layer.format.clone();
            if let Some(file) = self.member(&path, DamageKind::DiskMissing, &format!("the disk {}", disk.volume_id)) {
                if file.size != layer.file_size {
                    let reason = format!("it has {} bytes, the disk says {}", file.size, layer.file_size);
                    self.damage(DamageKind::DiskSize, &path, reason);
                } else if self.has_root(&path, file, layer.integrity_root.as_deref())? {
                    self.header(&path, file, &format, layer.virtual_size, beneath.as_ref())?;
                }
            }
            beneath = Some(Beneath { name, format });
        }
        Ok(())
    }

    /// Whether a layer has the root that its disk records, if it records one.
    fn has_root(&mut self, path: &TarPath, file: FileView, expected: Option<&str>) -> Result<bool> {
        let Some(expected) = expected else { return Ok(true) };
        let actual = match self.roots.get(path) {
            Some(root) => root.clone(),
            None => {
                let root = format!("blake3:{}", checkpoint_root(file, self.jobs, self.progress)?);
                self.roots.entry(path.clone()).or_insert(root).clone()
            }
        };
        if actual != expected {
            self.damage(DamageKind::DiskIntegrity, path, format!("its root is {actual}, the disk says {expected}"));
        }
        Ok(actual == expected)
    }

    /// What the layers of a snapshot of files go over; their sizes and roots are verified elsewhere.
    pub(super) fn stack(&mut self, state: &FileSnapshotState) -> Result<()> {
        let mut beneath: Option<Beneath> = None;
        for layer in &state.layers {
            let format = if layer.format == SnapshotFormat::Raw { "raw" } else { "qcow2" }.to_owned();
            let name = format!("{}.{format}", layer.layer_id);
            let path: TarPath = format!("layers/{name}").parse()?;
            self.named.insert(path.clone());
            // A migrated snapshot's only layer may be elsewhere: whether it is there is known from the payloads.
            if let Some(file) = self.members.get(&path).copied() {
                self.header(&path, file, &format, layer.virtual_size, beneath.as_ref())?;
            }
            beneath = Some(Beneath { name, format });
        }
        Ok(())
    }

    /// The header of a qcow2 layer: the disk's size, and what it goes over.
    fn header(
        &mut self,
        path: &TarPath,
        file: FileView,
        format: &str,
        size: u64,
        beneath: Option<&Beneath>,
    ) -> Result<()> {
        if format != "qcow2" {
            return Ok(());
        }
        if !self.headers.contains_key(path) {
            self.headers.insert(path.clone(), Header::parse(&beginning(file, MAX_CLUSTER)?));
        }
        let header = match self.headers[path].clone() {
            Ok(header) => header,
            Err(reason) => {
                self.damage(DamageKind::Qcow2Header, path, reason);
                return Ok(());
            }
        };
        if header.virtual_size != size {
            let reason = format!("its disk has {} bytes, the layer says {size}", header.virtual_size);
            self.damage(DamageKind::Qcow2Size, path, reason);
        }
        let wrong = match (&header.backing, beneath) {
            (None, None) => None,
            (Some(backing), None) => Some(format!("it goes over {:?}, and the layer over nothing", backing.name)),
            (None, Some(beneath)) => Some(format!("it goes over nothing, and the layer over {}", beneath.name)),
            (Some(backing), Some(beneath)) => {
                let format = backing.format.as_ref().filter(|format| **format != beneath.format);
                if let Some(format) = format {
                    Some(format!("it takes {} for {format:?}, which is {}", beneath.name, beneath.format))
                } else {
                    (!self.is_name_of(&backing.name, path, beneath))
                        .then(|| format!("it goes over {:?}, and the layer over {}", backing.name, beneath.name))
                }
            }
        };
        if let Some(reason) = wrong {
            self.damage(DamageKind::Qcow2Backing, path, reason);
        }
        Ok(())
    }

    /// Whether a header's name can mean the layer beneath. msb writes the layer's own name and reads any name that stays in
    /// the folder, for it hands over the layers itself: only the name of another file that is there means something else.
    fn is_name_of(&self, name: &str, path: &TarPath, beneath: &Beneath) -> bool {
        let confined = !matches!(name, "." | "..") && !name.contains(['/', '\\', '\0', ':']);
        let folder = path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let other = format!("{folder}/{name}").parse::<TarPath>();
        name == beneath.name || (confined && !other.is_ok_and(|other| self.members.contains_key(&other)))
    }
}
