//! Tar entries, good and bad, made byte by byte.

use tokio_tar::Header;

/// The end marker.
pub const END: [u8; 1024] = [0; 1024];
/// The size field of a header.
pub const SIZE: std::ops::Range<usize> = 124..136;

/// A header with its data; `change` has the last word before the checksum.
pub fn entry(name: &str, kind: u8, data: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    raw(name.as_bytes(), kind, data, change)
}

/// The same with a name of any bytes.
pub fn raw(name: &[u8], kind: u8, data: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    let name = &name[..name.len().min(100)];
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[156] = kind;
    change(header.as_mut_bytes());
    header.set_cksum();
    pad([header.as_bytes(), data].concat())
}

/// A regular file.
pub fn file(name: &str, data: &[u8]) -> Vec<u8> {
    entry(name, b'0', data, |_| {})
}

/// A pax header with these records, as they are.
pub fn pax(kind: u8, records: &[u8]) -> Vec<u8> {
    entry("PaxHeaders/x", kind, records, |_| {})
}

/// A well-formed pax record.
pub fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    format!("{length}{rest}").into_bytes()
}

/// A GNU long name.
pub fn long_name(name: &[u8]) -> Vec<u8> {
    entry("././@LongLink", b'L', name, |_| {})
}

/// Twelve bytes of base-256.
pub fn base256(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&value.to_be_bytes());
    field
}

/// Eleven octal digits and NUL.
pub fn octal(value: u64) -> [u8; 12] {
    format!("{value:011o}\0").into_bytes().try_into().unwrap()
}

/// A number's field that begins like this, NULs behind it.
pub fn cut(text: &[u8]) -> [u8; 12] {
    let mut field = [0; 12];
    field[..text.len()].copy_from_slice(text);
    field
}

/// An old-GNU sparse entry with this map (fields as they are), this real size and these stored bytes.
pub fn sparse(name: &str, map: &[([u8; 12], [u8; 12])], real: [u8; 12], data: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::new();
    let rest = map.get(4..).unwrap_or_default();
    for (i, chunk) in rest.chunks(21).enumerate() {
        let mut block = [0; 512];
        for (slot, (offset, length)) in block.chunks_exact_mut(24).zip(chunk) {
            slot[..12].copy_from_slice(offset);
            slot[12..].copy_from_slice(length);
        }
        block[504] = u8::from((i + 1) * 21 < rest.len());
        extensions.extend(block);
    }
    let mut out = entry(name, b'S', data, |header| {
        for (slot, (offset, length)) in header[386..482].chunks_exact_mut(24).zip(map) {
            slot[..12].copy_from_slice(offset);
            slot[12..].copy_from_slice(length);
        }
        header[482] = u8::from(!rest.is_empty());
        header[483..495].copy_from_slice(&real);
    });
    out.splice(512..512, extensions);
    out
}

fn pad(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}
