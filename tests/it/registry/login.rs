//! `login`: what it asks on a terminal, what it refuses, and who can read what it keeps.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use super::{
    home::*,
    server::{Behaviour, Server},
};
use crate::{fixture::*, interop::tools::have};

const USER: &str = "ann:secret-of-ann";

fn registry() -> (Server, String) {
    let server = Server::start();
    server.behave(Behaviour { basic: Some(USER), ..Default::default() });
    let host = format!("127.0.0.1:{}", server.port);
    (server, host)
}

/// A program on a terminal of its own.
struct OnTerminal {
    child: Child,
    master: File,
    /// Keeps the terminal when the program has ended.
    slave: File,
    seen: String,
}

impl OnTerminal {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = || File::options().read(true).write(true).open(&name).unwrap();
        let program = command_at(home, arguments);
        // It becomes the terminal's own session, as a shell's program is.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(program.get_args()).current_dir(home);
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        Self { child, master: master.into(), slave: slave(), seen: String::new() }
    }

    /// Waits for this text, and types the answer.
    fn answers(&mut self, question: &str, answer: &str) {
        let mut byte = [0];
        while !self.seen.ends_with(question) {
            self.master.read_exact(&mut byte).unwrap();
            self.seen.push(byte[0].into());
        }
        self.master.write_all(answer.as_bytes()).unwrap();
    }

    /// Waits for the end: its code, all that was seen, and whether the terminal shows again what is typed.
    fn end(mut self) -> (Option<i32>, String, bool) {
        let code = self.child.wait().unwrap().code();
        let shows = tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO);
        drop(self.slave);
        let mut rest = Vec::new();
        // The other end is closed: that is an error here.
        let _ = self.master.read_to_end(&mut rest);
        self.seen += &String::from_utf8_lossy(&rest);
        (code, self.seen, shows)
    }
}

#[test]
fn login_asks_on_the_terminal_and_shows_no_password() {
    let (server, host) = registry();
    for (arguments, asks_for_name) in [
        (vec!["login", &host], true),
        (vec!["login", &host, "-u", "ann"], false),
        (vec!["tags", "", "-u", "ann"], false),
    ] {
        let home = home();
        let place = server.reference("vm");
        let arguments: Vec<&str> =
            arguments.into_iter().map(|a| if a.is_empty() { place.as_str() } else { a }).collect();
        let mut program = OnTerminal::start(home.path(), &arguments);
        if asks_for_name {
            program.answers(&format!("User name at {host}: "), "ann\n");
        }
        program.answers(&format!("Password of ann at {host}: "), "secret-of-ann\n");
        let (code, seen, shows) = program.end();
        assert!(!seen.contains("secret") && shows, "{seen}");
        match arguments[0] {
            "login" => assert!(code == Some(0) && seen.contains(&format!("logged in to {host}; ")), "{seen}"),
            _ => assert!(code == Some(4) && seen.contains("has no such repository"), "{seen}"),
        }
    }
}

#[test]
fn password_that_is_wrong_empty_or_given_up_leaves_nothing() {
    let (_server, host) = registry();
    let home = home();
    for (answer, code, said) in [
        ("guess\n", 1, "refuses the credentials"),
        ("\n", 2, "the password is empty"),
        ("\x04", 2, "the password is empty"),
        ("\x03", 130, "interrupted"),
    ] {
        let mut program = OnTerminal::start(home.path(), &["login", &host, "--username", "ann"]);
        program.answers(&format!("Password of ann at {host}: "), answer);
        let (ended, seen, shows) = program.end();
        assert!(ended == Some(code) && seen.contains(said) && !seen.contains("guess"), "{answer:?}: {ended:?} {seen}");
        assert!(shows, "{answer:?}: the terminal stays silent");
    }
    assert!(!home.path().join(".docker").exists());
}

#[test]
fn what_names_no_registry_is_told_why() {
    let home = home();
    let whole = "credentials are kept for a whole registry; leave out what is behind its name";
    let port = "the port is not 1 to 65535";
    let label = "the host has a part that is not 1 to 63 letters, digits and inner '-'";
    for (text, reason) in [
        ("host/x", whole),
        ("host:5000/team/vm", whole),
        ("oci://host/x", whole),
        ("host/", whole),
        ("https://host", "it begins with a scheme; leave that out"),
        ("ann@host", "it names a user; --username does"),
        ("host:0", port),
        ("host:65536", port),
        ("host:port", port),
        ("host:", port),
        ("", label),
        ("ho st", label),
        ("ho_st", label),
        ("-host", label),
        ("host.", label),
        ("[::g]:5000", "what is in brackets is no IPv6 address"),
    ] {
        for verb in [&["login", "--username", "ann", "--password-stdin", "--", text][..], &["logout", "--", text]] {
            let output = command_at(home.path(), verb).output().unwrap();
            says(&output, 2, &format!("invalid registry {text:?}: {reason}; it is written HOST[:PORT]"));
        }
    }
    let output = command_at(home.path(), &["login", "host"]).output().unwrap();
    says(&output, 2, "name the user with --username and give the password with --password-stdin");
    let output = command_at(home.path(), &["login", "host", "-u", "ann"]).output().unwrap();
    let text =
        "nobody can be asked for the password of \"ann\": standard input is no terminal; give it with --password-stdin";
    says(&output, 2, text);
}

/// Who opens a file while others may read it can read what is written when they may not any more.
#[test]
fn credentials_are_for_their_owner_alone_from_the_first_byte() {
    if !have("credentials_are_for_their_owner_alone_from_the_first_byte", &["strace"]) {
        return;
    }
    let (_server, host) = registry();
    let home = home();
    let trace = home.path().join("trace");
    let program = command_at(home.path(), &["login", &host, "-u", "ann", "--password-stdin"]);
    // Without a mask, as some have it.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "umask 0; exec strace -f -o \"$0\" -e trace=openat,mkdir,mkdirat,chmod,fchmod,rename,renameat,renameat2 \"$@\"",
    ]);
    command.arg(&trace).arg(program.get_program()).args(program.get_args()).current_dir(home.path());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret-of-ann\n").unwrap();
    succeeds(&child.wait_with_output().unwrap());
    let text = fs::read_to_string(&trace).unwrap();
    let of = |call: &str, name: &str| -> Vec<&str> {
        let is_it = |line: &&str| line.contains(call) && line.contains(name) && !line.contains("= -1");
        text.lines().filter(is_it).collect()
    };
    let made = of("mkdir", ".docker");
    assert!(made.len() == 1 && made[0].contains(".docker\", 0700)"), "{made:?}");
    let created: Vec<&str> = of("openat(", "/.docker/").into_iter().filter(|line| line.contains("O_CREAT")).collect();
    assert!(created.len() == 1 && created[0].contains(", 0600)"), "{created:?}");
    let (folder, file) = (home.path().join(".docker"), home.path().join(".docker/config.json"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}
