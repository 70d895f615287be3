//! Progress bars on a terminal, for what takes longer than a moment; silence in a pipe.

use std::{
    io::IsTerminal,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use snapcask::progress::{Progress, Silent};

use super::args::Common;

/// Work that is over sooner shows nothing.
const MOMENT: Duration = Duration::from_millis(300);

/// Bars if standard error is a terminal and nothing asks for quiet.
pub fn for_output(common: &Common) -> Arc<dyn Progress> {
    if common.json || common.quiet || !std::io::stderr().is_terminal() {
        return Arc::new(Silent);
    }
    Arc::new(Bars { started: Instant::now(), bar: Mutex::new(None) })
}

struct Bars {
    started: Instant,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress for Bars {
    fn begin(&self, phase: &str, total: Option<u64>) {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()),
                "{msg:30!} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            ),
            None => (
                ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
                "{msg:30!} {spinner} {binary_bytes} {binary_bytes_per_sec}",
            ),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(phase.to_owned());
        *self.bar.lock().unwrap_or_else(|e| e.into_inner()) = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(|e| e.into_inner()) {
            if bar.is_hidden() && self.started.elapsed() > MOMENT {
                bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            }
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(|e| e.into_inner()).take() {
            bar.finish_and_clear();
        }
    }
}
