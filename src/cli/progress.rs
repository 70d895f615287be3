//! Progress bars on a terminal, for what takes longer than a moment; silence in a pipe.

use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use snapcask::progress::{Progress, Silent};

use super::{
    args::{Common, ProgressArg},
    notices, output,
};

/// Work that is over sooner shows nothing.
const MOMENT: Duration = Duration::from_millis(300);
/// How often a bar is drawn when nothing moves: the spinner turns and the time counts on.
const TICK: Duration = Duration::from_millis(200);

/// Most characters of a phase's name.
const LONGEST: usize = 60;

/// With a known total: bytes, rate, time left.
const BAR: &str = "{msg:30} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
/// Without: a spinner, bytes and rate.
const SPINNER: &str = "{msg:30} {spinner} {binary_bytes} {binary_bytes_per_sec} {elapsed}";

/// Bars if standard error is a terminal and nothing asks for quiet.
pub fn for_output(common: &Common) -> Arc<dyn Progress> {
    notices::set_style(common);
    let quiet = common.json || common.quiet || !std::io::stderr().is_terminal();
    match common.progress {
        Some(ProgressArg::Json) => return Arc::new(Events::default()),
        Some(ProgressArg::None) => return Arc::new(Silent),
        None if quiet => return Arc::new(Silent),
        Some(ProgressArg::Bars) | None => {}
    }
    let bars = Arc::new(Bars::default());
    let later = Arc::downgrade(&bars);
    // A thread and not a look at the clock in `advance`: a phase that does not move yet is shown as well.
    let shown = std::thread::Builder::new().spawn(move || {
        std::thread::sleep(MOMENT);
        while let Some(bars) = Weak::upgrade(&later) {
            bars.show();
            drop(bars);
            std::thread::sleep(TICK);
        }
    });
    if shown.is_err() {
        // The system gives no threads to something that is only to be looked at.
        return Arc::new(Silent);
    }
    bars
}

/// One bar at a time: a phase that begins takes the place of the one before.
#[derive(Default)]
struct Bars(Mutex<State>);

#[derive(Default)]
struct State {
    visible: bool,
    bar: Option<ProgressBar>,
}

impl Bars {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment is over: the present bar and all that follow are drawn. From then on, the bar that does not move is
    /// drawn again.
    fn show(&self) {
        let mut state = self.state();
        let was_visible = std::mem::replace(&mut state.visible, true);
        match &state.bar {
            Some(bar) if was_visible => bar.tick(),
            Some(bar) => draw(bar),
            None => {}
        }
    }
}

impl Progress for Bars {
    fn begin(&self, phase: &str, total: Option<u64>) {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(if total.is_some() { BAR } else { SPINNER }) {
            bar.set_style(style);
        }
        bar.set_message(shortened(&output::clean(phase)));
        let mut state = self.state();
        if let Some(before) = state.bar.take() {
            before.finish_and_clear();
        }
        if state.visible {
            draw(&bar);
        }
        state.bar = Some(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.state().bar {
            bar.inc(bytes);
            // What is sent again counts twice; a total is never below what was done.
            if let Some(total) = bar.length()
                && bar.position() > total
            {
                bar.set_length(bar.position());
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = self.state().bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// An error leaves a phase without its end; its bar must not stay above the message.
impl Drop for Bars {
    fn drop(&mut self) {
        self.end();
    }
}

/// The least time between two events of one phase that only say how far it is.
const EVENT: Duration = Duration::from_millis(200);

/// One JSON object a line on standard error.
#[derive(Default)]
struct Events(Mutex<Phase>);

#[derive(Default)]
struct Phase {
    name: Option<String>,
    total: Option<u64>,
    done: u64,
    told: Option<Instant>,
}

impl Phase {
    fn tell(&mut self, event: &str) {
        if let Some(name) = &self.name {
            self.told = Some(Instant::now());
            let (total, done) = (self.total, self.done);
            let line = serde_json::json!({ "event": event, "phase": name, "doneBytes": done, "totalBytes": total });
            output::print_error(&format!("{line}\n"));
        }
    }
}

impl Progress for Events {
    fn begin(&self, phase: &str, total: Option<u64>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.tell("end");
        *state = Phase { name: Some(phase.into()), total, ..Phase::default() };
        state.tell("begin");
    }

    fn advance(&self, bytes: u64) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.done = state.done.saturating_add(bytes);
        // What is sent again counts twice; a total is never below what was done.
        state.total = state.total.map(|total| total.max(state.done));
        if state.told.is_some_and(|told| told.elapsed() >= EVENT) {
            state.tell("progress");
        }
    }

    fn end(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.tell("end");
        state.name = None;
    }
}

/// A snapshot's name may be as long as a line.
fn shortened(phase: &str) -> String {
    match phase.chars().count() > LONGEST {
        true => phase.chars().take(LONGEST - 1).chain(['…']).collect(),
        false => phase.into(),
    }
}

/// Without a steady tick, for which the library starts a thread and panics where it gets none.
fn draw(bar: &ProgressBar) {
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    bar.tick();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_phase_is_told_to_its_end() {
        let waiting = "waiting for another snapcask that uses the store";
        let bars = Bars::default();
        bars.begin(waiting, None);
        assert_eq!(bars.state().bar.as_ref().map(ProgressBar::message), Some(waiting.into()));
        assert!(!BAR.contains('!') && !SPINNER.contains('!'), "the template cuts nothing off");
        assert_eq!(shortened(&"x".repeat(100)), "x".repeat(59) + "…");
    }

    #[test]
    fn a_total_is_never_below_what_was_done() {
        let (bars, events) = (Bars::default(), Events::default());
        for progress in [&bars as &dyn Progress, &events] {
            progress.begin("sending", Some(10));
            [7, 7].into_iter().for_each(|bytes| progress.advance(bytes));
        }
        let state = bars.state();
        assert_eq!(state.bar.as_ref().map(|bar| (bar.position(), bar.length())), Some((14, Some(14))));
        let phase = events.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!((phase.done, phase.total), (14, Some(14)));
    }

    #[test]
    fn phases_follow_each_other() {
        let bars = Bars::default();
        bars.advance(1);
        bars.begin("one", Some(10));
        bars.begin("two", None);
        bars.advance(5);
        assert_eq!(bars.state().bar.as_ref().map(ProgressBar::position), Some(5));
        bars.end();
        bars.end();
        assert!(bars.state().bar.is_none());
    }
}
