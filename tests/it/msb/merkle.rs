//! The Merkle root that `msb` records of a file, written a second time and simply: the product's own cannot test itself.

use std::path::Path;

const LEAF: usize = 64 << 10;

/// What a root is of: the domain that its hashes begin with.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    /// `integrity` of a layer in a descriptor.
    File,
    /// `integrity_root` of a disk in a checkpoint.
    Checkpoint,
}

impl Domain {
    fn hash(self, what: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(match self {
            Self::File => b"msb-file-merkle-blake3-v1\0",
            Self::Checkpoint => b"microsandbox.checkpoint-file/1\0",
        });
        hasher.update(what.as_bytes());
        hasher.update(&[0]);
        for part in parts {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// The root of a file.
    pub fn root(self, path: &Path) -> String {
        let bytes = std::fs::read(path).unwrap();
        let leaves = bytes.len().div_ceil(LEAF).max(1).next_power_of_two();
        let zero = self.hash("leaf", &[&[0; LEAF]]);
        let mut level: Vec<[u8; 32]> = (0..leaves)
            .map(|i| {
                let from = (i * LEAF).min(bytes.len());
                let leaf = &bytes[from..(from + LEAF).min(bytes.len())];
                if leaf.iter().all(|b| *b == 0) {
                    return zero;
                }
                let mut padded = leaf.to_vec();
                padded.resize(LEAF, 0);
                self.hash("leaf", &[&padded])
            })
            .collect();
        while level.len() > 1 {
            level = level.chunks(2).map(|pair| self.hash("parent", &[&pair[0], &pair[1]])).collect();
        }
        let size = (bytes.len() as u64).to_le_bytes();
        let leaf = u32::try_from(LEAF).unwrap().to_le_bytes();
        let height = leaves.ilog2().to_le_bytes();
        let root = self.hash("root", &[&size, &leaf, &height, &level[0]]);
        format!("blake3:{}", hex::encode(root))
    }
}
