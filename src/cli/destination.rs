//! The form of a bundle follows its name, unless the command line says it.

use std::{ffi::OsStr, os::fd::AsFd, path::Path};

use rustix::fs::{OFlags, fcntl_getfl, fstat, stat};
use snapcask::{
    Error, Result,
    error::IoContext,
    export::{Destination, Form},
    snapshot::{is_folder, is_regular},
};

/// The forms, as errors list them.
const FORMS: &str = "NAME.tar.zst, NAME.tzst, NAME.tar, DIR/ or - (or say it with --format tar.zst|tar|dir)";

/// Where and in which form `output` is written. `asked` is `--format`.
pub fn resolve(output: &OsStr, asked: Option<Form>, plain_tar: bool, to_terminal: bool) -> Result<(Destination, Form)> {
    let path = Path::new(output);
    let folder = output != "-" && is_vacant_or_layout(path)?;
    if output == "-" && is_closed(std::io::stdout()) {
        return Err(Error::Usage("a bundle is not written to a standard output that is closed".into()));
    }
    decide(output, asked, plain_tar, to_terminal, folder)
}

/// Whether a folder is there that a layout directory may take the place of.
fn is_vacant_or_layout(path: &Path) -> Result<bool> {
    if !is_folder(path)? {
        return Ok(false);
    }
    Ok(is_folder_empty(path)? || is_regular(&path.join("oci-layout"))?)
}

fn is_folder_empty(path: &Path) -> Result<bool> {
    Ok(path.read_dir().context("list", path)?.next().is_none())
}

/// Whether a standard stream was closed when the process began: Rust's runtime then opens `/dev/null` in its place, for
/// reading and writing. A redirection to it is for writing only.
fn is_closed(stream: impl AsFd) -> bool {
    let (Ok(found), Ok(null), Ok(flags)) = (fstat(&stream), stat("/dev/null"), fcntl_getfl(&stream)) else {
        return false;
    };
    let same = (found.st_dev, found.st_ino) == (null.st_dev, null.st_ino);
    same && flags & OFlags::RWMODE == OFlags::RDWR
}

/// The rules, without a look at the disk. `folder`: there is one that a layout directory may take the place of.
fn decide(
    output: &OsStr,
    asked: Option<Form>,
    plain_tar: bool,
    to_terminal: bool,
    folder: bool,
) -> Result<(Destination, Form)> {
    let fail = |text: String| Err(Error::Usage(text));
    let name = output.to_string_lossy();
    let asked = match (asked, plain_tar) {
        (Some(form), true) if form != Form::Tar => {
            return fail(format!("--plain-tar contradicts --format {}", form.as_str()));
        }
        (_, true) => Some(Form::Tar),
        (asked, false) => asked,
    };
    if output.is_empty() {
        return fail(format!("the destination is empty; it can be {FORMS}"));
    }
    if output == "-" {
        if asked == Some(Form::Dir) {
            return fail("a layout directory cannot be written to a pipe; use --format tar or tar.zst".into());
        }
        if to_terminal {
            return fail("a bundle is not written to a terminal; redirect the output or name a file with -o".into());
        }
        return Ok((Destination::Stdout, asked.unwrap_or(Form::TarZst)));
    }
    // A compressed tar has no frames that can be read in place, and the digest of a gzip depends on who wrote it.
    if [".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) {
        return fail(format!("{name:?}: a bundle is read from a .tar.gz, but never written to one; it can be {FORMS}"));
    }
    // The ends of names are ASCII, so a name that is not UTF-8 is judged rightly as well.
    let by_name = if name.ends_with('/') || folder {
        Some(Form::Dir)
    } else if name.ends_with(".tar.zst") || name.ends_with(".tzst") {
        Some(Form::TarZst)
    } else if name.ends_with(".tar") {
        Some(Form::Tar)
    } else {
        None
    };
    match (asked, by_name) {
        (Some(Form::Tar), Some(Form::TarZst)) if plain_tar => {
            fail(format!("--plain-tar contradicts the name {name:?}"))
        }
        (Some(Form::Tar | Form::TarZst), Some(Form::Dir)) => {
            fail(format!("{name:?} is a folder; name a file, or leave the form out to write a layout directory"))
        }
        (Some(form), _) | (None, Some(form)) => Ok((Destination::Path(output.into()), form)),
        (None, None) => fail(format!("the name {name:?} says no form; it can be {FORMS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(output: &str, asked: Option<Form>, plain: bool) -> Option<Form> {
        decide(OsStr::new(output), asked, plain, false, false).ok().map(|(_, form)| form)
    }

    #[test]
    fn forms_follow_names_and_flags() {
        assert_eq!(form("a.tar.zst", None, false), Some(Form::TarZst));
        assert_eq!(form("a.tzst", None, false), Some(Form::TarZst));
        assert_eq!(form("a.tar", None, false), Some(Form::Tar));
        assert_eq!(form("a/", None, false), Some(Form::Dir));
        assert_eq!(form("-", None, false), Some(Form::TarZst));
        assert_eq!(form("-", None, true), Some(Form::Tar));
        assert_eq!(form("-", Some(Form::Dir), false), None);
        assert_eq!(form("a.bin", None, false), None);
        assert_eq!(form("a.bin", None, true), Some(Form::Tar));
        assert_eq!(form("a.bin", Some(Form::Dir), false), Some(Form::Dir));
        assert_eq!(form("a.tar.zst", None, true), None);
        assert_eq!(form("a", Some(Form::Dir), true), None);
        assert_eq!(form("-", Some(Form::TarZst), true), None);
        assert_eq!(form("", None, false), None);
        assert_eq!(form("a/", Some(Form::Tar), false), None);
        assert_eq!(form("a/", Some(Form::Dir), false), Some(Form::Dir));
        assert_eq!(form("tar", None, false), None);
        assert!(decide(OsStr::new("-"), None, false, true, false).is_err());
        assert!(decide(OsStr::new("here"), None, false, false, true).is_ok_and(|(_, form)| form == Form::Dir));
    }

    #[test]
    fn gzip_is_never_written() {
        for (name, asked) in
            [("b.tar.gz", None), ("b.tgz", None), ("b.tar.gz", Some(Form::Tar)), ("b.tgz", Some(Form::Dir))]
        {
            let error =
                decide(OsStr::new(name), asked, false, false, false).map_err(|e| (e.exit_code(), e.to_string()));
            let text =
                format!("{name:?}: a bundle is read from a .tar.gz, but never written to one; it can be {FORMS}");
            assert_eq!(error.err(), Some((2, text)));
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_forms() {
        let error = decide(OsStr::new("b.zip"), None, false, false, false).map_err(|e| (e.exit_code(), e.to_string()));
        let text = "the name \"b.zip\" says no form; it can be NAME.tar.zst, NAME.tzst, NAME.tar, DIR/ or - \
                    (or say it with --format tar.zst|tar|dir)";
        assert_eq!(error.err(), Some((2, text.into())));
    }
}
