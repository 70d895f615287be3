//! The VMDK of an image: text that names the EROFS files by absolute path. It travels with those paths reduced to
//! `fsmeta/...` and `layers/...`, is written with the destination's paths on import, and is never trusted as it came.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, IoContext, Result},
    model::TarPath,
};

/// Largest VMDK that is read.
pub const MAX_VMDK: usize = 1 << 20;

/// The VMDK with its absolute extent paths reduced to `fsmeta/<file>` and `layers/<file>`.
///
/// # Errors
/// [`Error::ImageCache`]: an extent elsewhere, or anything but the plain text form.
pub fn reduce(bytes: &[u8]) -> Result<Vec<u8>> {
    rewrite(bytes, |path| Ok(absolute(path)?.to_string())).map_err(outgoing)
}

/// The files that a VMDK with absolute paths names, relative to the cache, in its order.
///
/// # Errors
/// As [`reduce`].
pub fn extents(bytes: &[u8]) -> Result<Vec<TarPath>> {
    Ok(extents_named(bytes)?.into_iter().map(|(_, file)| file).collect())
}

/// The same, each with the absolute path.
///
/// # Errors
/// As [`reduce`].
pub fn extents_named(bytes: &[u8]) -> Result<Vec<(PathBuf, TarPath)>> {
    let mut found = Vec::new();
    rewrite(bytes, |path| {
        found.push((path.into(), absolute(path)?));
        Ok(String::new())
    })
    .map_err(outgoing)?;
    Ok(found)
}

/// Rewrites a file in the reduced form with the paths below `cache`.
///
/// # Errors
/// As [`expand`]; [`Error::Io`].
pub fn expand_file(path: &Path, cache: &Path) -> Result<()> {
    let here = std::path::absolute(cache).context("find the absolute path of", cache)?;
    let mut reduced = Vec::new();
    let file = File::open(path).context("open", path)?;
    file.take(MAX_VMDK as u64 + 1).read_to_end(&mut reduced).context("read", path)?;
    fs::write(path, expand(&reduced, &here)?).context("write", path)
}

/// The files that a VMDK in its reduced form names.
///
/// # Errors
/// [`Error::InvalidBundle`]: not exactly the reduced form.
pub fn reduced_extents(reduced: &[u8]) -> Result<Vec<TarPath>> {
    let mut found = Vec::new();
    let collect = |path: &str| {
        found.push(relative(path)?);
        Ok(String::new())
    };
    rewrite(reduced, collect).map_err(|reason| Error::bundle("the image's VMDK", reason))?;
    Ok(found)
}

/// The reduced form with the paths below `destination_cache`, which must be absolute.
///
/// # Errors
/// [`Error::InvalidBundle`]: not exactly the reduced form. [`Error::Usage`]: the folder's path cannot stand in a VMDK.
pub fn expand(reduced: &[u8], destination_cache: &Path) -> Result<Vec<u8>> {
    let cache = destination_cache
        .to_str()
        .filter(|path| path.starts_with('/') && !path.chars().any(|c| c == '"' || c.is_control()))
        .ok_or_else(|| {
            Error::Usage(format!(
                "the image cache {} cannot be named in a VMDK: it must be an absolute path without quotes",
                destination_cache.display()
            ))
        })?
        .trim_end_matches('/');
    rewrite(reduced, |path| Ok(format!("{cache}/{}", relative(path)?)))
        .map_err(|reason| Error::bundle("the image's VMDK", reason))
}

fn outgoing(reason: String) -> Error {
    Error::ImageCache { image: "of a VMDK".into(), reason }
}

/// Of an absolute path, the last two components where they are `fsmeta/<file>` or `layers/<file>`.
fn absolute(path: &str) -> Result<TarPath, String> {
    let mut cuts = path.rmatch_indices('/').map(|(at, _)| at);
    match (path.starts_with('/'), cuts.next(), cuts.next()) {
        (true, Some(_), Some(cut)) => relative(&path[cut + 1..]).ok(),
        _ => None,
    }
    .ok_or_else(|| format!("the extent {path:?} is no absolute path to fsmeta/<file> or layers/<file>"))
}

fn relative(path: &str) -> Result<TarPath, String> {
    path.split_once('/')
        .filter(|(folder, file)| matches!(*folder, "fsmeta" | "layers") && !file.contains('/'))
        .and_then(|_| path.parse().ok())
        .filter(|path: &TarPath| !path.as_str().contains('"'))
        .ok_or_else(|| format!("the extent {path:?} is not fsmeta/<file> or layers/<file>"))
}

/// Maps the path of every extent. Other lines may only be empty, comments, or settings that name no file.
fn rewrite(bytes: &[u8], mut map: impl FnMut(&str) -> Result<String, String>) -> Result<Vec<u8>, String> {
    if bytes.len() > MAX_VMDK {
        return Err(format!("it has {} bytes, over {MAX_VMDK}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let mut out = String::with_capacity(text.len());
    let mut extents = 0;
    for whole in text.split_inclusive('\n') {
        let line = whole.strip_suffix('\n').unwrap_or(whole);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err("it has control characters".into());
        }
        let words = line.trim();
        if words.is_empty() || words.starts_with('#') {
            out.push_str(whole);
        } else if let Some((before, path, after)) = extent(line) {
            out.extend([before, "\"", &map(path)?, "\"", after, &whole[line.len()..]]);
            extents += 1;
        } else if is_setting(words) {
            out.push_str(whole);
        } else {
            let shown: String = line.chars().take(200).collect();
            return Err(format!("the line {shown:?} is neither a flat extent nor a setting without paths"));
        }
    }
    if extents == 0 {
        return Err("it names no extents".into());
    }
    Ok(out.into_bytes())
}

/// `RW 123 FLAT "path" 0`: what stands before the path's quotes, the path, what stands after.
fn extent(line: &str) -> Option<(&str, &str, &str)> {
    let mut parts = line.split('"');
    let (before, path, after) = (parts.next()?, parts.next()?, parts.next()?);
    let words: Vec<&str> = before.split_ascii_whitespace().collect();
    let [access, sectors, "FLAT"] = words[..] else { return None };
    let good = parts.next().is_none()
        && matches!(access, "RW" | "RDONLY")
        && sectors.parse::<u64>().is_ok()
        && (after.trim().is_empty() || after.trim().parse::<u64>().is_ok());
    good.then_some((before, path, after))
}

/// `key = value`, where the value is no path and the key names no other file.
fn is_setting(line: &str) -> bool {
    let Some((key, value)) = line.split_once('=') else { return false };
    let key = key.trim().to_ascii_lowercase();
    !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !matches!(key.as_str(), "parentfilenamehint" | "changetrackpath")
        && !value.contains(['/', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\r\ncreateType=\"twoGbMaxExtentFlat\"\n\n# Extent description\nRW 8 FLAT \"/a b/cache/fsmeta/sha256_x.erofs\" 0\nRW 16 FLAT \"/a b/cache/layers/sha256_y.erofs\" 0\nddb.adapterType = \"ide\"\n";

    #[test]
    fn reduced_and_expanded_it_is_the_same() {
        let reduced = reduce(TEXT.as_bytes()).unwrap();
        let text = String::from_utf8(reduced.clone()).unwrap();
        assert!(text.contains("RW 8 FLAT \"fsmeta/sha256_x.erofs\" 0\n") && !text.contains("/a b"), "{text}");
        assert_eq!(expand(&reduced, Path::new("/a b/cache")).unwrap(), TEXT.as_bytes());
        assert_eq!(expand(&reduced, Path::new("/a b/cache/")).unwrap(), TEXT.as_bytes());
        let names: Vec<_> = extents(TEXT.as_bytes()).unwrap().into_iter().map(String::from).collect();
        assert_eq!(names, ["fsmeta/sha256_x.erofs", "layers/sha256_y.erofs"]);
        for bad in ["cache", "/a\"b", "/a\nb"] {
            assert!(expand(&reduced, Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_plain_names_in_the_two_folders() {
        for bad in [
            "/etc/passwd",
            "/c/layers/..",
            "/c/layers/",
            "/fsmeta",
            "layers/x",
            "/c/layers/a/x",
            "",
            "/c/tmp/x",
            "/c/layers/a\\b",
        ] {
            let text = format!("RW 8 FLAT \"{bad}\" 0\n");
            assert!(matches!(reduce(text.as_bytes()), Err(Error::ImageCache { .. })), "{bad}");
            assert!(extents(text.as_bytes()).is_err(), "{bad}");
        }
        for bad in ["/c/layers/x", "layers/../x", "layers/..", "../layers/x", "layers/a/b", "vmdk/x", "layers/", ""] {
            let text = format!("RW 8 FLAT \"{bad}\" 0\n");
            assert!(matches!(expand(text.as_bytes(), Path::new("/c")), Err(Error::InvalidBundle { .. })), "{bad}");
        }
    }

    #[test]
    fn no_other_line_may_name_a_file() {
        let good = "RW 8 FLAT \"layers/x\" 0\n";
        assert!(expand(good.as_bytes(), Path::new("/c")).is_ok());
        for bad in [
            "parentFileNameHint=\"x.vmdk\"",
            "x=\"/etc/passwd\"",
            "RW 8 FLAT layers/x 0",
            "RW 8 FLAT \"layers/x\" 0 \"/etc/passwd\"",
            "RW 8 SPARSE \"layers/x\"",
            " rw 8 FLAT \"/etc/passwd\" 0",
            "\tRW\t8\tFLAT\t\"/etc/passwd\"\t0",
            "RW x FLAT \"layers/x\" 0",
            "words",
            "a\rRW 8 FLAT \"/etc/passwd\" 0",
            "\0",
        ] {
            assert!(expand(format!("{good}{bad}\n").as_bytes(), Path::new("/c")).is_err(), "{bad:?}");
        }
        assert!(expand(b"", Path::new("/c")).is_err());
        assert!(expand(b"KDMV\xff\xfe", Path::new("/c")).is_err());
        assert!(expand(&good.repeat(60_000).into_bytes(), Path::new("/c")).is_err());
    }
}
