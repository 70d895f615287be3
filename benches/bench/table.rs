//! What was measured, beside what was promised.

use std::fmt::Write;

/// A figure and its target.
pub struct Row {
    what: String,
    /// How the figure is shown.
    shown: String,
    target: String,
    met: bool,
    detail: String,
}

impl Row {
    /// A ratio that may be at most `most`.
    pub fn ratio(what: impl Into<String>, ratio: f64, most: f64, detail: impl Into<String>) -> Self {
        let (what, detail) = (what.into(), detail.into());
        Self { what, shown: format!("{ratio:.2} x"), target: format!("at most {most} x"), met: ratio <= most, detail }
    }

    /// A ratio that must be at least `least`.
    pub fn at_least(what: impl Into<String>, ratio: f64, least: f64, detail: impl Into<String>) -> Self {
        let (what, detail) = (what.into(), detail.into());
        Self {
            what,
            shown: format!("{ratio:.1} x"),
            target: format!("at least {least} x"),
            met: ratio >= least,
            detail,
        }
    }

    /// A figure in a unit, at most `most` of it.
    pub fn most(what: impl Into<String>, value: f64, most: f64, unit: &str, detail: impl Into<String>) -> Self {
        let digits = if value >= 10.0 || value == 0.0 { 0 } else { 2 };
        Self {
            what: what.into(),
            shown: format!("{value:.digits$} {unit}"),
            target: format!("at most {most} {unit}"),
            met: value <= most,
            detail: detail.into(),
        }
    }
}

/// The rows as a Markdown table.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| | measured | target | | figures |\n|---|--:|--:|---|---|\n");
    for row in rows {
        let Row { what, shown, target, met, detail } = row;
        let met = if *met { "met" } else { "**missed**" };
        let _ = writeln!(text, "| {what} | {shown} | {target} | {met} | {detail} |");
    }
    text
}
