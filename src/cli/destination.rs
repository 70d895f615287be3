//! The form of a bundle follows its name, unless the command line says it.

use std::path::Path;

use snapcask::{
    Error, Result,
    export::{Destination, Form},
};

const FORMS: &str = "NAME.tar.zst, NAME.tzst, NAME.tar, DIR/ or - (or say it with --format tar.zst|tar|dir)";

/// Where and in which form `output` is written. `asked` is `--format`.
pub fn resolve(output: &str, asked: Option<Form>, plain_tar: bool, to_terminal: bool) -> Result<(Destination, Form)> {
    let fail = |text: String| Err(Error::Usage(text));
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
    let path = Path::new(output);
    let empty_folder = path.is_dir() && path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    let by_name = if output.ends_with('/') || empty_folder {
        Some(Form::Dir)
    } else if output.ends_with(".tar.zst") || output.ends_with(".tzst") {
        Some(Form::TarZst)
    } else if output.ends_with(".tar") {
        Some(Form::Tar)
    } else {
        None
    };
    match (asked, by_name) {
        (Some(Form::Tar), Some(Form::TarZst)) if plain_tar => {
            fail(format!("--plain-tar contradicts the name {output}"))
        }
        (Some(form), _) | (None, Some(form)) => Ok((Destination::Path(path.into()), form)),
        (None, None) => fail(format!("the name {output:?} says no form; it can be {FORMS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(output: &str, asked: Option<Form>, plain: bool) -> Option<Form> {
        resolve(output, asked, plain, false).ok().map(|(_, form)| form)
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
        assert!(resolve("-", None, false, true).is_err());
    }
}
