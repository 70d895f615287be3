//! What is said of a verb that there is not: the one that does what is meant.

use clap::{
    CommandFactory,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::args::Cli;

/// Most mistakes in a verb that is still recognised.
const MISTAKES: usize = 2;
/// The verb that takes something away, which is never guessed from a word that takes nothing away.
const REMOVE: &str = "remove";

/// Words for what a verb does: those of other tools, and of everyday speech.
const MEANT: &[(&str, &[&str])] = &[
    ("export", &["archive", "backup", "build", "bundle", "create", "dump", "make", "pack", "save", "tar", "write"]),
    ("import", &["add", "extract", "install", "load", "place", "read", "restore", "unarchive", "unpack", "untar"]),
    ("convert", &["transform", "translate"]),
    ("push", &["publish", "put", "send", "share", "upload"]),
    ("pull", &["download", "fetch", "get"]),
    ("copy", &["clone", "cp", "duplicate"]),
    ("tags", &["tag", "versions"]),
    ("login", &["auth", "authenticate", "signin"]),
    ("logout", &["signout"]),
    ("verify", &["test", "validate"]),
    ("inspect", &["cat", "describe", "details", "history", "info", "show", "stat", "view"]),
    ("list", &["dir", "ll", "ls", "ps", "snapshots", "tree"]),
    (
        "check",
        &["audit", "compare", "diagnose", "diff", "doctor", "fix", "fsck", "heal", "mend", "repair", "scrub", "status"],
    ),
    ("sync", &["migrate", "mirror", "replicate", "rsync", "scp", "transfer"]),
    (
        REMOVE,
        &[
            "del",
            "delete",
            "destroy",
            "discard",
            "drop",
            "erase",
            "prune",
            "purge",
            "rm",
            "rmi",
            "uninstall",
            "unlink",
            "wipe",
        ],
    ),
    ("head", &["checkout", "current", "select", "switch", "use"]),
    ("demo", &["example", "try", "tutorial"]),
    ("completions", &["complete", "completion"]),
];

/// Words for what no verb does, with how it is done.
const OTHERWISE: &[(&str, &str)] = &[
    ("clean", "what dead runs left goes with the next import or removal; 'check' shows it"),
    ("cleanup", "what dead runs left goes with the next import or removal; 'check' shows it"),
    ("gc", "what dead runs left goes with the next import or removal; 'check' shows it"),
    ("mount", "'import' places a snapshot where msb boots it; a bundle cannot be mounted"),
    (
        "move",
        "no verb renames; 'import --name NAME' and 'export --tag NAME' give another name, 'sync' sends to another store",
    ),
    (
        "mv",
        "no verb renames; 'import --name NAME' and 'export --tag NAME' give another name, 'sync' sends to another store",
    ),
    ("rename", "no verb renames; 'import --name NAME' and 'export --tag NAME' give another name"),
    ("run", "snapcask runs nothing; 'import' places a snapshot where msb boots it"),
    ("snapshot", "no word stands before a verb: 'snapcask list', not 'snapcask snapshot list'"),
    ("start", "snapcask runs nothing; 'import' places a snapshot where msb boots it"),
    ("boot", "snapcask runs nothing; 'import' places a snapshot where msb boots it"),
    ("search", "no verb searches a registry; 'tags' lists the tags of a repository, 'list' the snapshots of a store"),
    ("version", "'--version' says it"),
];

/// Says in an error of an unknown verb which one is meant, by its sense and not by its letters alone.
pub fn suggest(error: &mut clap::Error) {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let said = tip(&word.to_lowercase());
    error.remove(ContextKind::SuggestedSubcommand);
    error.remove(ContextKind::Suggested);
    if let Some(said) = said {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![said.into()]));
    }
}

fn tip(word: &str) -> Option<String> {
    if let Some((_, said)) = OTHERWISE.iter().find(|(other, _)| *other == word) {
        return Some((*said).to_owned());
    }
    let meant = MEANT.iter().find(|(_, words)| words.contains(&word)).map(|(verb, _)| *verb);
    let verb = meant.or_else(|| mistyped(word))?;
    let about = Cli::command().find_subcommand(verb)?.get_about()?.to_string();
    Some(format!("'{verb}' is the nearest: {about}"))
}

/// The verb, or the word for one, that is this with a mistake or two.
fn mistyped(word: &str) -> Option<&'static str> {
    let words = MEANT
        .iter()
        .flat_map(|(verb, words)| std::iter::once((*verb, *verb)).chain(words.iter().map(|word| (*word, *verb))));
    let mistakes = |to: &str, verb: &str| {
        let most = match to.chars().count() {
            // Of short words everything is near to everything.
            0..4 => 0,
            4..6 => 1,
            // `remote` takes nothing away: no letter may be another one.
            length if verb == REMOVE && word.chars().count() == length => usize::from(has_letters_of(word, to)),
            _ if verb == REMOVE => 1,
            _ => MISTAKES,
        };
        Some(strsim::damerau_levenshtein(word, to)).filter(|mistakes| *mistakes <= most)
    };
    let near = words.filter_map(|(to, verb)| Some((mistakes(to, verb)?, verb)));
    near.min_by_key(|(mistakes, _)| *mistakes).map(|(_, verb)| verb)
}

/// Whether both have the same letters, in whatever order.
fn has_letters_of(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|word| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    });
    one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(word: &str) -> Option<String> {
        let said = tip(word)?;
        said.split('\'').nth(1).filter(|_| said.contains("is the nearest")).map(str::to_owned)
    }

    #[test]
    fn every_meaning_is_a_verb_and_every_verb_has_one() {
        let command = Cli::command();
        for (verb, words) in MEANT {
            assert!(command.find_subcommand(verb).is_some(), "{verb}");
            assert!(words.is_sorted(), "{verb}");
        }
        for verb in command.get_subcommands() {
            let name = verb.get_name();
            assert!(MEANT.iter().any(|(meant, _)| *meant == name) || name == "delete", "{name}");
        }
    }

    #[test]
    fn a_word_is_answered_by_its_meaning() {
        for (word, meant) in [
            ("delete", "remove"),
            ("rm", "remove"),
            ("ls", "list"),
            ("save", "export"),
            ("pack", "export"),
            ("load", "import"),
            ("unpack", "import"),
            ("validate", "verify"),
            ("show", "inspect"),
            ("upload", "push"),
            ("download", "pull"),
            ("cp", "copy"),
            ("repair", "check"),
            // Mistyped.
            ("improt", "import"),
            ("exprot", "export"),
            ("lst", "list"),
            ("insepct", "inspect"),
            ("remvoe", "remove"),
            ("dowload", "pull"),
        ] {
            assert_eq!(verb(word).as_deref(), Some(meant), "{word}");
        }
        for harmless in
            ["rename", "move", "reove2", "resume", "remote", "memove", "x", "remind", "reset", "restart", "mv"]
        {
            assert_ne!(verb(harmless).as_deref(), Some("remove"), "{harmless}");
        }
        assert!(tip("rename").unwrap().starts_with("no verb renames"));
        assert_eq!(tip("zzzzzz"), None);
    }
}
