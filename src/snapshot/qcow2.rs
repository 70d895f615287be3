//! Headers of qcow2 files (the format's specification: QEMU, docs/interop/qcow2.rst), as far as they tell whether a layer
//! goes over the layer that its snapshot puts beneath it, and over nothing else.

/// Largest cluster, in bytes: the header, with its extensions and the backing file's name, is in the first one.
pub const MAX_CLUSTER: u64 = 2 << 20;
/// Longest name of a backing file, in bytes.
const MAX_BACKING: usize = 1023;
/// Bytes of a header of version 2.
const V2_LENGTH: usize = 72;
/// Fewest bytes of a header of version 3.
const V3_LENGTH: usize = 104;
/// The incompatible feature "external data file".
const EXTERNAL_DATA: u64 = 1 << 2;
/// The extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// The extension that names an external data file.
const DATA_FILE: u32 = 0x4441_5441;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the disk that the guest sees.
    pub virtual_size: u64,
    /// What the file goes over.
    pub backing: Option<Backing>,
}

/// What a qcow2 file goes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The file's name as the header has it.
    pub name: String,
    /// Its format, where the header says it.
    pub format: Option<String>,
}

impl Header {
    /// Parses the first cluster of a file, or its first [`MAX_CLUSTER`] bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.get(..4) != Some(b"QFI\xfb") {
            return Err("it does not begin as a qcow2 file".into());
        }
        let version = u32_at(bytes, 4)?;
        let (fixed, length) = match version {
            2 => (V2_LENGTH, V2_LENGTH),
            3 => (V3_LENGTH, u32_at(bytes, 100)? as usize),
            other => return Err(format!("its qcow2 version is {other}, and only 2 and 3 are known")),
        };
        let bits = u32_at(bytes, 20)?;
        if !(9..=21).contains(&bits) {
            return Err(format!("its clusters have 2^{bits} bytes, not 2^9 to 2^21"));
        }
        let cluster = bytes.get(..1 << bits).ok_or("it ends in its first cluster")?;
        if length < fixed || length > cluster.len() {
            return Err(format!("its header has {length} bytes, not {fixed} to {}", cluster.len()));
        }
        if version == 3 {
            let features = u64_at(cluster, 72)?;
            if features & EXTERNAL_DATA != 0 {
                return Err("its data is in another file".into());
            }
            if features != 0 {
                return Err(format!("it needs the unknown or unfinished features {features:#x}"));
            }
        }
        let (offset, size) = (u64_at(cluster, 8)?, u32_at(cluster, 16)? as usize);
        let name = match (offset, size) {
            (0, 0) => None,
            _ => Some(backing_name(cluster, offset, size, length)?),
        };
        // The name comes behind the extensions.
        let extensions = if name.is_some() { &cluster[..offset as usize] } else { cluster };
        let format = backing_format(extensions, length)?;
        let backing = name.map(|name| Backing { name, format });
        Ok(Self { virtual_size: u64_at(cluster, 24)?, backing })
    }
}

fn backing_name(cluster: &[u8], offset: u64, size: usize, header: usize) -> Result<String, String> {
    let wrong = || format!("the name of its backing file, {size} bytes at {offset}, is not behind its header");
    let start = usize::try_from(offset).map_err(|_| wrong())?;
    if size == 0 || size > MAX_BACKING || start < header {
        return Err(wrong());
    }
    let bytes = start.checked_add(size).and_then(|end| cluster.get(start..end)).ok_or_else(wrong)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| "the name of its backing file is not UTF-8".into())
}

/// Walks the header extensions from `at` on; gives the backing file's format.
fn backing_format(bytes: &[u8], mut at: usize) -> Result<Option<String>, String> {
    let mut format = None;
    loop {
        let outside = || "its header extensions have no end".to_owned();
        let kind = u32_at(bytes, at).map_err(|_| outside())?;
        let size = u32_at(bytes, at + 4).map_err(|_| outside())? as usize;
        at += 8;
        let data = at.checked_add(size).and_then(|end| bytes.get(at..end));
        match kind {
            0 => return Ok(format),
            DATA_FILE => return Err("its data is in another file".into()),
            BACKING_FORMAT => {
                let text = String::from_utf8_lossy(data.ok_or_else(outside)?).into_owned();
                if format.as_ref().is_some_and(|known| *known != text) {
                    return Err("it names two formats of its backing file".into());
                }
                format = Some(text);
            }
            _ => {
                data.ok_or_else(outside)?;
            }
        }
        at += size.next_multiple_of(8);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map(|four| u32::from_be_bytes(*four)).ok_or_else(|| "it ends in its header".into())
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map(|eight| u64::from_be_bytes(*eight)).ok_or_else(|| "it ends in its header".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first cluster as QEMU writes it: extensions, then the backing file's name.
    fn cluster(version: u32, backing: Option<(&str, &str)>) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, b"QFI\xfb");
        put(4, &version.to_be_bytes());
        put(20, &16u32.to_be_bytes());
        put(24, &(64u64 << 20).to_be_bytes());
        let mut at = if version == 3 { 112 } else { 72 };
        if version == 3 {
            put(100, &112u32.to_be_bytes());
        }
        if let Some((name, format)) = backing {
            put(at, &BACKING_FORMAT.to_be_bytes());
            put(at + 4, &(format.len() as u32).to_be_bytes());
            put(at + 8, format.as_bytes());
            at += 8 + format.len().next_multiple_of(8) + 8;
            put(8, &(at as u64).to_be_bytes());
            put(16, &(name.len() as u32).to_be_bytes());
            put(at, name.as_bytes());
        }
        bytes
    }

    #[test]
    fn header_gives_size_and_backing() {
        for version in [2, 3] {
            let backing = Some(Backing { name: "a.raw".into(), format: Some("raw".into()) });
            let header = Header { virtual_size: 64 << 20, backing };
            assert_eq!(Header::parse(&cluster(version, Some(("a.raw", "raw")))), Ok(header));
            let alone = Header { virtual_size: 64 << 20, backing: None };
            assert_eq!(Header::parse(&cluster(version, None)), Ok(alone));
        }
    }

    #[test]
    fn damaged_headers_are_refused_with_the_reason() {
        let good = cluster(3, Some(("a.raw", "raw")));
        let cases: &[(usize, &[u8], &str)] = &[
            (0, b"X", "does not begin"),
            (7, &[4], "version is 4"),
            (23, &[8], "2^8"),
            (23, &[22], "2^22"),
            (79, &[4], "another file"),
            (79, &[1], "features 0x1"),
            (100, &[0xff], "its header has"),
            (103, &[8], "its header has 8 bytes"),
            (8, &[0xff; 8], "backing file"),
            (14, &[0xff, 0xff], "backing file"),
            (15, &[0], "backing file"),
            (16, &[0, 0, 0, 0], "backing file"),
            (16, &[0, 0, 4, 0], "backing file"),
            (112, &DATA_FILE.to_be_bytes(), "another file"),
            (116, &[0xff; 4], "extensions"),
            (128, &[1], "extensions"),
            (136, &[0xff], "not UTF-8"),
        ];
        for (at, bytes, text) in cases {
            let mut bad = good.clone();
            bad[*at..at + bytes.len()].copy_from_slice(bytes);
            let error = Header::parse(&bad).unwrap_err();
            assert!(error.contains(text), "{at}: {error}");
        }
        for length in [0, 3, 4, 71, 103, 4096, good.len() - 1] {
            assert!(Header::parse(&good[..length]).is_err(), "{length}");
        }
    }
}
