//! Integrity that a descriptor records, checked on export and again on import.

use std::{fs::File, path::Path};

use crate::{
    error::{Error, Result},
    layer::analyze::Analysis,
    progress::Progress,
    snapshot::{IntegrityAlgorithm, RecordedIntegrity, integrity},
};

/// A hash over a file of this size, told to a callback as it goes.
type FileHash = fn(&File, &Path, u64, &mut dyn FnMut(u64)) -> Result<String>;

/// Compares a recorded value with the file's contents. The Merkle form is known from the analysis; the SHA forms cost
/// the logical size.
///
/// # Errors
/// [`Error::RecordedIntegrity`] with both values.
pub fn check_recorded(
    recorded: &RecordedIntegrity,
    file: &File,
    path: &Path,
    analysis: &Analysis,
    progress: &dyn Progress,
) -> Result<()> {
    let hash = |hasher: FileHash| {
        progress.begin("verifying recorded integrity", Some(analysis.size));
        let value = hasher(file, path, analysis.size, &mut |bytes| progress.advance(bytes));
        progress.end();
        value
    };
    let actual = match recorded.algorithm {
        IntegrityAlgorithm::Merkle => analysis.root.to_string(),
        IntegrityAlgorithm::Sha256 => hash(integrity::sha256_of_file)?,
        IntegrityAlgorithm::SparseSha256 => hash(integrity::sparse_sha256_of_file)?,
    };
    if actual == recorded.value {
        return Ok(());
    }
    Err(Error::RecordedIntegrity {
        path: path.into(),
        algorithm: recorded.algorithm.as_str(),
        expected: recorded.value.clone(),
        actual,
    })
}
