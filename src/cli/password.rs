//! User names and passwords: from standard input, or asked for on the terminal, where a password is not shown.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, IsTerminal, Read, Write, stdin},
    sync::{Mutex, PoisonError},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use snapcask::{Error, Result, error::IoContext, reference::Host, registry::Credentials};

use super::output::clean;

/// Most bytes that are read of standard input, or of a line on the terminal.
const MAX_INPUT: u64 = 64 << 10;
/// The terminal, wherever the standard streams lead.
const TERMINAL: &str = "/dev/tty";

/// How the terminal was before it stopped to show what is typed.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The credentials of a user: `from_stdin`, or with a password that is asked for. `flag` is what else gives it.
///
/// # Errors
/// [`Error::Usage`]: there is nobody to ask, or the password is empty.
pub fn given(username: &str, host: &Host, from_stdin: bool, flag: &str) -> Result<Credentials> {
    let password = match from_stdin {
        true => lines(1)?.remove(0),
        false => asked(username, host, flag)?,
    };
    Credentials::basic(username, &password)
}

/// A password that is asked for on the terminal. `flag` is what else gives it.
///
/// # Errors
/// [`Error::Usage`]: standard input is no terminal, so nobody can be asked.
pub fn asked(username: &str, host: &Host, flag: &str) -> Result<String> {
    if !stdin().is_terminal() {
        let text = format!(
            "nobody can be asked for the password of {username:?}: standard input is no terminal; give it with {flag}"
        );
        return Err(Error::Usage(text));
    }
    match hidden(&format!("Password of {} at {host}: ", clean(username)))? {
        password if password.is_empty() => Err(Error::Usage("the password is empty".into())),
        password => Ok(password),
    }
}

/// The name of a user, asked for on the terminal.
///
/// # Errors
/// [`Error::Usage`]: standard input is no terminal, so nobody can be asked.
pub fn username(host: &Host) -> Result<String> {
    if !stdin().is_terminal() {
        return Err(Error::Usage("name the user with --username and give the password with --password-stdin".into()));
    }
    let mut terminal = open()?;
    ask(&mut terminal, &format!("User name at {host}: "))
}

/// The passwords on standard input, one a line.
///
/// # Errors
/// [`Error::Usage`]: it is a terminal, or has not so many lines.
pub fn lines(count: usize) -> Result<Vec<String>> {
    if stdin().is_terminal() {
        let text = "a password is not read from a terminal; redirect the input (`< password-file`), or leave the option out and \
                    be asked for it";
        return Err(Error::Usage(text.into()));
    }
    let mut text = String::new();
    stdin().lock().take(MAX_INPUT).read_to_string(&mut text).context("read", "standard input")?;
    let text = text.trim_end_matches(['\r', '\n']);
    // One password is everything: nothing is left out of it.
    let lines: Vec<String> = match count {
        1 => vec![text.to_owned()],
        _ => text.lines().map(str::to_owned).collect(),
    };
    // A secret that is not set, in most cases.
    if lines.iter().any(String::is_empty) {
        return Err(Error::Usage("the password on standard input is empty".into()));
    }
    if lines.len() != count {
        let text = format!("standard input has {} lines, and not {count} passwords, one a line", lines.len());
        return Err(Error::Usage(text));
    }
    Ok(lines)
}

/// Shows again what is typed, also where a run ends while it asks.
pub fn show_again() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Some(before), Ok(terminal)) = (before, open()) {
        let _ = tcsetattr(&terminal, OptionalActions::Now, &before);
    }
}

fn open() -> Result<File> {
    OpenOptions::new().read(true).write(true).open(TERMINAL).context("open", TERMINAL)
}

/// Not a library's: what hides the input there shows it again when a function returns, and Ctrl-C ends the process.
fn hidden(question: &str) -> Result<String> {
    let mut terminal = open()?;
    let before = tcgetattr(&terminal).context("look at", TERMINAL)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON);
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    let hidden = tcsetattr(&terminal, OptionalActions::Flush, &silent).context("hide the input of", TERMINAL);
    let answer = hidden.and_then(|()| ask(&mut terminal, question));
    show_again();
    answer
}

fn ask(terminal: &mut File, question: &str) -> Result<String> {
    terminal.write_all(question.as_bytes()).context("write to", TERMINAL)?;
    let mut answer = Vec::new();
    // A terminal gives a line at a time: the next one stays for the next question.
    BufReader::new(terminal.take(MAX_INPUT)).read_until(b'\n', &mut answer).context("read", TERMINAL)?;
    answer.pop_if(|last| *last == b'\n');
    String::from_utf8(answer).map_err(|_| Error::Usage("what was typed is no UTF-8".into()))
}
