//! The SHA-256 forms of recorded integrity. Both hash every logical byte; holes are hashed as zeros without being read.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use crate::{
    digest::Hasher,
    error::{Error, IoContext, Result},
};

const PIECE: u64 = 1 << 20;

/// Plain SHA-256 of the first `size` bytes of `file`, as 64 hex digits. `path` names the file in errors; `progress`
/// is called with the number of bytes after each piece.
///
/// # Errors
/// [`Error::Io`]; the file's read position is moved.
pub fn sha256_of_file(file: &File, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<String> {
    hash(Hasher::new(), file, path, size, progress)
}

/// `msb-sparse-sha256-v1`: SHA-256 over the name and a zero byte, the size as u64 little-endian, every logical byte.
///
/// # Errors
/// [`Error::Io`]; the file's read position is moved.
pub fn sparse_sha256_of_file(file: &File, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let mut hasher = Hasher::new();
    hasher.update(b"msb-sparse-sha256-v1\0");
    hasher.update(&size.to_le_bytes());
    hash(hasher, file, path, size, progress)
}

fn hash(mut hasher: Hasher, file: &File, path: &Path, size: u64, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let zeros = vec![0; PIECE as usize];
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        let (data, hole) = next_data(file, at, size).map_err(|e| Error::io("find the data of", path, e.into()))?;
        while at < data {
            let n = (data - at).min(PIECE);
            hasher.update(&zeros[..n as usize]);
            at += n;
            progress(n);
        }
        while at < hole {
            let piece = &mut buffer[..(hole - at).min(PIECE) as usize];
            file.read_exact_at(piece, at).context("read", path)?;
            hasher.update(piece);
            at += piece.len() as u64;
            progress(piece.len() as u64);
        }
    }
    Ok(hasher.finish().hex())
}

/// The next run of data at or after `at`, as start and end; `size, size` where there is none.
fn next_data(file: &File, at: u64, size: u64) -> std::result::Result<(u64, u64), Errno> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.clamp(at, size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A filesystem without holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(error) => return Err(error),
    };
    match seek(file, SeekFrom::Hole(data)) {
        Ok(hole) if hole > data => Ok((data, hole.min(size))),
        Ok(_) => Ok((data, size)),
        // The data went away between the two calls: nothing but a hole from here on.
        Err(Errno::NXIO) => Ok((size, size)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn holes_hash_as_zeros() {
        for (size, writes) in [
            (0u64, &[][..]),
            (1, &[]),
            (3 << 20, &[(1u64 << 20, 5usize)]),
            ((5 << 20) + 17, &[(0, 4096), (2 << 20, 1), ((5 << 20) + 16, 1)]),
            (100, &[(0, 100)]),
        ] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            let mut plain = vec![0u8; size as usize];
            for &(at, len) in writes {
                let bytes = vec![7u8; len];
                file.write_all_at(&bytes, at).unwrap();
                plain[at as usize..][..len].copy_from_slice(&bytes);
            }
            let mut seen = 0;
            let got = sha256_of_file(&file, Path::new("x"), size, &mut |n| seen += n).unwrap();
            assert_eq!(got, Digest::of(&plain).hex());
            assert_eq!(seen, size);
            let mut domain = b"msb-sparse-sha256-v1\0".to_vec();
            domain.extend_from_slice(&size.to_le_bytes());
            domain.extend_from_slice(&plain);
            let got = sparse_sha256_of_file(&file, Path::new("x"), size, &mut |_| {}).unwrap();
            assert_eq!(got, Digest::of(&domain).hex());
        }
    }
}
