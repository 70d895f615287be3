//! What a deep check knows before it decodes: which files go over which, and what they need of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    bundle::{BundledSnapshot, encoding_of},
    digest::Digest,
    error::Result,
    layer::{
        decode::{EncodedLayer, SparseMaps, sparse_maps},
        streamed::{Later, Needs},
    },
    model::{Descriptor, FileRecord, LayerRecord, TarPath, config::MAX_STACK},
    snapshot::MAX_DESCRIPTOR,
    storage::Source,
    verify::into_error,
};

/// A file of some layer: which one, and its path.
pub type Version = (Digest, TarPath);

/// What files need that go over others.
type Maps = HashMap<Version, Map>;
/// What later deltas need of files, as far as it is known.
type FoundLater = HashMap<Version, Option<Arc<Later>>>;

/// The most data of a delta's file whose map is kept in mind; of a larger one all is kept on disk.
const MAX_MAPPED: u64 = 4 << 40;
/// The most that is read of a layer for its maps, in bytes unpacked: they stand before the data that they tell of.
const MAX_LOOKED_AT: u64 = 256 << 20;
/// The most segments of all maps together: 48 MiB. Files of the others are kept whole.
const MAX_SEGMENTS: usize = 1 << 20;
/// The most deltas over one file, directly or not: all of them are asked for each leaf. Of a chain these are 63.
const MAX_DELTAS: usize = 256;
/// The most of those of all files together: 8 MiB.
const MAX_ALL_DELTAS: usize = 1 << 20;
/// What a file table says of a file.
#[derive(Clone, Copy)]
pub struct Declared {
    pub size: u64,
    /// The most of all tables: over another stack a delta can make another file.
    pub data_bytes: u64,
}

/// What is kept in mind of the map of a file that goes over another one.
struct Map {
    size: u64,
    /// Bytes in its segments.
    data: u64,
    needs: Arc<Needs>,
}

/// What is known before anything is decoded.
pub struct Plan {
    /// What the tables declare.
    pub declared: HashMap<Version, Declared>,
    /// How many files of other layers go over a file.
    pub uses: HashMap<Version, usize>,
    /// What those need of it, all of them; none where that is not known.
    pub later: FoundLater,
}

impl Plan {
    /// Of these snapshots.
    pub fn of(source: &dyn Source, snapshots: &[BundledSnapshot]) -> Self {
        let (consumers, declared) = (consumers(snapshots), declared(snapshots));
        let maps = maps(source, snapshots);
        let mut search =
            Search { maps, declared: &declared, consumers: &consumers, found: HashMap::new(), room: MAX_ALL_DELTAS };
        for version in consumers.keys() {
            search.later(version, 0);
        }
        let mut later = search.found;
        let mut uses: HashMap<Version, usize> =
            consumers.iter().map(|(version, users)| (version.clone(), users.len())).collect();
        for lineage in snapshots.iter().map(descriptor_lineage) {
            // The bytes are read before what goes over them may change them in place.
            if let Some(version) = lineage.first() {
                *uses.entry(version.clone()).or_default() += 1;
            }
            later.extend(lineage.into_iter().map(|version| (version, None)));
        }
        Self { declared, uses, later }
    }
}

/// The snapshot's descriptor, and all that it goes over: they are small, and kept whole.
fn descriptor_lineage(snapshot: &BundledSnapshot) -> Vec<Version> {
    let mut path = &snapshot.config.snapshot.descriptor;
    let mut lineage = Vec::new();
    if snapshot.config.files.iter().any(|row| row.path == *path && row.size > MAX_DESCRIPTOR) {
        return lineage;
    }
    for layer in snapshot.config.layers[..snapshot.config.stack_len()].iter().rev() {
        let Some(file) = layer.stack_files().iter().find(|file| file.path == *path) else { continue };
        lineage.push((layer.digest(), path.clone()));
        let Some(base) = &file.base else { break };
        path = base;
    }
    lineage
}

/// For every file the files of other layers that go over it.
fn consumers(snapshots: &[BundledSnapshot]) -> HashMap<Version, HashSet<Version>> {
    let mut consumers: HashMap<Version, HashSet<Version>> = HashMap::new();
    for snapshot in snapshots {
        let mut latest: HashMap<&TarPath, Digest> = HashMap::new();
        for layer in &snapshot.config.layers[..snapshot.config.stack_len()] {
            for file in layer.stack_files() {
                if let Some(base) = &file.base
                    && let Some(below) = latest.get(base)
                {
                    let user = (layer.digest(), file.path.clone());
                    consumers.entry((*below, base.clone())).or_default().insert(user);
                }
            }
            latest.extend(layer.stack_files().iter().map(|file| (&file.path, layer.digest())));
        }
    }
    consumers
}

/// What the tables tell of files of the layers that are on top.
fn declared(snapshots: &[BundledSnapshot]) -> HashMap<Version, Declared> {
    let mut all: HashMap<Version, Declared> = HashMap::new();
    for snapshot in snapshots {
        let Some(top) = snapshot.config.layers[..snapshot.config.stack_len()].last() else { continue };
        let rows: HashMap<&TarPath, &FileRecord> = snapshot.config.files.iter().map(|row| (&row.path, row)).collect();
        for row in top.stack_files().iter().filter_map(|file| rows.get(&file.path)) {
            let version = (top.digest(), row.path.clone());
            let data_bytes = all.get(&version).map_or(0, |known| known.data_bytes).max(row.data_bytes);
            all.insert(version, Declared { size: row.size, data_bytes });
        }
    }
    all
}

/// What the files need that go over others. A layer that cannot be looked at has none: decoding tells why.
fn maps(source: &dyn Source, snapshots: &[BundledSnapshot]) -> Maps {
    let mut maps = HashMap::new();
    let mut seen = HashSet::new();
    let mut room = MAX_SEGMENTS;
    for snapshot in snapshots {
        let stack = snapshot.manifest.layers.iter().zip(&snapshot.config.layers).take(snapshot.config.stack_len());
        for (descriptor, record) in stack.filter(|(descriptor, _)| seen.insert(descriptor.digest)) {
            let over: HashSet<TarPath> =
                record.stack_files().iter().filter(|f| f.base.is_some()).map(|f| f.path.clone()).collect();
            if over.is_empty() {
                continue;
            }
            for (path, (size, segments)) in look(source, descriptor, record, &over).unwrap_or_default() {
                if segments.len() <= room {
                    room -= segments.len();
                    let data = segments.iter().fold(0u64, |sum, s| sum.saturating_add(s.end - s.start));
                    let needs = Arc::new(Needs::of(&segments, size));
                    maps.insert((descriptor.digest, path), Map { size, data, needs });
                }
            }
        }
    }
    maps
}

fn look(
    source: &dyn Source,
    descriptor: &Descriptor,
    record: &LayerRecord,
    wanted: &HashSet<TarPath>,
) -> Result<SparseMaps> {
    let (encoding, blob) = (encoding_of(descriptor, record)?, source.fetch(descriptor)?);
    let corrupt = |e: std::io::Error| into_error(e, descriptor.digest);
    let context = format!("layer {}", descriptor.digest);
    sparse_maps(EncodedLayer { blob, encoding, context: &context, most: MAX_LOOKED_AT }, wanted, &corrupt)
}

/// The search for what later deltas need.
struct Search<'a> {
    maps: Maps,
    declared: &'a HashMap<Version, Declared>,
    consumers: &'a HashMap<Version, HashSet<Version>>,
    found: FoundLater,
    /// How many deltas may still be kept in mind.
    room: usize,
}

impl Search<'_> {
    /// What all that goes over `version`, directly or not, needs of it; none where that is not known.
    fn later(&mut self, version: &Version, depth: usize) -> Option<Arc<Later>> {
        if let Some(later) = self.found.get(version) {
            return later.clone();
        }
        // Stacks that contradict each other can name layers in circles, and make more of them than any one stack has.
        self.found.insert(version.clone(), None);
        let later = if depth < MAX_STACK { self.needs(version, depth).map(Arc::new) } else { None };
        self.found.insert(version.clone(), later.clone());
        later
    }

    fn needs(&mut self, version: &Version, depth: usize) -> Option<Later> {
        let size = self.declared.get(version)?.size;
        let mut deltas = Vec::new();
        let consumers = self.consumers;
        for user in consumers.get(version).into_iter().flatten() {
            let map = self.maps.get(user)?;
            if map.size != size || map.data > MAX_MAPPED {
                return None;
            }
            deltas.push(map.needs.clone());
            if consumers.contains_key(user) {
                deltas.extend_from_slice(self.later(user, depth + 1)?.deltas());
            }
            if deltas.len() > MAX_DELTAS {
                return None;
            }
        }
        self.room = self.room.checked_sub(deltas.len())?;
        Some(Later::new(deltas))
    }
}
