//! What a registry makes us wait for, or do otherwise: told while it happens, because silence looks like a hang.

use std::{fmt, sync::Arc, time::Duration};

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// Nothing has moved for a while.
    Waiting {
        /// What is waited for: `127.0.0.1:5000 to answer (read v1 of oci://...)`.
        what: String,
        /// For how long so far.
        since: Duration,
    },
    /// A request is made again.
    Retry {
        /// What is being done.
        operation: String,
        /// Why the last attempt was not enough.
        reason: String,
        /// The number of that attempt, from 1.
        attempt: u32,
        /// How long is waited before the next one.
        wait: Duration,
    },
    /// Something that is not as it should be, and that harms nothing that was asked for.
    Warning(String),
}

type Listener = dyn Fn(&Notice) + Send + Sync;

/// Who is told. By default nobody.
#[derive(Clone, Default)]
pub struct Notices(Option<Arc<Listener>>);

impl Notices {
    /// Tells `listener`, which may be called from several threads.
    pub fn to(listener: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    pub(super) fn tell(&self, notice: Notice) {
        tracing::debug!(?notice, "registry");
        if let Some(listener) = &self.0 {
            listener(&notice);
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

/// Who listens is none of a registry's settings: two places are the same whoever is told.
impl PartialEq for Notices {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Notices {}
