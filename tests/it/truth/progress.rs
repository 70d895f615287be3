//! Progress of a pipe starts with its first byte, and no total is below what was done.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use serde_json::Value;
use snapcask::{export::Form, model::Generation};

use super::Talk;
use crate::fixture::Fixture;

#[test]
fn a_pipe_is_told_of_from_its_first_byte() {
    let (fixture, talk) = (Fixture::sized(Generation::V066, 16 << 20), Talk::new());
    for form in [Form::Tar, Form::TarZst] {
        let bundle = fixture.path(&format!("pipe-{}", form.as_str()));
        fixture.export_chain(form, &bundle);
        let bytes = fs::read(bundle).unwrap();
        let mut command = talk.command(&format!("import - --store {} --progress json --no-reindex -q", form.as_str()));
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut pipe, mut said) = (child.stdin.take().unwrap(), BufReader::new(child.stderr.take().unwrap()).lines());
        let mut event = || -> Option<Value> { Some(serde_json::from_str(&said.next()?.unwrap()).unwrap()) };
        let begun = event().unwrap();
        assert_eq!((&begun["event"], &begun["phase"]), (&"begin".into(), &"reading standard input".into()));
        // Slowly: every piece is told, long before there is enough to know what comes.
        pipe.write_all(&bytes[..1]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        pipe.write_all(&bytes[1..2]).unwrap();
        let moved = event().unwrap();
        assert_eq!((&moved["event"], &moved["doneBytes"]), (&"progress".into(), &2.into()));
        let rest = std::thread::spawn(move || pipe.write_all(&bytes[2..]));
        let (mut read, mut phases) = (0, 0);
        while let Some(event) = event() {
            let (done, total) = (event["doneBytes"].as_u64().unwrap(), event["totalBytes"].as_u64());
            assert!(total.is_none_or(|total| done <= total), "{event}");
            if event["phase"] == "reading standard input" {
                read = done;
            }
            phases += u64::from(event["event"] == "begin");
        }
        rest.join().unwrap().unwrap();
        assert!(child.wait().unwrap().success());
        let length = fs::metadata(fixture.path(&format!("pipe-{}", form.as_str()))).unwrap().len();
        assert_eq!(read, length, "every byte of the pipe is told");
        assert!(phases > 3, "only {phases} phases follow");
    }
}
