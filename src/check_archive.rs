//! `verify` and `inspect` of archives that msb wrote.

use std::{fs, path::Path, time::Instant};

use crate::{
    check_bundle::{BASE_NEEDED, VerifyOptions, code},
    error::{Error, IoContext, Result},
    model::TarPath,
    msb_archive::{self, Input, UnpackOptions, Unpacked},
    report::{ArchiveReport, FileReport, Finding, InspectReport, InspectedSnapshot, VerifyReport},
    store::{image_cache::check_belongs, place::Stage},
};

/// Most entries of an archive that is only looked at.
const MAX_ENTRIES: u64 = 1_000_000;

/// Verifies an archive: every member against the inventory, and the snapshots as an import verifies them, in `scratch`.
///
/// # Errors
/// What keeps it from looking; what is wrong inside is in the findings.
pub(crate) fn verify_archive(
    archives: Vec<Input>,
    bases: Vec<Input>,
    options: &VerifyOptions,
    scratch: &Path,
    started: Instant,
) -> Result<VerifyReport> {
    let unpacking = UnpackOptions {
        folder: scratch,
        max_bytes: Stage::free_bytes(scratch)?,
        max_files: MAX_ENTRIES,
        jobs: options.jobs,
        writeback: None,
        progress: options.progress.as_ref(),
    };
    let names: Vec<&str> = archives.iter().map(|archive| archive.name.as_str()).collect();
    let mut report = VerifyReport {
        source: names.join(", "),
        deep: true,
        decoded: false,
        snapshots: 0,
        blobs: 0,
        blob_bytes: 0,
        left_out: Vec::new(),
        findings: Vec::new(),
        seconds: 0.0,
    };
    let count = archives.len();
    let mut unpacked = Vec::new();
    for (number, archive) in archives.into_iter().chain(bases).enumerate() {
        let folder = scratch.join(format!("archive-{number}"));
        fs::create_dir(&folder).context("create", &folder)?;
        let name = archive.name.clone();
        let checked = msb_archive::check(archive, &UnpackOptions { folder: &folder, ..unpacking.clone() });
        match checked.map_err(|error| error.on_disk(scratch)) {
            Err(error) => report.findings.push(found(&name, error)?),
            Ok(checked) => {
                if number < count {
                    report.blobs += checked.files;
                    report.blob_bytes += checked.bytes;
                    report.snapshots += checked.snapshots;
                }
                let finding = |(subject, error): (String, Error)| Finding {
                    code: "member-invalid",
                    subject,
                    message: error.to_string(),
                };
                report.findings.extend(checked.problems.into_iter().map(finding));
                unpacked.extend(checked.unpacked);
            }
        }
    }
    if report.findings.is_empty() {
        let bases = unpacked.split_off(count);
        match snapshots(unpacked, &bases, &unpacking, options) {
            Ok(findings) => {
                report.decoded = findings.is_empty();
                report.findings = findings;
            }
            Err(error) => report.findings.push(found(&report.source, error)?),
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What an error says of an archive. A disk that is full says nothing.
fn found(subject: &str, error: Error) -> Result<Finding> {
    match error {
        error @ (Error::Io { .. } | Error::Limit { .. } | Error::NoRoom { .. }) => Err(error),
        error => Ok(Finding { code: code(&error), subject: subject.into(), message: error.to_string() }),
    }
}

/// What is wrong with the snapshots, as an import verifies them. An archive that needs others, which are not named, is not
/// looked into.
fn snapshots(
    mut archives: Vec<Unpacked>,
    bases: &[Unpacked],
    unpacking: &UnpackOptions,
    options: &VerifyOptions,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if archives.iter().any(Unpacked::is_dependent) {
        if bases.is_empty() {
            let message = "it is left out; name an archive that has it with --base";
            let finding = |subject| Finding { code: BASE_NEEDED, subject, message: message.into() };
            return Ok(archives.iter().flat_map(Unpacked::left_out).map(finding).collect());
        }
        msb_archive::complete(&mut archives, bases, &[], unpacking)?;
    }
    for archive in archives {
        let staged = archive.stage(unpacking)?;
        for snapshot in &staged.snapshots {
            findings.extend(snapshot.damages(options.jobs, options.progress.as_ref())?.into_iter().map(|damage| {
                let subject = format!("{}/{}", snapshot.config.snapshot.name, damage.path);
                Finding { code: damage.kind.code(), subject, message: damage.reason }
            }));
        }
        if findings.is_empty() {
            staged.verify(false, options.jobs, &options.progress)?;
        }
        for snapshot in &staged.snapshots {
            let Some(image) = &snapshot.config.snapshot.image else { continue };
            let read = |path: &TarPath| {
                let path = snapshot.cache_folder.join(path);
                fs::read(&path).context("read", &path)
            };
            check_belongs(image, snapshot.cache.iter().map(|file| &file.path), read)?;
        }
    }
    Ok(findings)
}

/// Describes an archive.
///
/// # Errors
/// The first thing in it that is invalid.
pub(crate) fn inspect_archive(archive: Input) -> Result<InspectReport> {
    let looked = msb_archive::look(archive, MAX_ENTRIES)?;
    let snapshots = looked.snapshots.into_iter().map(|snapshot| {
        let record = snapshot.record;
        InspectedSnapshot {
            tag: None,
            digest: record.digest,
            id: record.id,
            name: record.name.to_string(),
            parent: record.parent,
            image: record.image,
            generation: record.generation,
            format: record.format,
            created_at: record.created_at,
            manifest: None,
            files: snapshot
                .files
                .into_iter()
                .map(|file| FileReport {
                    path: file.path.to_string(),
                    size: file.size,
                    data_bytes: file.stored,
                    executable: file.executable,
                })
                .collect(),
            layers: Vec::new(),
        }
    });
    Ok(InspectReport {
        source: looked.name,
        snapshots: snapshots.collect(),
        blob_bytes: None,
        archive: Some(ArchiveReport {
            form: looked.form.as_str(),
            files: looked.files,
            bytes: looked.bytes,
            complete: looked.left_out.is_empty(),
            left_out: looked.left_out,
            cache_files: looked.cache.iter().map(ToString::to_string).collect(),
        }),
    })
}
