//! The frame around the state of a shared folder's device (virtio-fs), as msb 0.7 decodes it before it takes a checkpoint.
//! Numbers are little-endian.

/// Bytes of a file that hold its frame: at most 256 queues and a name of 4 KiB.
pub const MAX_FRAME: u64 = 16 << 10;
const MAGIC: &[u8] = b"MSBKVIO\0\0";
const SCHEMA: u64 = 2;
const TRANSPORT_VERSION: u64 = 1;
const QUEUE_VERSION: u64 = 1;
const MAX_NAME: u64 = 4096;
const MAX_QUEUES: u64 = 256;
/// The virtio type of shared folders.
const VIRTIO_FS: u64 = 26;
/// Most bytes of other devices' own state, and of the whole.
const MAX_OTHER: u64 = 64 << 10;
const MAX_OTHER_FILE: u64 = 1 << 20;

/// Whether a file of `size` bytes that begins with these (all, or [`MAX_FRAME`]) is one frame.
///
/// # Errors
/// What is wrong with it.
pub fn check(beginning: &[u8], size: u64) -> Result<(), String> {
    let mut reader = Reader { bytes: beginning, at: 0 };
    if reader.take(MAGIC.len())? != MAGIC || reader.number(2)? != SCHEMA {
        return Err("it does not begin as the state of a device".into());
    }
    // The pause.
    reader.number(8)?;
    let name = reader.length(MAX_NAME)?;
    if std::str::from_utf8(reader.take(name)?).is_err() {
        return Err("its device's name is not UTF-8".into());
    }
    if reader.number(2)? != TRANSPORT_VERSION {
        return Err("its transport is of an unknown version".into());
    }
    let device = reader.number(4)?;
    // Six registers, the interrupt's status, its line where there is one, features.
    reader.take(6 * 4 + 8)?;
    if reader.flag()? {
        reader.take(4)?;
    }
    reader.take(8)?;
    for _ in 0..reader.length(MAX_QUEUES)? {
        if reader.number(2)? != QUEUE_VERSION {
            return Err("a queue is of an unknown version".into());
        }
        reader.take(4)?;
        reader.flag()?;
        reader.take(3 * 8 + 2 * 2)?;
        reader.flag()?;
        reader.take(2)?;
    }
    let own = reader.number(4)?;
    let left = size.saturating_sub(reader.at as u64);
    if own != left {
        return Err(format!("{own} bytes of state should follow its frame, {left} do"));
    }
    if device != VIRTIO_FS && (own > MAX_OTHER || size > MAX_OTHER_FILE) {
        return Err(format!("{own} bytes of state are too many for a device of the type {device}"));
    }
    Ok(())
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let found = self.bytes.get(self.at..self.at + length).ok_or("it ends in its frame")?;
        self.at += length;
        Ok(found)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, most: u64) -> Result<usize, String> {
        match self.number(4)? {
            length if length <= most => Ok(length as usize),
            length => Err(format!("a length is {length}, over the limit of {most}")),
        }
    }

    fn flag(&mut self) -> Result<bool, String> {
        match self.number(1)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("a flag is {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state with one queue and `own` bytes.
    fn state(device: u32, own: usize) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(7u64.to_le_bytes());
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(b"fs");
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(device.to_le_bytes());
        bytes.extend([0; 6 * 4 + 8]);
        bytes.extend([1, 9, 0, 0, 0]);
        bytes.extend([0; 8]);
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        bytes.extend([0; 36]);
        bytes.extend((own as u32).to_le_bytes());
        bytes.extend(vec![7; own]);
        bytes
    }

    #[test]
    fn whole_frames_pass() {
        for (device, own) in [(26, 0), (26, 70_000), (4, 64 << 10)] {
            let bytes = state(device, own);
            let beginning = &bytes[..bytes.len().min(MAX_FRAME as usize)];
            assert_eq!(check(beginning, bytes.len() as u64), Ok(()), "{device} {own}");
        }
    }

    #[test]
    fn damaged_frames_are_refused_with_the_reason() {
        let good = state(26, 100);
        for (at, byte, text) in [
            (0, b'X', "does not begin"),
            (9, 3, "does not begin"),
            (21, 1, "over the limit"),
            (23, 0xff, "not UTF-8"),
            (25, 2, "transport"),
            (63, 2, "a flag is 2"),
            (77, 2, "over the limit"),
            (80, 2, "queue"),
            (118, 99, "99 bytes of state"),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            let error = check(&bad, bad.len() as u64).unwrap_err();
            assert!(error.contains(text), "{at}: {error}");
        }
        for length in 0..good.len() {
            assert!(check(&good[..length], length as u64).is_err(), "{length}");
        }
        let large = state(4, (64 << 10) + 1);
        assert!(check(&large, large.len() as u64).unwrap_err().contains("too many"));
    }
}
