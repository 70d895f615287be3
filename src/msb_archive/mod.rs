//! Archives that msb writes (`msb snapshot export`): a tar, plain or in zstd, of snapshots and the files of an image.
//!
//! ```text
//! input         its bytes, decompressed on a thread of their own
//! entries       the grammar of its tar
//! member        the files that it may hold, and where each belongs
//! transport     the hash that msb gives every member
//! inventory     archive.json, which comes last, and what was read
//! unpack        reads it into a stage
//! dependencies  what it leaves out
//! complete      takes that from others
//! staged        snapshot directories, as imports and exports want them
//! looked        what it says of itself
//! ```
//!
//! It comes in three forms: `microsandbox.snapshot-archive/1` of 0.7, schema 1 of 0.6.7 to 0.6.16, and without an
//! inventory of 0.6.6. A snapshot keeps the generation that it has in the archive.

mod complete;
mod dependencies;
mod entries;
mod input;
mod inventory;
mod looked;
mod member;
mod staged;
mod transport;
mod unpack;

use std::{fs, path::PathBuf};

use crate::{
    error::{Error, IoContext, Result},
    layer::walk::field,
    snapshot::Snapshot,
    zstd_input::MaxWindow,
};
use complete::Offers;
use member::Member;

pub use input::Input;
pub use looked::{Looked, LookedFile, LookedSnapshot, look};
pub use member::Form;
pub use staged::{Staged, StagedSnapshot};
pub use unpack::UnpackOptions;

/// Whether what begins like this is an archive of msb, and not a layout: by the name of its first entry. What asks for more
/// than `window` is none.
pub fn is_archive(head: &[u8], window: MaxWindow) -> bool {
    let Some(block) = input::first_block(head, window) else { return false };
    let Ok(name) = std::str::from_utf8(field(&block[..100])) else { return false };
    let is_tar = &block[257..262] == b"ustar";
    // A name that is too long for a header is no layout's.
    let is_folder = (block[156] == b'5' || name.ends_with('/')) && Member::is_folder(name);
    is_tar && (is_folder || Member::parse(name).is_ok() || block[156] == b'L')
}

/// An archive that was unpacked, and is as its inventory says.
pub struct Unpacked {
    read: unpack::Read,
    folder: PathBuf,
}

/// An archive that was unpacked, and everything that is not as its inventory says.
pub struct Checked {
    /// The archive, if nothing is wrong.
    pub unpacked: Option<Unpacked>,
    /// Members, with what is wrong with each.
    pub problems: Vec<(String, Error)>,
    /// How many members it has.
    pub files: usize,
    /// Their bytes in the archive.
    pub bytes: u64,
    /// Descriptors.
    pub snapshots: usize,
}

/// As [`unpack`], but goes on after what is not as the inventory says.
///
/// # Errors
/// [`crate::Error::InvalidBundle`]: it cannot be read to its end; [`crate::Error::Limit`]; I/O.
pub fn check(input: Input, options: &UnpackOptions) -> Result<Checked> {
    let read = unpack::unpack(input, options)?;
    let problem = |problem: inventory::Problem| {
        let error = Error::bundle(format!("{}: {}", read.name, problem.subject), problem.reason);
        (problem.subject, error)
    };
    let problems: Vec<(String, Error)> = read.problems().into_iter().map(problem).collect();
    let copies = || read.members.values().flat_map(|member| &member.copies);
    let (files, bytes) = (copies().count(), copies().map(|copy| copy.stored).sum());
    let snapshots = read.descriptors.len();
    let unpacked = problems.is_empty().then(|| Unpacked { read, folder: options.folder.into() });
    Ok(Checked { unpacked, problems, files, bytes, snapshots })
}

/// Unpacks an archive.
///
/// # Errors
/// [`crate::Error::InvalidBundle`]: it is not what msb writes, or damaged; [`crate::Error::Limit`]; I/O.
pub fn unpack(input: Input, options: &UnpackOptions) -> Result<Unpacked> {
    let read = unpack::unpack(input, options)?;
    staged::first(&read.name, read.problems())?;
    Ok(Unpacked { read, folder: options.folder.into() })
}

impl Unpacked {
    /// Whether it leaves something out that others have.
    pub fn is_dependent(&self) -> bool {
        self.read.inventory.as_ref().is_some_and(|inventory| inventory.dependencies.is_some())
    }

    /// The members that it leaves out.
    pub fn left_out(&self) -> Vec<String> {
        let inventory = self.read.inventory.iter();
        let missing = inventory.flat_map(|i| i.dependencies.iter().flat_map(|all| all.missing(&i.head)));
        missing.map(|missing| missing.path).collect()
    }

    /// Makes directories of it, each checked against its descriptor. What the files must hold is left to
    /// [`Staged::verify`].
    ///
    /// # Errors
    /// [`crate::Error::InvalidBundle`]; I/O.
    pub fn stage(self, options: &UnpackOptions) -> Result<Staged> {
        staged::stage(self.read, &UnpackOptions { folder: &self.folder, ..options.clone() })
    }
}

/// Unpacks archives, completes them from each other, from `bases` and from what `store` gives if that is needed, and makes
/// directories of them.
///
/// # Errors
/// Those of [`unpack`], [`complete`] and [`Unpacked::stage`].
pub fn stage_all(
    archives: Vec<Input>,
    bases: Vec<Input>,
    store: impl FnOnce() -> Result<Vec<Snapshot>>,
    options: &UnpackOptions,
) -> Result<Staged> {
    let count = archives.len();
    let mut unpacked = Vec::new();
    for (number, input) in archives.into_iter().chain(bases).enumerate() {
        let folder = options.folder.join(format!("archive-{number}"));
        fs::create_dir(&folder).context("create", &folder)?;
        unpacked.push(unpack(input, &UnpackOptions { folder: &folder, ..options.clone() })?);
    }
    let bases = unpacked.split_off(count);
    if unpacked.iter().any(Unpacked::is_dependent) {
        complete(&mut unpacked, &bases, &store()?, options)?;
    }
    Staged::merge(unpacked.into_iter().map(|archive| archive.stage(options)).collect::<Result<_>>()?)
}

/// Completes the first of these archives from all of them, and from these snapshots of a store.
///
/// # Errors
/// [`crate::Error::DependenciesMissing`]; [`crate::Error::InvalidBundle`]; I/O.
pub fn complete(
    archives: &mut [Unpacked],
    bases: &[Unpacked],
    store: &[Snapshot],
    options: &UnpackOptions,
) -> Result<()> {
    let mut offers = Offers::default();
    // What is in the command comes before what happens to be in the store.
    archives.iter().chain(bases).for_each(|archive| offers.add_archive(&archive.read, &archive.folder));
    store.iter().for_each(|snapshot| offers.add_snapshot(snapshot));
    for archive in archives {
        let options = UnpackOptions { folder: &archive.folder, ..options.clone() };
        complete::complete(&mut archive.read, &offers, &options)?;
    }
    Ok(())
}
