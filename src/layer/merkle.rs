//! The Merkle root of a file's contents, in one of two domains: the same tree, with other words hashed before each node.
//!
//! Leaves of 64 KiB, the last zero-padded, padded with zero leaves to a power of two. Holes cost nothing: the tops of
//! zero subtrees are computed once. Files are hashed in chunks of [`CHUNK`] bytes, whole subtrees of 64 leaves, so that
//! threads work on chunks in any order and memory holds 32 bytes for a chunk that has data.

use std::sync::LazyLock;

use crate::model::config::Root;

/// Bytes of a leaf.
pub const LEAF: usize = 64 << 10;
/// Bytes of a chunk: the unit of work.
pub const CHUNK: u64 = 4 << 20;
/// A chunk's subtree has 2^6 leaves.
const CHUNK_HEIGHT: u32 = 6;

/// A node of the tree.
pub type Node = [u8; 32];

/// What a root is recorded for. Roots of one domain say nothing in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// `msb-file-merkle-blake3-v1`: file tables and descriptors.
    File,
    /// `microsandbox.checkpoint-file/1`: the disk layers of checkpoints and owned disks.
    Checkpoint,
}

impl Domain {
    fn leaf(self) -> &'static [u8] {
        match self {
            Self::File => b"msb-file-merkle-blake3-v1\0leaf\0",
            Self::Checkpoint => b"microsandbox.checkpoint-file/1\0leaf\0",
        }
    }

    fn parent(self) -> &'static [u8] {
        match self {
            Self::File => b"msb-file-merkle-blake3-v1\0parent\0",
            Self::Checkpoint => b"microsandbox.checkpoint-file/1\0parent\0",
        }
    }

    fn root(self) -> &'static [u8] {
        match self {
            Self::File => b"msb-file-merkle-blake3-v1\0root\0",
            Self::Checkpoint => b"microsandbox.checkpoint-file/1\0root\0",
        }
    }

    /// The top of a zero subtree for every height that a `u64` length can need.
    fn zero(self) -> &'static [Node; 64] {
        static FILE: LazyLock<[Node; 64]> = LazyLock::new(|| zero_tops(Domain::File));
        static CHECKPOINT: LazyLock<[Node; 64]> = LazyLock::new(|| zero_tops(Domain::Checkpoint));
        match self {
            Self::File => &FILE,
            Self::Checkpoint => &CHECKPOINT,
        }
    }
}

fn zero_tops(domain: Domain) -> [Node; 64] {
    let mut all = [[0; 32]; 64];
    all[0] = leaf(domain, &[0; LEAF]);
    for height in 1..64 {
        all[height] = parent(domain, &all[height - 1], &all[height - 1]);
    }
    all
}

/// The node of a leaf: exactly [`LEAF`] bytes, zero-padded by the caller.
pub fn leaf(domain: Domain, bytes: &[u8]) -> Node {
    debug_assert_eq!(bytes.len(), LEAF);
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.leaf());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

fn parent(domain: Domain, left: &Node, right: &Node) -> Node {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.parent());
    hasher.update(left);
    hasher.update(right);
    *hasher.finalize().as_bytes()
}

/// The top of a subtree whose nodes at height `base`, as (position, node), sorted, are these; all others are zero.
fn top(domain: Domain, nodes: &[(u64, Node)], first: u64, base: u32, height: u32) -> Node {
    match nodes {
        [] => domain.zero()[height as usize],
        [(_, node)] if height == base => *node,
        _ => {
            let half = first + (1 << (height - 1 - base));
            let split = nodes.partition_point(|(position, _)| *position < half);
            let (left, right) = nodes.split_at(split);
            let left = top(domain, left, first, base, height - 1);
            parent(domain, &left, &top(domain, right, half, base, height - 1))
        }
    }
}

/// The height of the tree over a file of this size.
fn height(size: u64) -> u32 {
    size.div_ceil(LEAF as u64).max(1).next_power_of_two().trailing_zeros()
}

/// The top of one chunk: `leaves` are (position in the chunk, node) of those that are not all zero.
/// In a file of at most one chunk this is the tree's own top.
pub fn chunk_top(domain: Domain, leaves: &[(u64, Node)], size: u64) -> Node {
    top(domain, leaves, 0, 0, height(size).min(CHUNK_HEIGHT))
}

/// The root of a file of `size` bytes whose chunks with data have these tops, as (chunk, top), sorted.
pub fn root(domain: Domain, tops: &[(u64, Node)], size: u64) -> Root {
    let height = height(size);
    let top = top(domain, tops, 0, height.min(CHUNK_HEIGHT), height);
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.root());
    hasher.update(&size.to_le_bytes());
    hasher.update(&(LEAF as u32).to_le_bytes());
    hasher.update(&height.to_le_bytes());
    hasher.update(&top);
    Root(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word for word, without any shortcut.
    fn slow(domain: Domain, bytes: &[u8]) -> Root {
        let mut level: Vec<Node> = bytes
            .chunks(LEAF)
            .map(|c| {
                let mut full = c.to_vec();
                full.resize(LEAF, 0);
                leaf(domain, &full)
            })
            .collect();
        level.resize(level.len().max(1).next_power_of_two(), leaf(domain, &[0; LEAF]));
        let mut height = 0u32;
        while level.len() > 1 {
            level = level.chunks(2).map(|p| parent(domain, &p[0], &p[1])).collect();
            height += 1;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain.root());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&65_536u32.to_le_bytes());
        hasher.update(&height.to_le_bytes());
        hasher.update(&level[0]);
        Root(*hasher.finalize().as_bytes())
    }

    fn fast(domain: Domain, bytes: &[u8]) -> Root {
        let size = bytes.len() as u64;
        let mut tops = Vec::new();
        for (chunk, data) in bytes.chunks(CHUNK as usize).enumerate() {
            let leaves: Vec<_> = data
                .chunks(LEAF)
                .enumerate()
                .filter(|(_, l)| l.iter().any(|b| *b != 0))
                .map(|(i, l)| {
                    let mut full = l.to_vec();
                    full.resize(LEAF, 0);
                    (i as u64, leaf(domain, &full))
                })
                .collect();
            if !leaves.is_empty() {
                tops.push((chunk as u64, chunk_top(domain, &leaves, size)));
            }
        }
        root(domain, &tops, size)
    }

    #[test]
    fn chunks_give_the_root_of_the_definition() {
        for domain in [Domain::File, Domain::Checkpoint] {
            for size in
                [0, 1, 4096, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF, 64 * LEAF, 64 * LEAF + 1, 130 * LEAF + 5, 300 * LEAF]
            {
                let mut bytes = vec![0u8; size];
                assert_eq!(fast(domain, &bytes), slow(domain, &bytes), "all zero, {size}");
                for at in (0..size).step_by(7 * LEAF + 11) {
                    bytes[at] = (at % 251) as u8 + 1;
                }
                assert_eq!(fast(domain, &bytes), slow(domain, &bytes), "{size}");
            }
        }
    }
}
