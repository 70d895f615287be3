//! [`Ahead`]: while one blob is read, the next one is on its way already.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::{
    digest::Digest,
    error::Result,
    model::{Descriptor, Index},
    storage::{Blob, ReadOnlyStorage, Source},
};

/// A source that is asked for blobs in an order that is known. What is asked for out of order comes as well.
pub struct Ahead<'a> {
    source: &'a dyn Source,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    /// What will be asked for.
    coming: VecDeque<Descriptor>,
    opened: Option<(Digest, Result<Blob<'a>>)>,
}

impl<'a> Ahead<'a> {
    /// Over `source`, of which these blobs will be asked for, in this order.
    pub fn new(source: &'a dyn Source, coming: impl IntoIterator<Item = Descriptor>) -> Self {
        Self { source, state: Mutex::new(State { coming: coming.into_iter().collect(), opened: None }) }
    }
}

impl ReadOnlyStorage for Ahead<'_> {
    fn exists(&self, descriptor: &Descriptor) -> Result<bool> {
        self.source.exists(descriptor)
    }

    fn fetch<'b>(&'b self, descriptor: &Descriptor) -> Result<Blob<'b>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let blob = match state.opened.take_if(|(digest, _)| *digest == descriptor.digest) {
            Some((_, blob)) => blob?,
            None => self.source.fetch(descriptor)?,
        };
        // What is passed over will not be asked for.
        if let Some(at) = state.coming.iter().position(|d| d.digest == descriptor.digest) {
            state.coming.drain(..=at);
        }
        let next = state.coming.front().cloned();
        if state.opened.as_ref().map(|(digest, _)| *digest) != next.as_ref().map(|next| next.digest) {
            state.opened = next.map(|next| (next.digest, self.source.fetch(&next)));
        }
        Ok(blob)
    }
}

impl Source for Ahead<'_> {
    fn index(&self) -> &Index {
        self.source.index()
    }

    fn display(&self) -> String {
        self.source.display()
    }

    fn referrers(&self, subjects: &[Digest]) -> Result<Vec<Descriptor>> {
        self.source.referrers(subjects)
    }

    fn release(&self) {
        self.source.release();
    }
}
