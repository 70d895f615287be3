//! Threads that the system may refuse (`ulimit -u`, the limit of processes of a container, a sandbox): with fewer the work
//! goes on, and none at all is an error where one is needed.

use std::{
    io,
    thread::{Builder, Scope, scope},
};

/// Starts `work` on so many threads, or as many as the system gives.
///
/// # Errors
/// It gives none.
pub fn start<'scope, F>(scope: &'scope Scope<'scope, '_>, count: usize, work: F) -> io::Result<()>
where
    F: Fn() + Copy + Send + 'scope,
{
    for started in 0..count {
        if let Err(error) = Builder::new().spawn_scoped(scope, work) {
            return if started == 0 { Err(error) } else { Ok(()) };
        }
    }
    Ok(())
}

/// Runs `work` on so many threads, or as many as the system gives. One of them is the caller's, so there is always one.
pub fn run(count: usize, work: impl Fn() + Sync) {
    let work = &work;
    scope(|scope| {
        // Where there are no others, the work takes longer.
        let _ = start(scope, count.saturating_sub(1), work);
        work();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn work_runs_on_the_threads_that_are_asked_for() {
        for count in 0..5 {
            let ran = AtomicUsize::new(0);
            run(count, || {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), count.max(1));
        }
    }
}
