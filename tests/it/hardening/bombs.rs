//! Little that becomes much (row 9): peak memory, time and disk of a whole process, and what a table promises.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;
use snapcask::{Digest, import::ImportOptions, media_type};

use super::{
    craft::{Arena, Craft, DISK, Made, counted, describes, disk, frame, row, snapshot_descriptor},
    tar::*,
};
use crate::{
    fixture::{command, import_options, write},
    tally,
};

const MEMORY: u64 = 128 << 20;
const TIME: Duration = Duration::from_secs(2);

/// What a run of `snapcask import` needed.
struct Cost {
    code: Option<i32>,
    text: String,
    disk: u64,
}

fn allocated(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match fs::symlink_metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => allocated(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Runs the command and watches it: peak resident memory from the kernel's own mark, disk by looking.
fn import(arena: &Arena, bundle: &Path) -> Cost {
    let started = Instant::now();
    let before = allocated(&arena.store);
    let mut child =
        command(["import", bundle.to_str().unwrap(), "--store", arena.store.to_str().unwrap(), "--jobs", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let (mut memory, mut disk) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0);
        memory = memory.max(kib * 1024);
        disk = disk.max(allocated(&arena.store).saturating_sub(before));
        std::thread::sleep(Duration::from_millis(2));
    }
    let time = started.elapsed();
    let output = child.wait_with_output().unwrap();
    // On a busy machine a short run can be over before it is looked at; one that unpacks a bomb is not short.
    assert!(memory > 0 || time < TIME, "its memory was never seen in {time:?}");
    assert!(memory <= MEMORY, "{memory} bytes of memory");
    // An unoptimized build on a busy machine, and a disk that others write to, are slower; the row of the scoreboard runs
    // them alone, optimized.
    let alone = std::env::var_os("SNAPCASK_ALONE").is_some();
    assert!(time <= if alone { TIME } else { TIME * 30 }, "it took {time:?}");
    tally::process(9, "bombs", memory, time);
    Cost { code: output.status.code(), text: String::from_utf8_lossy(&output.stderr).into_owned(), disk }
}

#[track_caller]
fn harmless(made: &Made, code: i32, text: &str, disk: u64) {
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &made.tar());
    let before = arena.watched();
    let cost = import(&arena, &bundle);
    assert_eq!(cost.code, Some(code), "{}", cost.text);
    assert!(cost.text.contains(text), "{}\nlacks {text:?}", cost.text);
    assert!(cost.disk <= disk, "{} bytes of disk", cost.disk);
    if code != 0 {
        assert_eq!(arena.watched(), before);
    }
    counted("refused");
}

/// Frames of zeros: 9 KB become 300 MB.
fn zeros(megabytes: usize) -> Vec<u8> {
    frame(&vec![0; 4 << 20]).repeat(megabytes / 4)
}

/// A layer blob of these frames around one tar entry.
fn layer(before: &[u8], zeros: Vec<u8>, after: &[u8]) -> Vec<u8> {
    [frame(before), zeros, frame(after)].concat()
}

#[test]
fn zeros_after_the_end_marker() {
    let good = [Craft::default().entries().concat(), END.to_vec()].concat();
    let blob = layer(&good, zeros(300), b"");
    assert!(blob.len() < 64 << 10, "{}", blob.len());
    let made = Craft { layer: Some(blob), ..Craft::default() }.make();
    harmless(&made, 3, "zeros after the end marker", 64 << 10);
}

#[test]
fn a_file_that_is_larger_than_the_table_says() {
    let (name, bytes) = snapshot_descriptor();
    let header = entry(DISK, b'0', b"", |h| h[SIZE].copy_from_slice(&octal(300 << 20)));
    let blob = layer(&[file(&name, &bytes), header].concat(), zeros(300), &END);
    let made = Craft { layer: Some(blob), ..Craft::default() }.make();
    harmless(&made, 3, "the file table says 8192", 64 << 10);
}

/// The table says 300 MB, none of it data: zeros take time, but no disk.
#[test]
fn a_file_of_zeros_as_large_as_the_table_says() {
    let (name, bytes) = snapshot_descriptor();
    let header = entry(DISK, b'0', b"", |h| h[SIZE].copy_from_slice(&octal(300 << 20)));
    let blob = layer(&[file(&name, &bytes), header].concat(), zeros(300), &END);
    let mut craft = Craft { layer: Some(blob), ..Craft::default() };
    craft.config = Box::new(|v| {
        let rows = v["files"].as_array_mut().unwrap();
        let row = rows.iter_mut().find(|row| row["path"] == DISK).unwrap();
        row["size"] = json!(300 << 20);
        row["dataBytes"] = json!(0);
    });
    harmless(&craft.make(), 3, "is not what the file table says", 64 << 10);
}

/// More data than the table declares is refused while it arrives, not when the disk is full.
#[test]
fn more_data_than_the_table_declares() {
    let size = 32 << 20;
    let (name, bytes) = snapshot_descriptor();
    let header = entry(DISK, b'0', b"", |h| h[SIZE].copy_from_slice(&octal(size)));
    let ones = frame(&vec![1; 4 << 20]).repeat(8);
    let blob = [frame(&[file(&name, &bytes), header].concat()), ones, frame(&END)].concat();
    let mut craft = Craft { layer: Some(blob), ..Craft::default() };
    craft.config = Box::new(move |v| {
        let rows = v["files"].as_array_mut().unwrap();
        let row = rows.iter_mut().find(|row| row["path"] == DISK).unwrap();
        row["size"] = json!(size);
        row["dataBytes"] = json!(4096);
    });
    harmless(&craft.make(), 1, "over the limit of 4096", 64 << 10);
}

/// A window of 2 GiB is asked for by a frame's header.
#[test]
fn a_window_of_two_gibibytes() {
    for (log, code) in [(31, 1), (28, 1), (27, 3)] {
        let blob = window(log);
        let made = Craft { layer: Some(blob.clone()), ..Craft::default() }.make();
        // What may be decoded is no tar.
        let text = match code {
            1 => format!("is {}, over the limit of {}", 1u64 << log, 128 << 20),
            _ => "invalid bundle".into(),
        };
        harmless(&made, code, &text, 64 << 10);
        // The outer stream, too.
        let arena = Arena::new();
        let bundle = arena.bundle("b.tar.zst");
        write(bundle.clone(), &blob);
        let cost = import(&arena, &bundle);
        assert_eq!(cost.code, Some(code), "{}", cost.text);
        assert!(cost.text.contains(&text), "{}", cost.text);
    }
}

/// A frame that asks for a window of 2^`log` bytes and holds one block of a repeated byte.
fn window(log: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (log - 10) << 3];
    let block: u32 = 1 | 1 << 1 | (100 << 10) << 3;
    frame.extend(&block.to_le_bytes()[..3]);
    frame.push(b'u');
    frame
}

/// A frame in a frame: what is inside is data, and no tar.
#[test]
fn nested_frames() {
    let good = [Craft::default().entries().concat(), END.to_vec()].concat();
    let made = Craft { layer: Some(frame(&frame(&frame(&good)))), ..Craft::default() }.make();
    harmless(&made, 3, "invalid bundle: layer", 64 << 10);
    // The outer stream: unpacked once, what is inside is no tar.
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar.zst");
    write(bundle.clone(), &frame(&frame(&Craft::default().make().tar())));
    arena.refuses(&bundle, "InvalidBundle", "");
}

/// A spool file takes what the outer entries declare, and an entry that is no blob of ours takes none.
#[test]
fn an_outer_stream_of_zeros() {
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar.zst");
    write(bundle.clone(), &[frame(&Craft::default().make().tar()), zeros(300)].concat());
    let cost = import(&arena, &bundle);
    assert_eq!(cost.code, Some(3), "{}", cost.text);
    assert!(cost.text.contains("1 MiB of zeros"), "{}", cost.text);
}

#[test]
fn a_table_that_promises_petabytes() {
    let disk = |v: &mut serde_json::Value, size: u64| {
        let row = v["files"].as_array_mut().unwrap().iter_mut().find(|row| row["path"] == DISK).unwrap();
        row["size"] = json!(size);
        row["dataBytes"] = json!(size);
        row.clone()
    };
    let craft = Craft::config(move |v| drop(disk(v, 1 << 60)));
    harmless(&craft.make(), 1, "the data to restore, in bytes, is 1152921504606847", 0);
    // Sizes that overflow when they are added up.
    let craft = Craft::config(move |v| {
        let row = disk(v, i64::MAX as u64);
        for path in ["x", "y", "z"] {
            let mut row = row.clone();
            row["path"] = json!(path);
            v["files"].as_array_mut().unwrap().push(row);
        }
    });
    harmless(&craft.make(), 1, "the data to restore, in bytes, is 18446744073709551615", 0);
    let craft = Craft::config(|v| v["files"][0]["size"] = json!(u64::MAX));
    harmless(&craft.make(), 3, "an impossible size", 0);
}

#[test]
fn a_table_of_many_files() {
    let craft = Craft::config(|v| {
        let row = v["files"][0].clone();
        let more = (0..20_000).map(|i| {
            let mut row = row.clone();
            row["path"] = json!(format!("f{i:06}"));
            row["size"] = json!(0);
            row["dataBytes"] = json!(0);
            row
        });
        let rows = v["files"].as_array_mut().unwrap();
        rows.extend(more);
        rows.sort_by_key(|row| row["path"].as_str().unwrap().to_owned());
    });
    let arena = Arena::new();
    let bundle = arena.bundle("b.tar");
    write(bundle.clone(), &craft.make().tar());
    let options = ImportOptions { max_files: 10_000, ..import_options(&bundle, &arena.store) };
    let error =
        arena.refuses_with(&options, "Limit", "the number of files in the bundle is 20002, over the limit of 10000");
    assert!(error.to_string().contains("--max-files"), "{error}");
    let options = ImportOptions { max_bytes: Some(100), ..import_options(&bundle, &arena.store) };
    let error = arena.refuses_with(&options, "Limit", "over the limit of 100");
    assert!(error.to_string().contains("--max-bytes"), "{error}");
}

/// A hole of gigabytes in place of a file that is read whole.
#[test]
fn files_that_are_read_whole() {
    let (name, _) = snapshot_descriptor();
    let of = name.clone();
    let hole = sparse(&name, &[(octal(3 << 30), octal(0))], octal(3 << 30), b"");
    let mut craft = Craft::layer_tar([hole, file(DISK, &disk()), END.to_vec()].concat());
    craft.config = Box::new(move |v| {
        let rows = v["files"].as_array_mut().unwrap();
        let row = rows.iter_mut().find(|row| row["path"] == of).unwrap();
        row["size"] = json!(3_u64 << 30);
        row["dataBytes"] = json!(0);
    });
    harmless(&craft.make(), 1, "is 3221225472, over the limit of 1048576", 0);
    for (path, limit) in [("vmdk/x.vmdk", 1_u64 << 20), ("manifests/x.json", 16 << 20)] {
        let blob = frame(&[file(path, b"x"), END.to_vec()].concat());
        let (of, bytes) = (Digest::of(&blob).to_string(), blob.clone());
        let craft = Craft {
            config: Box::new(move |v| {
                let mut row = row(path, b"");
                row["size"] = json!(limit + 1);
                let record = json!({ "kind": "cache", "digest": of, "file": row });
                v["layers"].as_array_mut().unwrap().push(record);
            }),
            manifest: Box::new(move |v| {
                v["layers"].as_array_mut().unwrap().push(describes(media_type::LAYER_ZSTD, &bytes));
            }),
            more: vec![blob],
            ..Craft::default()
        };
        harmless(&craft.make(), 1, &format!("is {}, over the limit of {limit}", limit + 1), 0);
    }
}

/// Entries for folders are ignored, but remembered: a layer of half a MB can hold hundreds of MB of them.
#[test]
fn folders_without_end() {
    let above = ["p".repeat(250), "p".repeat(250), "p".repeat(250), "p".repeat(200)].join("/");
    let mut tar = Vec::new();
    for i in 0..35_000 {
        let name = format!("{above}/{i:09}/\0");
        tar.extend([long_name(name.as_bytes()), entry("x", b'5', b"", |_| {})].concat());
    }
    tar.extend([Craft::default().entries().concat(), END.to_vec()].concat());
    let layer = tar.chunks(4 << 20).map(frame).collect::<Vec<_>>().concat();
    let made = Craft { layer: Some(layer), ..Craft::default() }.make();
    harmless(&made, 1, "over the limit of 33554432", 64 << 10);
}

/// Each path of a table makes folders; with 511 of them in each, a config of 4 MiB cost gigabytes.
#[test]
fn a_table_of_many_folders() {
    let craft = Craft::config(|v| {
        let row = v["files"][0].clone();
        let rows = v["files"].as_array_mut().unwrap();
        rows.extend((0..2_000).map(|i| {
            let mut row = row.clone();
            row["path"] = json!(format!("{i:04}{}", "/a".repeat(510)));
            row
        }));
        rows.sort_by_key(|row| row["path"].as_str().unwrap().to_owned());
    });
    harmless(&craft.make(), 3, "is 510 folders deep, over the limit of 32", 0);
}

/// Frames that hold nothing, or next to it, are charged all the same.
#[test]
fn frames_of_nothing() {
    let tar = [Craft::default().entries().concat(), END.to_vec()].concat();
    let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00];
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0x00, 0x00, 0x00, 0x00];
    let zero = frame(&[0]);
    for nothing in [&empty[..], &skippable, &zero] {
        let blob = [frame(&tar), nothing.repeat(70_000)].concat();
        let made = Craft { layer: Some(blob), ..Craft::default() }.make();
        harmless(&made, 1, "the number of zstd frames of layer", 64 << 10);
        // Some of them are nothing bad.
        let made = Craft { layer: Some([frame(&tar), nothing.repeat(1000)].concat()), ..Craft::default() }.make();
        let arena = Arena::new();
        write(arena.bundle("b.tar"), &made.tar());
        arena.accepts(&arena.bundle("b.tar"));
    }
}

/// Nothing is read of a layer that is larger than what it may unpack to.
#[test]
fn a_layer_larger_than_its_limit() {
    let size = 3_u64 << 30;
    let made = Craft::manifest(move |v| v["layers"][0]["size"] = json!(size)).make();
    let arena = Arena::new();
    let bundle = arena.bundle("dir");
    made.write_dir(&bundle);
    let blob = bundle.join("blobs/sha256").join(Digest::of(&made.layer).hex());
    fs::OpenOptions::new().write(true).open(blob).unwrap().set_len(size).unwrap();
    let options = ImportOptions { max_bytes: Some(1 << 20), ..import_options(&bundle, &arena.store) };
    let error = arena.refuses_with(&options, "Limit", "is 3221225472, over the limit of 1074790400");
    assert!(error.to_string().starts_with("the size of layer sha256:"), "{error}");
}

/// The image cache's files count like all others, those of ancestors too.
#[test]
fn cache_files_count() {
    let fixture = crate::fixture::Fixture::sized(snapcask::model::Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle.tar");
    fixture.export_chain(snapcask::export::Form::Tar, &bundle);
    let rows = |head_only: bool| {
        let arena = Arena::new();
        let options = ImportOptions { max_files: 0, head_only, ..import_options(&bundle, &arena.store) };
        arena.refuses_with(&options, "Limit", "the number of files in the bundle is").to_string()
    };
    let files: usize = fixture.snapshots.iter().map(|made| crate::fixture::tree(&made.directory).len()).sum();
    assert!(rows(false).contains(&format!("is {}, over", files + 5)), "{}", rows(false));
    let head = crate::fixture::tree(&fixture.head().directory).len();
    assert!(rows(true).contains(&format!("is {}, over", head + 5)), "{}", rows(true));
}

/// Documents are bounded before they are read, and so is the chain's sum of them.
#[test]
fn documents_over_their_limit() {
    let made = Craft::default().make();
    let arena = Arena::new();
    let bundle = arena.bundle("dir");
    made.write_dir(&bundle);
    write(bundle.join("index.json"), &vec![b' '; (4 << 20) + 1]);
    arena.refuses(&bundle, "Limit", "over the limit of 4194304");
    made.write_dir(&bundle);
    write(bundle.join("oci-layout"), &vec![b' '; (4 << 20) + 1]);
    arena.refuses(&bundle, "Limit", "over the limit of 4194304");
    // A sparse index of a petabyte costs nothing either.
    made.write_dir(&bundle);
    fs::OpenOptions::new().write(true).open(bundle.join("index.json")).unwrap().set_len(1 << 40).unwrap();
    arena.refuses(&bundle, "Limit", "over the limit of 4194304");
}
