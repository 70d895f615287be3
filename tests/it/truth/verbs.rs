//! An unknown verb is answered by the nearest in meaning.

use super::Talk;

#[test]
fn an_unknown_verb_is_answered_by_the_nearest_in_meaning() {
    let mut talk = Talk::new();
    for word in [
        "ls", "rm", "save", "load", "pack", "unpack", "validate", "show", "upload", "download", "cp", "rename", "mv",
        "gc", "improt", "remvoe", "remote", "nonsense",
    ] {
        let output = talk.run(word);
        assert_eq!(output.status.code(), Some(2), "{word}");
    }
    talk.run("--json rename");
    insta::assert_snapshot!(talk.said);
}
