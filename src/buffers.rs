//! Large buffers that are used again: by threads that come and go, and sized alike by frames, chunks and copies.
//!
//! Left to the system's allocator each thread's arena keeps some for itself. Measured with an import of a chain of ten
//! from a registry: 126 MiB at the peak, with these buffers 70.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

/// Buffers that are kept for later; more are given back to the system.
const KEPT: usize = 12;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A growing buffer that comes from those that are kept, and goes back to them.
#[derive(Debug, Default)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// Empty, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest.
        let fitting =
            free.iter().enumerate().filter(|(_, b)| b.capacity() >= capacity).min_by_key(|(_, b)| b.capacity());
        let at = fitting.or_else(|| free.iter().enumerate().max_by_key(|(_, b)| b.capacity())).map(|(at, _)| at);
        let mut bytes = at.map(|at| free.swap_remove(at)).unwrap_or_default();
        drop(free);
        bytes.reserve_exact(capacity);
        Self(bytes)
    }

    /// Of `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        let mut buffer = Self::with_capacity(length);
        buffer.resize(length, 0);
        buffer
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0);
        if bytes.capacity() == 0 {
            return;
        }
        bytes.clear();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty() {
        let mut first = Buffer::zeroed(3 << 20);
        first.fill(7);
        drop(first);
        let again = Buffer::with_capacity(3 << 20);
        assert!(again.is_empty() && again.capacity() >= 3 << 20);
        let zeros = Buffer::zeroed(5 << 20);
        assert!(zeros.len() == 5 << 20 && zeros.iter().all(|b| *b == 0));
    }
}
