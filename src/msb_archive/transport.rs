//! `msb-archive-member-blake3-v1`: what a member is, its sizes and its sparse map, and its bytes as they are stored.

/// Its name in inventories.
pub(super) const ALGORITHM: &str = "msb-archive-member-blake3-v1";

/// Hashes a member while it passes.
pub(super) struct TransportHasher(blake3::Hasher);

impl TransportHasher {
    /// Of a member that holds `stored` bytes of a file of `size` bytes, by this map.
    pub fn new(kind: &str, path: &str, stored: u64, size: u64, map: &[[u64; 2]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"msb-archive-member-blake3-v1\0");
        for text in [kind, path] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for number in [stored, size, map.len() as u64] {
            hasher.update(&number.to_le_bytes());
        }
        for number in map.iter().flatten() {
            hasher.update(&number.to_le_bytes());
        }
        Self(hasher)
    }

    /// Takes in stored bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash, as inventories spell it.
    pub fn finish(self) -> String {
        format!("blake3:{}", self.0.finalize().to_hex())
    }
}
