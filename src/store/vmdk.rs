//! The VMDK of an image: text that names the EROFS files by absolute path. It travels with those paths reduced to
//! `fsmeta/...` and `layers/...`, and is written with the destination's paths on import; it is never trusted as it came.

use std::path::Path;

use crate::{
    error::{Error, Result},
    model::TarPath,
};

/// Largest VMDK that is read.
pub const MAX_VMDK: usize = 1 << 20;

fn fail<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::ImageCache { image: "its VMDK".into(), reason: reason.into() })
}

/// `fsmeta/<name>` or `layers/<name>`, from the end of a path.
fn reduce_path(path: &str) -> Option<TarPath> {
    let mut parts = path.rsplit('/');
    let (name, folder) = (parts.next()?, parts.next()?);
    matches!(folder, "fsmeta" | "layers").then(|| format!("{folder}/{name}").parse().ok()).flatten()
}

/// Maps the quoted path of every extent line.
fn rewrite(text: &[u8], map: impl Fn(&str) -> Result<String>) -> Result<Vec<u8>> {
    if text.len() > MAX_VMDK {
        return fail(format!("it is over {MAX_VMDK} bytes"));
    }
    let Ok(text) = std::str::from_utf8(text) else { return fail("it is not text") };
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if !is_extent(line) {
            out.push_str(line);
            continue;
        }
        let mut quotes = line.match_indices('"').map(|(at, _)| at);
        let (Some(open), Some(close), None) = (quotes.next(), quotes.next(), quotes.next()) else {
            return fail(format!("the extent {:?} names no file", line.trim_end()));
        };
        out.push_str(&line[..=open]);
        out.push_str(&map(&line[open + 1..close])?);
        out.push_str(&line[close..]);
    }
    Ok(out.into_bytes())
}

fn is_extent(line: &str) -> bool {
    ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.starts_with(access))
}

/// With the paths reduced.
pub fn reduce(text: &[u8]) -> Result<Vec<u8>> {
    rewrite(text, |path| match reduce_path(path) {
        Some(reduced) => Ok(reduced.to_string()),
        None => fail(format!("the extent {path:?} is in neither fsmeta nor layers")),
    })
}

/// With the paths below `cache`; only the reduced form is accepted.
pub fn expand(reduced: &[u8], cache: &Path) -> Result<Vec<u8>> {
    let Some(cache) = cache.to_str().filter(|c| !c.contains(['"', '\n'])) else {
        return fail(format!("the path {} cannot stand in a VMDK", cache.display()));
    };
    rewrite(reduced, |path| match reduce_path(path) {
        Some(plain) if plain.as_str() == path => Ok(format!("{cache}/{plain}")),
        _ => fail(format!("the extent {path:?} is neither fsmeta/<file> nor layers/<file>")),
    })
}

/// The files that it names, relative to the cache.
pub fn extents(text: &[u8]) -> Result<Vec<TarPath>> {
    let mut found = Vec::new();
    let reduced = reduce(text)?;
    for line in String::from_utf8_lossy(&reduced).lines().filter(|l| is_extent(l)) {
        if let Some(path) = line.split('"').nth(1) {
            found.push(path.parse()?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_reduced_and_expanded() {
        let text = b"# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"/a/b/cache/fsmeta/x.erofs\" 0\nRW 16 FLAT \"/a/b/cache/layers/y.erofs\" 0\n";
        let reduced = reduce(text).unwrap();
        assert!(!String::from_utf8_lossy(&reduced).contains("/a/b"));
        assert_eq!(expand(&reduced, Path::new("/a/b/cache")).unwrap(), text);
        assert_eq!(extents(text).unwrap().len(), 2);
        for bad in [
            "RW 8 FLAT \"/etc/passwd\" 0",
            "RW 8 FLAT \"layers/../x\" 0",
            "RW 8 FLAT x 0",
            "RW 8 FLAT \"/abs/layers/x\" 0",
        ] {
            assert!(expand(bad.as_bytes(), Path::new("/c")).is_err(), "{bad}");
        }
    }
}
