//! What is told while a registry keeps us waiting: lines on a terminal, events for programs.

use std::{io::IsTerminal, sync::OnceLock};

use snapcask::registry::{Notice, Notices};

use super::{
    args::{Common, ProgressArg},
    output,
};

/// How notices are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A JSON object a line.
    Events,
    /// A line for people.
    Lines,
    /// Warnings only: nobody watches.
    Warnings,
    Nothing,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// From now on notices are told as this command's options ask.
pub fn set_style(common: &Common) {
    let is_terminal = std::io::stderr().is_terminal();
    let _ = STYLE.set(match common.progress {
        Some(ProgressArg::Json) => Style::Events,
        _ if common.quiet => Style::Nothing,
        Some(ProgressArg::None) => Style::Warnings,
        Some(ProgressArg::Bars) => Style::Lines,
        None if is_terminal && !common.json => Style::Lines,
        None => Style::Warnings,
    });
}

/// Tells on standard error.
pub fn on_standard_error() -> Notices {
    Notices::to(|notice| {
        let style = *STYLE.get_or_init(|| match std::io::stderr().is_terminal() {
            true => Style::Lines,
            false => Style::Warnings,
        });
        match (style, notice) {
            (Style::Events, _) => output::print_error(&format!("{}\n", event(notice))),
            (Style::Lines, _) | (Style::Warnings, Notice::Warning(_)) => {
                output::print_error(&format!("{}\n", output::clean(&line(notice))));
            }
            (Style::Warnings | Style::Nothing, _) => {}
        }
    })
}

fn line(notice: &Notice) -> String {
    match notice {
        Notice::Waiting { what, since } => format!("waiting for {what}, {} s so far", since.as_secs()),
        Notice::Retry { operation, reason, attempt, wait } => format!(
            "attempt {attempt} to {operation} failed ({reason}); the next one in {}",
            output::seconds(wait.as_secs_f64())
        ),
        Notice::Warning(text) => format!("warning: {text}"),
    }
}

fn event(notice: &Notice) -> serde_json::Value {
    match notice {
        Notice::Waiting { what, since } => {
            serde_json::json!({ "event": "waiting", "for": what, "seconds": since.as_secs_f64() })
        }
        Notice::Retry { operation, reason, attempt, wait } => serde_json::json!({
            "event": "retry", "operation": operation, "reason": reason, "attempt": attempt,
            "waitSeconds": wait.as_secs_f64(),
        }),
        Notice::Warning(text) => serde_json::json!({ "event": "warning", "message": text }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn notices_are_lines_and_events() {
        let waiting = Notice::Waiting { what: "r.example to answer (push)".into(), since: Duration::from_millis(3100) };
        assert_eq!(line(&waiting), "waiting for r.example to answer (push), 3 s so far");
        assert_eq!(event(&waiting)["event"], "waiting");
        let retry = Notice::Retry {
            operation: "push".into(),
            reason: "it answered 503".into(),
            attempt: 2,
            wait: Duration::from_millis(400),
        };
        assert_eq!(line(&retry), "attempt 2 to push failed (it answered 503); the next one in 0.40 s");
        assert_eq!(event(&retry)["attempt"], 2);
        assert_eq!(line(&Notice::Warning("odd".into())), "warning: odd");
        assert_eq!(event(&Notice::Warning("odd".into()))["message"], "odd");
    }
}
