//! How long work tells that it moves; the CLI draws it, the library's default is silence.

/// Told about work as it is done; called from many threads.
pub trait Progress: Send + Sync {
    /// A phase begins: its name for people, and the bytes that it will take, where known.
    fn begin(&self, phase: &str, total: Option<u64>);
    /// That many bytes more are done.
    fn advance(&self, bytes: u64);
    /// The phase is over.
    fn end(&self);
}

/// Says nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
