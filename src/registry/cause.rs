//! What lies behind a failed exchange.

use std::{error::Error as _, io};

use rustls::AlertDescription;

use super::trust::Distrust;

/// What is known to lie behind a failed exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No certificate for this host, or none that is trusted.
    Distrust(Distrust),
    /// What answers refuses to speak TLS with us.
    Alert(AlertDescription),
    /// What answers does not speak TLS.
    NoTls,
    /// The resolver knows no such host.
    UnknownHost,
    /// Nobody listens, or the resolver itself does not answer.
    Refused,
    /// Anything else.
    Other,
}

/// The first known one among an error's causes.
pub(super) fn cause_of(error: &(dyn std::error::Error + 'static)) -> Cause {
    let mut resolving = false;
    let mut next = Some(error);
    while let Some(error) = next {
        // What stands inside of an I/O error is passed over by its `source`.
        let io = error.downcast_ref::<io::Error>();
        let inside = io.and_then(io::Error::get_ref).map(|inside| inside as &(dyn std::error::Error + 'static));
        match error.downcast_ref() {
            Some(rustls::Error::InvalidMessage(_)) => return Cause::NoTls,
            Some(rustls::Error::AlertReceived(alert)) if is_lasting(*alert) => return Cause::Alert(*alert),
            Some(other) => {
                if let Some(distrust) = Distrust::of(other) {
                    return Cause::Distrust(distrust);
                }
            }
            None => {}
        }
        if io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused) {
            return Cause::Refused;
        }
        resolving |= error.to_string().starts_with("dns error");
        next = inside.or_else(|| error.source());
        if next.is_none() && resolving {
            let passing = error.to_string().contains("Temporary failure");
            return if passing { Cause::Refused } else { Cause::UnknownHost };
        }
    }
    Cause::Other
}

/// Whether another attempt would be answered with the same alert.
fn is_lasting(alert: AlertDescription) -> bool {
    !matches!(alert, AlertDescription::CloseNotify | AlertDescription::UserCanceled | AlertDescription::InternalError)
}

/// An error with its causes, and without its URL, whose query may be a secret.
pub(super) fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
