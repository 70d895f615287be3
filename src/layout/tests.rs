//! Every form round trip, and what must be refused.

use std::{
    fs,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::*;
use crate::{Digest, model::manifest::OCI_LAYOUT};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Dir,
    Tar,
    Stored,
    Compressed,
}
const FORMS: [Form; 4] = [Form::Dir, Form::Tar, Form::Stored, Form::Compressed];

impl Form {
    fn level(self) -> Option<Option<i32>> {
        match self {
            Self::Stored => Some(None),
            Self::Compressed => Some(Some(3)),
            _ => None,
        }
    }

    fn create(self, path: &Path, force: bool) -> Result<Box<dyn Target>> {
        match self {
            Self::Dir => create_dir(path, force),
            _ => create_tar(path, self.level(), force),
        }
    }
}

/// An empty blob, small ones around the block size, and one of several frames.
fn contents() -> Vec<Vec<u8>> {
    let mut state = 1_u64;
    let mut noise = |n: usize| -> Vec<u8> {
        let step = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..n).map(step).collect()
    };
    vec![vec![], noise(1), noise(511), noise(512), noise(513), noise((9 << 20) + 5), vec![7; 5 << 20]]
}

fn put(target: &mut dyn Target, bytes: &[u8], piece: usize) -> Descriptor {
    let mut blob = target.blob().unwrap();
    for piece in bytes.chunks(piece) {
        blob.write_all(piece).unwrap();
    }
    let descriptor = blob.commit("application/x").unwrap();
    assert_eq!(descriptor, Descriptor::of("application/x", bytes));
    assert!(target.contains(&descriptor).unwrap());
    descriptor
}

fn fill(mut target: Box<dyn Target>) -> Result<()> {
    let mut last = None;
    for (i, bytes) in contents().iter().enumerate() {
        put(&mut *target, bytes, [100, 70_000, 3 << 20][i % 3]);
        // The same again, and one that is given up, leave nothing.
        put(&mut *target, bytes, 1 << 20);
        let mut dropped = target.blob().unwrap();
        dropped.write_all(&vec![9; 6 << 20]).unwrap();
        drop(dropped);
        last = Some(Descriptor::of("application/x", bytes));
    }
    target.finish(&Index::new(last.into_iter().collect())).map(drop)
}

fn check(source: &dyn Source) {
    for bytes in contents() {
        let descriptor = Descriptor::of("application/x", &bytes);
        assert!(source.exists(&descriptor).unwrap());
        // Two at once, interleaved.
        let (mut a, mut b) = (source.fetch(&descriptor).unwrap(), source.fetch(&descriptor).unwrap());
        let mut head = vec![0; bytes.len() / 2];
        a.read_exact(&mut head).unwrap();
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        b.read_to_end(&mut whole).unwrap();
        a.read_to_end(&mut rest).unwrap();
        head.extend(rest);
        assert!(whole == bytes && head == bytes);
        let wrong = Descriptor::new("application/x", descriptor.digest, descriptor.size + 1);
        assert!(!source.exists(&wrong).unwrap());
        assert!(matches!(source.fetch(&wrong), Err(Error::CorruptBlob { .. })));
    }
    let missing = Descriptor::of("application/x", b"missing");
    assert!(!source.exists(&missing).unwrap());
    let error = source.fetch(&missing).err().unwrap();
    assert!(matches!(error, Error::MissingBlob { role, .. } if role == "application/x"));
    assert_eq!(source.index().manifests.len(), 1);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A small bundle of the form.
fn small(folder: &Path, form: Form) -> PathBuf {
    let path = folder.join(format!("{form:?}"));
    let mut target = form.create(&path, true).unwrap();
    let blob = put(&mut *target, b"content", 3);
    target.finish(&Index::new(vec![blob])).unwrap();
    path
}

fn open(path: &Path, spool: &Path) -> Result<Box<dyn Source>> {
    super::open(path, &Scratch::at(spool), MaxWindow::USUAL)
}

fn refused(path: &Path, spool: &Path) -> String {
    let error = open(path, spool).err().expect("opened");
    assert!(matches!(error, Error::InvalidBundle { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn every_form_round_trips() {
    let temp = tempfile::tempdir().unwrap();
    for form in FORMS {
        let path = temp.path().join("new/folder").join(format!("{form:?}"));
        fill(form.create(&path, false).unwrap()).unwrap();
        check(&*open(&path, Path::new("/nonexistent")).unwrap());
        assert!(matches!(form.create(&path, false), Err(Error::AlreadyExists { .. })), "{form:?}");
        let before = (form != Form::Dir).then(|| fs::read(&path).unwrap());
        fill(form.create(&path, true).unwrap()).unwrap();
        assert!(before.is_none_or(|b| b == fs::read(&path).unwrap()), "{form:?}: other bytes");
        check(&*open(&path, temp.path()).unwrap());
    }
    assert_eq!(names(&temp.path().join("new/folder")), ["Compressed", "Dir", "Stored", "Tar"]);
    assert_eq!(names(&temp.path().join("new/folder/Dir/blobs")), ["sha256"]);
}

#[test]
fn a_pipe_gets_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    for form in [Form::Tar, Form::Stored, Form::Compressed] {
        let (piped, path) = (temp.path().join("piped"), temp.path().join("file"));
        let output = fs::File::create(&piped).unwrap();
        fill(Box::new(tar_writer::PipeTarget::create(output, form.level(), temp.path()).unwrap())).unwrap();
        fill(form.create(&path, true).unwrap()).unwrap();
        assert!(fs::read(&piped).unwrap() == fs::read(&path).unwrap(), "{form:?}");
    }
    let error = tar_writer::PipeTarget::create(
        fs::OpenOptions::new().write(true).open("/dev/full").unwrap(),
        None,
        temp.path(),
    )
    .map(|t| Box::new(t) as Box<dyn Target>)
    .and_then(|t| t.finish(&Index::new(vec![])))
    .unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("standard output")), "{error:?}");
}

#[test]
fn other_tools_read_it() {
    let temp = tempfile::tempdir().unwrap();
    for form in [Form::Tar, Form::Stored, Form::Compressed] {
        let path = temp.path().join(format!("{form:?}"));
        fill(form.create(&path, false).unwrap()).unwrap();
        let mut tar = fs::read(&path).unwrap();
        if form != Form::Tar {
            tar = zstd::decode_all(&tar[..]).unwrap();
            if let Ok(status) = Command::new("zstd").args(["-q", "-t"]).arg(&path).status() {
                assert!(status.success());
            }
        }
        let Ok(mut child) = Command::new("tar").arg("t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            continue;
        };
        let mut stdin = child.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || stdin.write_all(&tar));
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap().unwrap();
        assert!(output.status.success());
        let listed: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().map(String::from).collect();
        let blobs = contents().into_iter().map(|b| format!("blobs/sha256/{}", Digest::of(&b).hex()));
        let expected: Vec<_> = ["oci-layout".into()].into_iter().chain(blobs).chain(["index.json".into()]).collect();
        assert_eq!(listed, expected);
    }
}

#[test]
fn dropped_before_finish_it_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    for form in FORMS {
        let mut target = form.create(&temp.path().join("x"), false).unwrap();
        put(&mut *target, b"content", 3);
        assert_eq!(names(temp.path()).len(), 1);
        assert!(names(temp.path())[0].starts_with(".x.snapcask-") && names(temp.path())[0].ends_with(".partial"));
        drop(target);
        assert!(names(temp.path()).is_empty(), "{form:?}");
    }
}

#[test]
fn what_appears_meanwhile_is_not_replaced() {
    let temp = tempfile::tempdir().unwrap();
    for form in FORMS {
        let path = temp.path().join("x");
        let target = form.create(&path, false).unwrap();
        fs::write(&path, b"theirs").unwrap();
        let error = target.finish(&Index::new(vec![])).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        assert_eq!(names(temp.path()), ["x"]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn force_takes_no_foreign_folder_and_an_empty_one_needs_none() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x");
    fs::create_dir(&path).unwrap();
    create_dir(&path, false).unwrap().finish(&Index::new(vec![])).unwrap();
    assert_eq!(names(&path), ["blobs", "index.json", "oci-layout"]);
    fs::remove_file(path.join("oci-layout")).unwrap();
    assert!(matches!(create_dir(&path, true), Err(Error::Usage(_))));
    assert!(create_tar(&path, None, true).is_err());
    assert_eq!(names(temp.path()), ["x"]);
}

#[test]
fn compressed_streams_are_spooled() {
    let temp = tempfile::tempdir().unwrap();
    let tar = temp.path().join("tar");
    fill(Form::Tar.create(&tar, false).unwrap()).unwrap();
    let bytes = fs::read(&tar).unwrap();
    let one_frame = temp.path().join("one-frame");
    fs::write(&one_frame, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
    check(&*open(&one_frame, temp.path()).unwrap());
    // Our own frames, read as a stream: from a pipe.
    let stored = temp.path().join("stored");
    fill(Form::Stored.create(&stored, false).unwrap()).unwrap();
    for (path, compression) in [(&stored, Compression::Zstd(MaxWindow::USUAL)), (&tar, Compression::None)] {
        let (mut file, mut head) = (fs::File::open(path).unwrap(), vec![0; 512]);
        file.read_exact(&mut head).unwrap();
        check(&spool::spool(head, file, compression, "pipe", temp.path(), &Silent).unwrap());
    }
    let gzip = temp.path().join("gzip");
    let status = Command::new("gzip").arg("-1c").arg(&tar).stdout(fs::File::create(&gzip).unwrap()).status();
    if status.is_ok_and(|s| s.success()) {
        check(&*open(&gzip, temp.path()).unwrap());
        let bytes = fs::read(&gzip).unwrap();
        fs::write(&gzip, &bytes[..bytes.len() / 2]).unwrap();
        assert!(refused(&gzip, temp.path()).contains("cut off"));
    }
    // A bomb of zeros is told after a mebibyte of padding, not after it filled the disk.
    let mut bomb = bytes.clone();
    bomb.resize(bytes.len() + (3 << 20), 0);
    fs::write(&one_frame, zstd::encode_all(&bomb[..], 1).unwrap()).unwrap();
    assert!(refused(&one_frame, temp.path()).contains("zeros after the end"));
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x");
    for bytes in [&b"no tar"[..], &[0; 4096]] {
        fs::write(&path, bytes).unwrap();
        assert!(refused(&path, temp.path()).contains(UNRECOGNISED));
    }
    fs::write(&path, b"").unwrap();
    assert!(refused(&path, temp.path()).contains("it is empty; what was to write it may have failed"));
    for form in [Form::Tar, Form::Stored, Form::Compressed] {
        let whole = fs::read(small(temp.path(), form)).unwrap();
        for length in (0..whole.len()).step_by(if form == Form::Tar { 1 } else { 41 }) {
            fs::write(&path, &whole[..length]).unwrap();
            // Without a seek table, frames are read from the beginning: the tar may be whole.
            if let Ok(source) = open(&path, temp.path()) {
                assert!(form != Form::Tar, "{length} of {}", whole.len());
                let blob = source.fetch(&Descriptor::of("", b"content")).unwrap();
                assert_eq!(blob.read_document(100).unwrap(), b"content");
            }
        }
    }
    assert!(matches!(open(&temp.path().join("none"), temp.path()), Err(Error::NotFound { .. })));
    assert!(refused(temp.path(), temp.path()).contains(UNRECOGNISED));
}

#[test]
fn corrupt_frames_and_seek_tables_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = small(temp.path(), Form::Stored);
    let whole = fs::read(&path).unwrap();
    let table = whole.len() - 9 - 8 * 7;
    let mut cases = vec![];
    for (at, message) in
        [(table, "does not add up"), (whole.len() - 9, "does not begin"), (whole.len() - 5, "reserved")]
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        cases.push((bytes, message));
    }
    // A wrong decompressed size.
    let mut bytes = whole.clone();
    bytes[table + 4] ^= 4;
    cases.push((bytes, "frame at offset"));
    for (bytes, message) in cases {
        fs::write(&path, bytes).unwrap();
        let text = refused(&path, temp.path());
        assert!(text.contains(message), "{text}");
    }
    // A byte of the blob: seen when it is read.
    let mut bytes = whole.clone();
    let at = bytes.windows(7).position(|w| w == b"content").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let source = open(&path, temp.path()).unwrap();
    let blob = source.fetch(&Descriptor::of("", b"content")).unwrap();
    assert!(matches!(blob.read_document(100), Err(Error::CorruptBlob { .. })));
}

#[test]
fn nothing_in_a_directory_is_followed() {
    use std::os::unix::fs::symlink;
    let temp = tempfile::tempdir().unwrap();
    let blob = format!("blobs/sha256/{}", Digest::of(b"content").hex());
    for name in ["oci-layout", "index.json", "blobs", "blobs/sha256", &blob] {
        let path = small(temp.path(), Form::Dir);
        fs::rename(path.join(name), temp.path().join("aside")).unwrap();
        symlink(temp.path().join("aside"), path.join(name)).unwrap();
        let descriptor = Descriptor::of("", b"content");
        let error = open(&path, temp.path()).and_then(|s| s.fetch(&descriptor).map(drop)).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{name}: {error}");
        fs::remove_dir_all(&path).unwrap();
        let aside = temp.path().join("aside");
        if aside.is_dir() { fs::remove_dir_all(aside).unwrap() } else { fs::remove_file(aside).unwrap() }
    }
    let path = small(temp.path(), Form::Dir);
    fs::remove_file(path.join(&blob)).unwrap();
    fs::create_dir(path.join(&blob)).unwrap();
    let source = open(&path, temp.path()).unwrap();
    let error = source.fetch(&Descriptor::of("", b"content")).err().unwrap();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    fs::write(path.join("oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(refused(&path, temp.path()).contains("2.0.0"));
}

/// A header and its data.
fn entry(name: &str, kind: u8, data: &[u8], change: impl FnOnce(&mut tokio_tar::Header)) -> Vec<u8> {
    let mut header = tokio_tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[156] = kind;
    header.set_size(data.len() as u64);
    change(&mut header);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn plain(name: &str, data: &[u8]) -> Vec<u8> {
    entry(name, b'0', data, |_| {})
}

const END: [u8; 1024] = [0; 1024];

fn base() -> Vec<u8> {
    [plain("oci-layout", OCI_LAYOUT), plain("index.json", &Index::new(vec![]).encode())].concat()
}

/// What is said of an archive of `base` and `more`, if it is refused.
fn verdict(more: &[u8]) -> Result<(), String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&base()).unwrap();
    file.write_all(more).unwrap();
    file.rewind().unwrap();
    open(file.path(), Path::new("/nonexistent")).map(drop).map_err(|e| e.to_string())
}

#[test]
fn the_grammar_takes_what_tools_write() {
    let blob = format!("./blobs/sha256/{}", Digest::of(b"content").hex());
    let folders = [
        entry("./", b'5', b"", |_| {}),
        entry("./blobs/", b'5', b"", |_| {}),
        entry("blobs/sha256", b'5', b"", |_| {}),
    ];
    verdict(&[folders.concat(), plain(&blob, b"content"), END.to_vec()].concat()).unwrap();
    verdict(&[&END[..], &[0; 7000]].concat()).unwrap();
    let pax = entry("PaxHeaders/x", b'x', b"30 mtime=1234567890.123456789\n", |_| {});
    verdict(&[pax, entry(&blob, 0, b"content", |_| {}), END.to_vec()].concat()).unwrap();
    let binary = entry(&blob, b'0', b"content", |h| {
        h.as_mut_bytes()[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    });
    verdict(&[binary, END.to_vec()].concat()).unwrap();
}

#[test]
fn the_grammar_refuses_the_rest_by_name() {
    let hex = Digest::of(b"content").hex();
    let blob = &format!("blobs/sha256/{hex}");
    let size = |field: [u8; 12]| entry(blob, b'0', b"", |h| h.as_mut_bytes()[124..136].copy_from_slice(&field));
    let pax = |records: &[u8]| [entry("x", b'x', records, |_| {}), plain(blob, b"")].concat();
    let mut bad_sum = plain(blob, b"content");
    bad_sum[148] ^= 1;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (bad_sum, "checksum"),
        ([plain(blob, b"a"), plain(&format!("./{blob}"), b"a")].concat(), "twice"),
        (plain("./index.json", b"{}"), "twice"),
        (plain("other", b""), "does not belong"),
        (plain("blobs/sha256/../../x", b""), ".. component"),
        (plain("/index.json", b""), "absolute"),
        (plain(&blob.to_uppercase(), b""), "does not belong"),
        (plain("blobs/sha256/AB", b""), "does not belong"),
        (plain("index.json\0hidden", b""), "after a NUL"),
        (entry("etc", b'5', b"", |_| {}), "does not belong"),
        (entry("blobs", b'5', b"x", |_| {}), "folder with data"),
        (entry(blob, b'1', b"", |_| {}), "hard link"),
        (entry(blob, b'2', b"", |_| {}), "symbolic link"),
        (entry(blob, b'3', b"", |_| {}), "character device"),
        (entry("././@LongLink", b'L', b"name\0", |_| {}), "long name"),
        (entry(blob, b'S', b"", |_| {}), "sparse"),
        (entry(blob, b'Z', b"", |_| {}), "unknown type"),
        (size([0xff; 12]), "negative"),
        (size([0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "overflows"),
        (size([0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]), "overflows"),
        (size([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), "cut off"),
        (size(*b"-0000000007\0"), "not a number"),
        (pax(b"10 size=1\n"), "size"),
        (pax(b"10 path=x\n"), "path"),
        (pax(b"22 GNU.sparse.major=1\n"), "GNU.sparse.major"),
        (pax(b"11 mtime=1\n"), "the end"),
        (pax(b"99 mtime=1\n"), "malformed"),
        (pax(b"mtime=1\n"), "malformed"),
        (pax(b"1 \n"), "malformed"),
        ([entry("x", b'x', b"11 mtime=1\n", |_| {}), pax(b"")].concat(), "follows a pax header"),
        (entry("x", b'x', &vec![b' '; (1 << 20) + 1], |_| {}), "1 MiB"),
    ];
    for (more, message) in cases {
        let got = verdict(&[more, END.to_vec()].concat());
        if message == "the end" {
            assert_eq!(got, Ok(()));
            continue;
        }
        let text = got.expect_err(message);
        assert!(text.contains(message), "{text} lacks {message:?}");
    }
    for (more, message) in [
        (&[][..], "cut off"),
        (&END[..512], "lone zero block"),
        (&[&END[..512], &plain(blob, b"")].concat(), "lone zero block"),
        (&[&END[..], &plain(blob, b"")].concat(), "after the end"),
        (&[&END[..], b"x"].concat(), "after the end"),
        (&[0; (1 << 20) + 1025], "1 MiB of zeros"),
        (&[entry("x", b'x', b"", |_| {}), END.to_vec()].concat(), "belongs to no entry"),
    ] {
        let text = verdict(more).expect_err(message);
        assert!(text.contains(message), "{text} lacks {message:?}");
    }
}

/// A device that is gone is no file that comes back.
#[test]
fn force_replaces_no_pipe_and_no_device() {
    let temp = tempfile::tempdir().unwrap();
    let (pipe, link) = (temp.path().join("pipe"), temp.path().join("link"));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    for path in [&pipe, &link] {
        for force in [false, true] {
            let error = create_tar(path, None, force).err().unwrap();
            assert!(matches!(error, Error::UnsafePath { .. }), "{error}");
        }
    }
    assert!(link.is_symlink() && !pipe.is_file() && fs::read_dir(temp.path()).unwrap().count() == 2);
}
