//! The seek table of the zstd seekable format: a skippable frame at the end, which says where every frame begins.
//! Layers and the outer stream both end with one.

/// The skippable frame that a seek table stands in.
pub const FRAME_MAGIC: u32 = 0x184D_2A5E;
/// The last four bytes of a seek table.
pub const FOOTER_MAGIC: u32 = 0x8F92_EAB1;

/// The seek table for frames of these (compressed, decompressed) sizes.
pub fn encode(frames: &[(u32, u32)]) -> Vec<u8> {
    let body = frames.len() * 8 + 9;
    let mut table = Vec::with_capacity(8 + body);
    table.extend_from_slice(&FRAME_MAGIC.to_le_bytes());
    table.extend_from_slice(&(body as u32).to_le_bytes());
    for (compressed, plain) in frames {
        table.extend_from_slice(&compressed.to_le_bytes());
        table.extend_from_slice(&plain.to_le_bytes());
    }
    table.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    table.push(0);
    table.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
    table
}
