//! The SHA-256 forms of recorded integrity. Both cost the logical size: zeros are hashed, though holes are not read.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, IoContext, Result};

const PIECE: usize = 1 << 20;

/// Plain SHA-256 of the file's bytes, as lowercase hex.
pub fn sha256_of_file(file: &File, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<String> {
    hash(Sha256::new(), file, path, size, progress)
}

/// `msb-sparse-sha256-v1`: the domain, the length, every logical byte.
pub fn sparse_sha256_of_file(file: &File, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(b"msb-sparse-sha256-v1\0");
    hasher.update(size.to_le_bytes());
    hash(hasher, file, path, size, progress)
}

fn hash(mut hasher: Sha256, file: &File, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<String> {
    use rustix::{
        fs::{SeekFrom, seek},
        io::Errno,
    };
    let zeros = vec![0; PIECE];
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(size),
            Err(Errno::NXIO) => size,
            Err(e) => return Err(Error::io("seek for data in", path, e.into())),
        };
        while at < data {
            let n = (data - at).min(PIECE as u64);
            hasher.update(&zeros[..n as usize]);
            at += n;
            progress(n);
        }
        if at == size {
            break;
        }
        let hole =
            seek(file, SeekFrom::Hole(at)).map_err(|e| Error::io("seek for a hole in", path, e.into()))?.min(size);
        while at < hole {
            let n = (hole - at).min(PIECE as u64) as usize;
            file.read_exact_at(&mut buffer[..n], at).context("read", path)?;
            hasher.update(&buffer[..n]);
            at += n as u64;
            progress(n as u64);
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_hash_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        let mut plain = vec![0u8; 3 << 20];
        plain[1 << 20..][..4].copy_from_slice(b"data");
        let path = Path::new("x");
        let mut seen = 0;
        let got = sha256_of_file(&file, path, 3 << 20, &mut |n| seen += n).unwrap();
        assert_eq!(got, hex::encode(Sha256::digest(&plain)));
        assert_eq!(seen, 3 << 20);
        let mut domain = b"msb-sparse-sha256-v1\0".to_vec();
        domain.extend_from_slice(&(3u64 << 20).to_le_bytes());
        domain.extend_from_slice(&plain);
        let got = sparse_sha256_of_file(&file, path, 3 << 20, &mut |_| {}).unwrap();
        assert_eq!(got, hex::encode(Sha256::digest(&domain)));
    }
}
