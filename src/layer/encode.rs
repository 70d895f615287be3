//! Pass 2: the tar stream in zstd frames, compressed in parallel, written in order.
//!
//! Each worker produces one frame's tar bytes itself and compresses them; the calling thread writes the frames in
//! order. Memory is bounded by the workers and a few frames for each. The bytes do not depend on `jobs`.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Condvar, Mutex, MutexGuard},
};

use super::{FRAME, tar::TarPlan};
use crate::{
    buffers::Buffer,
    error::{Error, IoContext, Result},
    progress::Progress,
    seek_table, workers,
};

/// Frames that a worker may be ahead of the writer.
const AHEAD: u64 = 2;

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    written: u64,
    done: BTreeMap<u64, (Buffer, u32)>,
    sums: Vec<u64>,
    error: Option<Error>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(|e| e.into_inner())
    }
}

/// Writes the layer to `out`: compressed at `level`, or plain.
///
/// # Errors
/// [`Error::SourceChanged`] when a file is not what pass 1 saw; I/O errors of the files, and of `out` as given by `failed`.
pub fn encode(
    plan: &TarPlan,
    level: Option<i32>,
    jobs: usize,
    out: &mut dyn Write,
    failed: &dyn Fn(std::io::Error) -> Error,
    progress: &dyn Progress,
) -> Result<()> {
    let frames = plan.len().div_ceil(FRAME as u64);
    let jobs = (jobs.max(1) as u64).min(frames).max(1);
    let shared = Shared {
        state: Mutex::new(State { sums: vec![0; plan.files().len()], ..State::default() }),
        changed: Condvar::new(),
    };
    let mut table = Vec::with_capacity(frames as usize);
    let written = std::thread::scope(|scope| {
        workers::start(scope, jobs as usize, || worker(plan, level, frames, jobs * AHEAD, &shared))
            .context("start a thread for", "a layer")?;
        let result = write_in_order(frames, &shared, out, failed, progress, &mut table);
        if result.is_err() {
            // Workers stop at the next look; which error stands does not matter, this one is returned.
            shared.lock().error.get_or_insert(Error::Interrupted);
            shared.changed.notify_all();
        }
        result
    });
    written?;
    let sums = std::mem::take(&mut shared.lock().sums);
    for (file, sum) in plan.files().iter().zip(sums) {
        if file.sum != sum {
            return Err(Error::SourceChanged { path: file.source.clone() });
        }
    }
    if level.is_some() {
        out.write_all(&seek_table::encode(&table)).map_err(failed)?;
    }
    Ok(())
}

fn write_in_order(
    frames: u64,
    shared: &Shared,
    out: &mut dyn Write,
    failed: &dyn Fn(std::io::Error) -> Error,
    progress: &dyn Progress,
    table: &mut Vec<(u32, u32)>,
) -> Result<()> {
    for index in 0..frames {
        let mut state = shared.lock();
        let (bytes, plain) = loop {
            if let Some(error) = state.error.take() {
                state.error = Some(Error::Interrupted);
                return Err(error);
            }
            match state.done.remove(&index) {
                Some(frame) => break frame,
                None => state = shared.wait(state),
            }
        };
        state.written = index + 1;
        drop(state);
        shared.changed.notify_all();
        out.write_all(&bytes).map_err(failed)?;
        table.push((bytes.len() as u32, plain));
        progress.advance(u64::from(plain));
    }
    Ok(())
}

fn worker(plan: &TarPlan, level: Option<i32>, frames: u64, window: u64, shared: &Shared) {
    let work = || -> Result<()> {
        let mut compressor = match level {
            Some(level) => Some(zstd::bulk::Compressor::new(level).map_err(compress_failed)?),
            None => None,
        };
        let mut plain = Buffer::with_capacity(FRAME);
        let mut sums = vec![0; plan.files().len()];
        loop {
            let mut state = shared.lock();
            let index = loop {
                if state.error.is_some() || state.next >= frames {
                    for (total, sum) in state.sums.iter_mut().zip(&sums) {
                        *total = total.wrapping_add(*sum);
                    }
                    return Ok(());
                }
                if state.next < state.written + window {
                    state.next += 1;
                    break state.next - 1;
                }
                state = shared.wait(state);
            };
            drop(state);
            let start = index * FRAME as u64;
            plain.resize((plan.len() - start).min(FRAME as u64) as usize, 0);
            plan.read_at(start, &mut plain, &mut sums)?;
            let length = plain.len() as u32;
            let bytes = match &mut compressor {
                Some(compressor) => {
                    let mut bytes = Buffer::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
                    compressor.compress_to_buffer(&plain[..], &mut *bytes).map_err(compress_failed)?;
                    bytes
                }
                None => std::mem::replace(&mut plain, Buffer::with_capacity(FRAME)),
            };
            shared.lock().done.insert(index, (bytes, length));
            shared.changed.notify_all();
        }
    };
    if let Err(error) = work() {
        shared.lock().error.get_or_insert(error);
        shared.changed.notify_all();
    }
}

fn compress_failed(source: std::io::Error) -> Error {
    Error::io("compress", "a layer", source)
}
