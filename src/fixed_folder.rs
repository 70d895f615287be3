//! Folders that cannot be renamed, because they stand in a lower layer of overlayfs (EXDEV): they are taken away or
//! replaced file by file.
//!
//! ```text
//! <root>/.snapcask-moving-XXXX/
//!   plan.json   the folder, and the files that make it what it is: its marks
//!   new/        what takes its place; nothing where the folder is removed
//!   old/        what has been moved out so far
//! ```
//!
//! The plan is durable before the first file moves. The marks move first, so that nobody takes the folder for anything
//! while it is in pieces; what takes its place appears whole, by one rename over the empty folder. A run that dies before
//! the last mark has moved has changed nothing. One that dies later is completed by the next run ([`complete_dead`]).

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    beneath::Folder,
    error::{Error, IoContext, Result},
    model::TarPath,
    temporary::{self, publish},
};

const PREFIX: &str = ".snapcask-moving-";
const PLAN: &str = "plan.json";
const NEW: &str = "new";
const OLD: &str = "old";
const VERSION: u32 = 1;
/// Largest plan, in bytes.
const MAX_PLAN: u64 = 64 << 10;

/// Whether an error says that a folder cannot be renamed or exchanged.
pub fn is_fixed(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == ErrorKind::CrossesDevices)
}

/// What becomes of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Purpose {
    Remove,
    Replace,
}

/// What a run that died was about to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    version: u32,
    purpose: Purpose,
    /// The folder, below the root.
    folder: TarPath,
    /// Its marks, the one that decides last.
    marks: Vec<TarPath>,
    /// Those that it has.
    present: Vec<TarPath>,
}

impl Plan {
    fn new(purpose: Purpose, root: &Path, folder: &Path, marks: &[&str]) -> Result<Self> {
        let below = folder.strip_prefix(root).ok().and_then(Path::to_str);
        let Some(below) = below else {
            return Err(Error::UnsafePath { path: folder.into(), reason: "it is not below its folder" });
        };
        let marks = marks.iter().map(|mark| mark.parse()).collect::<Result<Vec<TarPath>>>()?;
        let mut present = Vec::new();
        for mark in &marks {
            if is_there(&folder.join(mark))? {
                present.push(mark.clone());
            }
        }
        Ok(Self { version: VERSION, purpose, folder: below.parse()?, marks, present })
    }

    /// That of a run that died; none where it died before it had one, or where it is none of ours.
    fn read(moving: &Path) -> Result<Option<Self>> {
        let path = moving.join(PLAN);
        let file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.context("open", &path)?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_PLAN + 1).read_to_end(&mut bytes).context("read", &path)?;
        let invalid = |reason: String| Error::io("read", &path, io::Error::new(ErrorKind::InvalidData, reason));
        if bytes.len() as u64 > MAX_PLAN {
            return Err(invalid(format!("it is larger than {MAX_PLAN} bytes")));
        }
        let plan: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        match plan.version {
            VERSION => Ok(Some(plan)),
            version => Err(invalid(format!("its version is {version}, not {VERSION}"))),
        }
    }

    /// Makes it durable.
    fn write(&self, root: &Path, moving: &Path) -> Result<()> {
        let (part, path) = (moving.join("plan.json.part"), moving.join(PLAN));
        let mut file = File::create(&part).context("create", &part)?;
        let written = serde_json::to_vec(self).map_err(io::Error::from);
        written.and_then(|bytes| file.write_all(&bytes)).context("write", &part)?;
        file.sync_all().context("fsync", &part)?;
        fs::rename(&part, &path).context("rename", &part)?;
        sync(moving)?;
        sync(root)
    }

    /// Whether all marks have moved: what has one now is another folder.
    fn is_decided(&self, old: &Path) -> Result<bool> {
        for mark in &self.present {
            if !is_there(&old.join(mark))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether one of the marks is in `folder`.
    fn marks_in(&self, folder: &Path) -> Result<bool> {
        for mark in &self.marks {
            if is_there(&folder.join(mark))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves the marks out, durably.
    fn hide(&self, folder: &Path, old: &Path) -> Result<()> {
        for mark in &self.present {
            let from = folder.join(mark);
            match fs::rename(&from, old.join(mark)) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                moved => moved.context("move", &from)?,
            }
        }
        sync(old)?;
        sync(folder)
    }

    /// Moves the marks back, the one that decides first, because the folder is what it was when all others are in it.
    fn show(&self, old: &Path, folder: &Path) -> Result<()> {
        for mark in self.marks.iter().rev() {
            let (from, to) = (old.join(mark), folder.join(mark));
            if is_there(&from)? && !is_there(&to)? {
                fs::rename(&from, &to).context("move back", &to)?;
            }
        }
        sync(folder)
    }
}

/// A plan that is carried out: removed again where it never came to that.
struct Moving {
    path: PathBuf,
    lock: Option<File>,
}

impl Moving {
    fn begin(root: &Path) -> Result<Self> {
        let (path, lock) = temporary::make_folder(root, PREFIX.as_ref(), "", 0o700)?;
        let moving = Self { path, lock: Some(lock) };
        let old = moving.old();
        fs::create_dir(&old).context("create", &old)?;
        Ok(moving)
    }

    fn old(&self) -> PathBuf {
        self.path.join(OLD)
    }

    fn staged(&self) -> PathBuf {
        self.path.join(NEW)
    }

    /// Nothing is left to do: the plan goes first, so that nobody follows it into a folder that is half removed.
    fn end(&self) -> Result<()> {
        end(&self.path)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if temporary::is_ours(&self.path) {
            let _ = temporary::remove_tree(&self.path, &mut self.lock);
            temporary::forget(&self.path);
        }
    }
}

fn end(moving: &Path) -> Result<()> {
    let plan = moving.join(PLAN);
    fs::remove_file(&plan).context("remove", &plan)?;
    sync(moving)?;
    // What cannot be removed now, the next run removes.
    let _ = fs::remove_dir_all(moving);
    Ok(())
}

/// Puts the durable folder `staged` in the place of the folder `target` below `root`, durably. Between the old and the new
/// one, nothing is there for anybody who looks for `marks`, the files that make the folder what it is, the one that decides
/// last.
///
/// # Errors
/// [`Error::Io`]. What was there is there, unless the error says where it is.
pub fn replace(root: &Path, staged: &Path, target: &Path, marks: &[&str]) -> Result<()> {
    let plan = Plan::new(Purpose::Replace, root, target, marks)?;
    let moving = Moving::begin(root)?;
    // From here on each file is moved by a rename that copies nothing.
    copy_up(target)?;
    let mode = fs::metadata(target).context("look at", target)?.permissions();
    fs::set_permissions(moving.old(), writable(&mode)).context("set the mode of", moving.old())?;
    publish(|| replace_now(&plan, &moving, root, staged, target))
}

fn replace_now(plan: &Plan, moving: &Moving, root: &Path, staged: &Path, target: &Path) -> Result<()> {
    let (new, old) = (moving.staged(), moving.old());
    fs::rename(staged, &new).context("rename", staged)?;
    let planned = sync(&moving.path).and_then(|()| plan.write(root, &moving.path));
    if let Err(error) = planned {
        // Nothing has moved, so the plan is worth nothing.
        let _ = fs::rename(&new, staged);
        return Err(error);
    }
    temporary::forget(&moving.path);
    let above = target.parent().unwrap_or(root);
    let placed = plan.hide(target, &old).and_then(|()| move_contents(target, &old, &[])).and_then(|()| {
        fs::rename(&new, target).context("rename over", target)?;
        sync(above)
    });
    let Err(error) = placed else {
        let _ = moving.end();
        return Ok(());
    };
    let back = take_back(plan, moving, target, above).and_then(|()| {
        fs::rename(&new, staged).context("rename", &new)?;
        moving.end()
    });
    Err(match back {
        Ok(()) => error,
        Err(_) => with_note(error, &format!("what was there before is {} now, until the next run", old.display())),
    })
}

/// Undoes what has been done of a replacement, but for the plan.
fn take_back(plan: &Plan, moving: &Moving, target: &Path, above: &Path) -> Result<()> {
    let (new, old) = (moving.staged(), moving.old());
    if !is_there(&new)? {
        // Its name may not last.
        fs::rename(target, &new).context("rename", target)?;
    }
    if !is_there(target)? {
        let mode = fs::metadata(&old).context("look at", &old)?.permissions();
        fs::create_dir(target).context("create", target)?;
        fs::set_permissions(target, mode).context("set the mode of", target)?;
    }
    move_contents(&old, target, &plan.marks)?;
    sync(above)?;
    plan.show(&old, target)
}

/// Takes the folder `target` below `root` away, durably: it is gone for anybody who looks for `marks` by one rename, and
/// removed then.
///
/// # Errors
/// [`Error::Io`]. What was there is there, unless the error says that the next run removes the rest.
pub fn take_away(root: &Path, target: &Path, marks: &[&str]) -> Result<()> {
    let plan = Plan::new(Purpose::Remove, root, target, marks)?;
    let moving = Moving::begin(root)?;
    let old = moving.old();
    publish(|| {
        plan.write(root, &moving.path)?;
        temporary::forget(&moving.path);
        plan.hide(target, &old).map_err(|error| match plan.show(&old, target).and_then(|()| moving.end()) {
            Ok(()) => error,
            Err(_) => with_note(error, &format!("a part of it is {} now, until the next run", old.display())),
        })
    })?;
    fs::remove_dir_all(target)
        .context("remove", target)
        .and_then(|()| sync(target.parent().unwrap_or(root)))
        .map_err(|error| with_note(error, "it is gone, and the next run removes the rest"))?;
    let _ = moving.end();
    Ok(())
}

/// Completes what dead runs left in `root`, or undoes it where nothing had been decided. `claim` gives what keeps others
/// from the folder meanwhile, or none while somebody uses it: then, and where something fails, it is left to the next run.
///
/// # Errors
/// [`Error::Io`]: `root` cannot be listed.
pub fn complete_dead<G>(root: &Path, claim: impl Fn(&Path) -> Result<Option<G>>) -> Result<()> {
    for (moving, _lock) in temporary::take_over(root, PREFIX.as_ref())? {
        if let Err(error) = complete(root, &moving, &claim) {
            tracing::warn!(path = %moving.display(), %error, "cannot complete what a dead run left");
        }
    }
    Ok(())
}

/// What dead runs left in `root` for the next one to complete.
///
/// # Errors
/// [`Error::Io`]: `root` cannot be listed, or what is there not looked at.
pub fn dead(root: &Path) -> Result<Vec<PathBuf>> {
    temporary::dead(root, PREFIX.as_ref())
}

fn complete<G>(root: &Path, moving: &Path, claim: impl Fn(&Path) -> Result<Option<G>>) -> Result<()> {
    let Some(plan) = Plan::read(moving)? else {
        return fs::remove_dir_all(moving).context("remove", moving);
    };
    let target = root.join(&plan.folder);
    let above = target.parent().unwrap_or(root);
    // No link leads elsewhere.
    let is_gone =
        Folder::open(root)?.folder(Path::new(plan.folder.as_str()).parent().unwrap_or(Path::new("")))?.is_none();
    if is_gone && plan.purpose == Purpose::Remove {
        return end(moving);
    }
    let Some(_claim) = claim(&target)? else { return Ok(()) };
    let (new, old) = (moving.join(NEW), moving.join(OLD));
    let is_placed = plan.purpose == Purpose::Replace && !is_there(&new)?;
    publish(|| {
        if is_placed {
            return sync(above);
        }
        if plan.marks_in(&target)? {
            return if plan.is_decided(&old)? { Ok(()) } else { plan.show(&old, &target) };
        }
        match fs::remove_dir_all(&target) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &target, e)),
            _ => {}
        }
        if plan.purpose == Purpose::Replace {
            fs::rename(&new, &target).context("rename to", &target)?;
        }
        sync(above)
    })?;
    end(moving)
}

/// Moves everything but `except` from one folder to another. Folders are made again, because they may be in a lower layer,
/// too, and removed where they were.
fn move_contents(from: &Path, to: &Path, except: &[TarPath]) -> Result<()> {
    for entry in fs::read_dir(from).context("list", from)? {
        let entry = entry.context("list", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if except.iter().any(|path| entry.file_name() == *path.as_str()) {
            continue;
        }
        let is_folder = entry.file_type().context("look at", &source)?.is_dir();
        match fs::rename(&source, &target) {
            // A folder that was made again is not empty.
            Err(e) if is_folder && matches!(e.kind(), ErrorKind::CrossesDevices | ErrorKind::DirectoryNotEmpty) => {
                let mode = entry.metadata().context("look at", &source)?.permissions();
                match fs::DirBuilder::new().mode(0o700).create(&target) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::io("create", &target, e)),
                    _ => {}
                }
                move_contents(&source, &target, &[])?;
                fs::set_permissions(&target, writable(&mode)).context("set the mode of", &target)?;
                fs::remove_dir(&source).context("remove", &source)?;
            }
            moved => moved.context("move", &source)?,
        }
    }
    sync(to)?;
    sync(from)
}

/// Makes overlayfs copy every file of the folder to its upper layer, by a change of its mode that changes nothing: what
/// takes time and room is done while the folder is still whole.
fn copy_up(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).context("list", folder)? {
        let entry = entry.context("list", folder)?;
        let (path, kind) = (entry.path(), entry.file_type().context("look at", entry.path())?);
        if kind.is_dir() {
            copy_up(&path)?;
        } else if kind.is_file() {
            let mode = entry.metadata().context("look at", &path)?.permissions();
            match fs::set_permissions(&path, mode) {
                // It is somebody else's; its rename copies it.
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
                copied => copied.context("copy to the upper layer", &path)?,
            }
        }
    }
    Ok(())
}

/// A folder's mode with which its owner can empty it.
fn writable(mode: &fs::Permissions) -> fs::Permissions {
    fs::Permissions::from_mode(mode.mode() & 0o7777 | 0o700)
}

fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).context("open", folder)?.sync_all().context("fsync", folder)
}

fn with_note(error: Error, note: &str) -> Error {
    match error {
        Error::Io { operation, path, source } => {
            Error::io(operation, path, io::Error::new(source.kind(), format!("{source}; {note}")))
        }
        other => other,
    }
}
