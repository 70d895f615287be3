//! What a push did with tags that named other manifests.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::digest::Digest;

/// What a push did with a tag that named another manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagOutcome {
    /// It names the manifest of this push now.
    Moved,
    /// It was left as it was: it is another snapshot's, and nobody asked for it to move.
    Kept,
}

/// A tag that named another manifest before a push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagChange {
    /// The tag.
    pub tag: String,
    /// What was done.
    pub outcome: TagOutcome,
    /// The manifest that it named.
    pub before: Digest,
    /// The manifest that was pushed.
    pub manifest: Digest,
    /// Where it was kept: the tag that the pushed manifest has instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

/// The tags that named other manifests before a push. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct TagChanges(Arc<Mutex<Vec<TagChange>>>);

impl TagChanges {
    pub(super) fn note(&self, change: TagChange) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    /// Those so far, in the order in which they were looked at: the head's last.
    pub fn list(&self) -> Vec<TagChange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What came of a push is none of its settings: two places are the same whatever was done there.
impl PartialEq for TagChanges {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TagChanges {}
