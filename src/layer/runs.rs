//! Runs of blocks that are all zero, and of those that are not.

use std::ops::Range;

use super::{BLOCK, analyze::is_zero};

/// What a run of blocks holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Blocks of which each has a byte that is not zero.
    Data,
    /// Zeros only.
    Zeros,
}

/// The maximal runs of `bytes`, which stand at `offset` of their file, in their order. A block that is cut off at either
/// end counts as one.
pub fn runs(bytes: &[u8], offset: u64) -> impl Iterator<Item = (Range<usize>, Held)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        if start == bytes.len() {
            return None;
        }
        let held = held_at(bytes, start, offset);
        at = block_end(start, offset, bytes.len());
        while at < bytes.len() && held_at(bytes, at, offset) == held {
            at = block_end(at, offset, bytes.len());
        }
        Some((start..at, held))
    })
}

fn held_at(bytes: &[u8], at: usize, offset: u64) -> Held {
    if is_zero(&bytes[at..block_end(at, offset, bytes.len())]) { Held::Zeros } else { Held::Data }
}

/// Where the block that holds byte `at` of a piece ends; the piece stands at `offset` of its file and has `length` bytes.
fn block_end(at: usize, offset: u64, length: usize) -> usize {
    (at + (BLOCK - (offset + at as u64) % BLOCK) as usize).min(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_blocks_of_the_file() {
        let block = BLOCK as usize;
        let mut bytes = vec![0; 5 * block];
        bytes[2 * block] = 1;
        bytes[3 * block + 7] = 1;
        let found = |offset| runs(&bytes, offset).collect::<Vec<_>>();
        let whole =
            [(0..2 * block, Held::Zeros), (2 * block..4 * block, Held::Data), (4 * block..5 * block, Held::Zeros)];
        assert_eq!(found(BLOCK), whole);
        // The first block lacks 512 bytes: all that follow end 512 bytes later in the file, and earlier in the piece.
        let cut = [
            (0..2 * block - 512, Held::Zeros),
            (2 * block - 512..4 * block - 512, Held::Data),
            (4 * block - 512..5 * block, Held::Zeros),
        ];
        assert_eq!(found(512), cut);
        assert_eq!(runs(&[], 0).count(), 0);
    }
}
