//! Sync: a snapshot of a store to another store, in one step.
//!
//! `snapcask` on the other side lists what it has; an export leaves that out and goes through a pipe into an import there,
//! which verifies everything. What the other side says only decides what is sent: a list that is wrong makes its import
//! refuse.

mod remote;

use std::{collections::HashSet, fs::File, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Instant};

use serde::Deserialize;

pub use remote::{Remote, Way};

use crate::{
    destination::{Compression, Destination, Form},
    digest::Digest,
    error::{Error, Result},
    export::{ExportOptions, export_into},
    layout,
    progress::Progress,
    report::{ExportReport, ImportedSnapshot, SyncReport},
    since::{Installed, Since},
    store::Store,
};
use remote::{Input, plain};

/// What to sync, where to, and how.
#[derive(Clone)]
pub struct SyncOptions {
    /// The store's folder.
    pub store: PathBuf,
    /// The head: a name, path, digest (prefix), id, `group:member` or `group`. Its ancestors travel too.
    pub snapshot: String,
    /// Where to.
    pub remote: Remote,
    /// The pinned images' cache files too.
    pub with_image: bool,
    /// The group there.
    pub group: Option<String>,
    /// Replace what is there and different; for this, everything is sent.
    pub force: bool,
    /// Let image tags that have no meaning there get one; with `force`, another one.
    pub trust_image_tags: bool,
    /// Of layers.
    pub compression: Compression,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Told about progress.
    pub progress: Arc<dyn Progress>,
}

/// What `list --json` answers, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    snapshots: Vec<ListedDigest>,
    #[serde(default)]
    cache_files: Vec<String>,
}

#[derive(Deserialize)]
struct ListedDigest {
    digest: Digest,
}

/// What `import --json` answers, as far as it matters.
#[derive(Deserialize)]
struct Imported {
    snapshots: Vec<ImportedSnapshot>,
}

/// Runs a sync. Blocking; the CLI runs it on a blocking thread.
///
/// # Errors
/// Those of an export, and [`Error::Remote`] with what the other side says.
pub fn sync(options: &SyncOptions) -> Result<SyncReport> {
    let started = Instant::now();
    let remote = &options.remote;
    // Nobody need be asked if there is nothing to send.
    Store::at(&options.store).find(&options.snapshot)?;
    let since = match options.force {
        true => Vec::new(),
        false => vec![Since::Installed(installed(options)?)],
    };
    let mut arguments = vec!["import", "-", "--json"];
    if let Some(group) = &options.group {
        arguments.extend(["--group", group]);
    }
    let asked = [(options.force, "--force"), (options.trust_image_tags, "--trust-image-tags")];
    arguments.extend(asked.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, argument)| argument));
    let mut importing = remote.start(&arguments, Input::Pipe)?;
    let sent = match importing.input() {
        Some(input) => send(options, since, File::from(OwnedFd::from(input))),
        None => Err(Error::Usage("the other side has no input".into())),
    };
    let answer = importing.finish();
    let (exported, answer) = match (sent, answer) {
        (Ok(exported), Ok(answer)) => (exported, answer),
        // The pipe broke because the other side had ended: what it said is the reason.
        (Err(Error::Io { source, .. }), Err(error)) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            return Err(error);
        }
        (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
    };
    let imported: Imported = parse(remote, &answer)?;
    let plain_of = |snapshot: ImportedSnapshot| ImportedSnapshot {
        digest: snapshot.digest,
        name: plain(&snapshot.name),
        outcome: snapshot.outcome,
        path: snapshot.path.as_deref().map(plain),
    };
    Ok(SyncReport {
        destination: remote.display.clone(),
        snapshots: imported.snapshots.into_iter().map(plain_of).collect(),
        sent_bytes: exported.sent_bytes,
        left_out: exported.left_out,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Asks the other side what it has.
fn installed(options: &SyncOptions) -> Result<Installed> {
    let remote = &options.remote;
    let mut arguments = vec!["list", "--json"];
    if options.with_image {
        arguments.push("--image-files");
    }
    options.progress.begin(&format!("asking {} what it has", remote.display), None);
    let (answer, failed) = remote.start(&arguments, Input::None)?.answer()?;
    options.progress.end();
    let listed: Listed = match (parse(remote, &answer), failed) {
        // A store that is not there yet has nothing; the import makes it.
        (_, Some(Error::Remote { code: 4, .. })) => return Ok(Installed::default()),
        // It lists what it can read, and fails because that is not all: the rest is sent.
        (Ok(listed), None | Some(Error::Remote { code: 1, .. })) => listed,
        (_, Some(failed)) => return Err(failed),
        (Err(error), None) => return Err(error),
    };
    let cache_files = listed.cache_files.iter().filter_map(|path| path.parse().ok()).collect();
    Ok(Installed { snapshots: listed.snapshots.into_iter().map(|s| s.digest).collect::<HashSet<_>>(), cache_files })
}

/// Sends the bundle through the pipe.
fn send(options: &SyncOptions, since: Vec<Since>, pipe: File) -> Result<ExportReport> {
    let export = ExportOptions {
        store: options.store.clone(),
        snapshot: options.snapshot.clone(),
        destination: Destination::Stdout,
        form: Form::Tar,
        with_parents: true,
        with_image: options.with_image,
        since,
        delta: true,
        compression: options.compression,
        tag: None,
        force: false,
        jobs: options.jobs,
        progress: options.progress.clone(),
    };
    export_into(&export, layout::create_piped(pipe, &std::env::temp_dir())?)
}

fn parse<T: serde::de::DeserializeOwned>(remote: &Remote, answer: &[u8]) -> Result<T> {
    serde_json::from_slice(answer).map_err(|error| Error::Remote {
        destination: remote.display.clone(),
        message: format!("its answer is not what snapcask says ({})", plain(&error.to_string())),
        hint: "; the program there may be another one, or of another version",
        code: 1,
    })
}
