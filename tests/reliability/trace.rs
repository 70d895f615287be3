//! Runs a command and stops it at every system call that touches a folder: to watch, to kill, to fail, to freeze.
//!
//! As `strace -f -e inject`, but with one counter for all threads, so that "the 17th call" is one place in the run,
//! and with a callback while the process stands still.

use std::{
    ffi::CString,
    fs, io, mem,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// What a call does to the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only looks.
    Looks,
    /// It changes something.
    Mutates,
    /// It makes something durable.
    Syncs,
    /// It gives something its name: rename and link.
    Names,
}

/// A system call that touches the watched folder.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counted from 1, over all threads.
    pub number: u64,
    pub name: &'static str,
    pub path: PathBuf,
    /// The new name of a rename or link.
    pub to: Option<PathBuf>,
    /// Whether a rename exchanges the two names.
    pub exchanges: bool,
    pub kind: Kind,
    /// What it returned; 0 before.
    pub result: i64,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "call {} ({} {})", self.number, self.name, self.path.display())
    }
}

/// When in a call the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Before,
    After,
}

/// What becomes of a call; only [`Phase::Before`] it has a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Run,
    /// SIGKILL: the call does not happen.
    Kill,
    /// It fails with this errno, and does not happen.
    Fail(i32),
    /// As [`Verdict::Fail`]; and none of the calls that follow is stopped at.
    FailLast(i32),
    /// It claims to have succeeded, and does not happen.
    Skip,
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
}

/// How a call is recognised: number, name, the argument that names what it touches, what it does.
struct Known(i64, &'static str, Argument, Kind);

#[derive(Clone, Copy)]
enum Argument {
    Path(usize),
    /// Relative to the folder of the argument before it.
    At(usize),
    Handle(usize),
}

use Argument::{At, Handle, Path as Text};
use Kind::{Looks, Mutates, Names, Syncs};

const KNOWN: &[Known] = &[
    Known(libc::SYS_open, "open", Text(0), Looks),
    Known(libc::SYS_openat, "openat", At(1), Looks),
    Known(libc::SYS_openat2, "openat2", At(1), Looks),
    Known(libc::SYS_creat, "creat", Text(0), Mutates),
    Known(libc::SYS_mkdir, "mkdir", Text(0), Mutates),
    Known(libc::SYS_mkdirat, "mkdirat", At(1), Mutates),
    Known(libc::SYS_rename, "rename", Text(0), Names),
    Known(libc::SYS_renameat, "renameat", At(1), Names),
    Known(libc::SYS_renameat2, "renameat2", At(1), Names),
    Known(libc::SYS_link, "link", Text(0), Names),
    Known(libc::SYS_linkat, "linkat", At(1), Names),
    Known(libc::SYS_symlink, "symlink", Text(1), Mutates),
    Known(libc::SYS_symlinkat, "symlinkat", At(2), Mutates),
    Known(libc::SYS_unlink, "unlink", Text(0), Mutates),
    Known(libc::SYS_unlinkat, "unlinkat", At(1), Mutates),
    Known(libc::SYS_rmdir, "rmdir", Text(0), Mutates),
    Known(libc::SYS_chmod, "chmod", Text(0), Mutates),
    Known(libc::SYS_fchmod, "fchmod", Handle(0), Mutates),
    Known(libc::SYS_fchmodat, "fchmodat", At(1), Mutates),
    Known(libc::SYS_truncate, "truncate", Text(0), Mutates),
    Known(libc::SYS_ftruncate, "ftruncate", Handle(0), Mutates),
    Known(libc::SYS_fallocate, "fallocate", Handle(0), Mutates),
    Known(libc::SYS_write, "write", Handle(0), Mutates),
    Known(libc::SYS_pwrite64, "pwrite64", Handle(0), Mutates),
    Known(libc::SYS_writev, "writev", Handle(0), Mutates),
    Known(libc::SYS_pwritev, "pwritev", Handle(0), Mutates),
    Known(libc::SYS_pwritev2, "pwritev2", Handle(0), Mutates),
    Known(libc::SYS_copy_file_range, "copy_file_range", Handle(2), Mutates),
    Known(libc::SYS_sendfile, "sendfile", Handle(0), Mutates),
    Known(libc::SYS_ioctl, "ioctl", Handle(0), Mutates),
    Known(libc::SYS_flock, "flock", Handle(0), Mutates),
    Known(libc::SYS_utimensat, "utimensat", At(1), Mutates),
    Known(libc::SYS_fsync, "fsync", Handle(0), Syncs),
    Known(libc::SYS_fdatasync, "fdatasync", Handle(0), Syncs),
    Known(libc::SYS_syncfs, "syncfs", Handle(0), Syncs),
    Known(libc::SYS_sync_file_range, "sync_file_range", Handle(0), Looks),
    Known(libc::SYS_read, "read", Handle(0), Looks),
    Known(libc::SYS_pread64, "pread64", Handle(0), Looks),
    Known(libc::SYS_readv, "readv", Handle(0), Looks),
    Known(libc::SYS_preadv, "preadv", Handle(0), Looks),
    Known(libc::SYS_lseek, "lseek", Handle(0), Looks),
    Known(libc::SYS_stat, "stat", Text(0), Looks),
    Known(libc::SYS_lstat, "lstat", Text(0), Looks),
    Known(libc::SYS_fstat, "fstat", Handle(0), Looks),
    Known(libc::SYS_newfstatat, "newfstatat", At(1), Looks),
    Known(libc::SYS_statx, "statx", At(1), Looks),
    Known(libc::SYS_statfs, "statfs", Text(0), Looks),
    Known(libc::SYS_fstatfs, "fstatfs", Handle(0), Looks),
    Known(libc::SYS_getdents64, "getdents64", Handle(0), Looks),
    Known(libc::SYS_readlink, "readlink", Text(0), Looks),
    Known(libc::SYS_readlinkat, "readlinkat", At(1), Looks),
    Known(libc::SYS_access, "access", Text(0), Looks),
    Known(libc::SYS_faccessat, "faccessat", At(1), Looks),
    Known(libc::SYS_faccessat2, "faccessat2", At(1), Looks),
    Known(libc::SYS_fcntl, "fcntl", Handle(0), Looks),
];

/// Runs `command`, asking `decide` before and after every call that touches one of the `watched` folders.
pub fn trace(
    command: &mut Command,
    watched: &[&Path],
    mut decide: impl FnMut(&Call, Phase) -> Verdict,
) -> io::Result<Ended> {
    // SAFETY: ptrace(2) is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0, 0).map(drop));
    }
    let child = command.spawn()?;
    let leader = child.id() as i32;
    let mut tracer = Tracer { watched, count: 0, inside: Vec::new(), began: Vec::new(), done: false };
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_EXITKILL
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK;
    let mut ended = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the status. Only children of this thread: others may trace, too.
        let thread = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        if thread < 0 {
            match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::EINTR) => continue,
                e if e.raw_os_error() == Some(libc::ECHILD) => break,
                e => return Err(e),
            }
        }
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            tracer.inside.retain(|(t, _)| *t != thread);
            if thread == leader {
                ended = Some(if libc::WIFEXITED(status) {
                    Ended::Code(libc::WEXITSTATUS(status))
                } else {
                    Ended::Signal(libc::WTERMSIG(status))
                });
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let mut deliver = 0;
        if signal == libc::SIGTRAP | 0x80 {
            if tracer.stopped(thread, &mut decide) == Some(Verdict::Kill) {
                // SAFETY: a signal to our own child.
                unsafe { libc::kill(leader, libc::SIGKILL) };
            }
        } else if !tracer.began.contains(&thread) {
            // The stop of exec, or of a new thread: not to be delivered.
            tracer.began.push(thread);
            if thread == leader {
                ptrace(libc::PTRACE_SETOPTIONS, leader, 0, options as usize)?;
            }
        } else if status >> 16 == 0 {
            deliver = signal;
        }
        // A call that was failed still gets its result, when it returns.
        let stops = !tracer.done || tracer.inside.iter().any(|(t, _)| *t == thread);
        let resume = if stops { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
        // A thread that was killed meanwhile is gone; that is seen by waiting.
        let _ = ptrace(resume, thread, 0, deliver as usize);
    }
    ended.ok_or_else(|| io::Error::other("the command vanished"))
}

fn ptrace(request: libc::c_uint, thread: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: every caller passes what its request wants.
    match unsafe { libc::ptrace(request, thread, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

struct Tracer<'a> {
    watched: &'a [&'a Path],
    count: u64,
    /// Threads within a call that matters, with what its result shall be.
    inside: Vec<(i32, (Call, Option<i64>))>,
    began: Vec<i32>,
    /// A call was failed: what follows takes its course.
    done: bool,
}

impl Tracer<'_> {
    fn stopped(&mut self, thread: i32, decide: &mut impl FnMut(&Call, Phase) -> Verdict) -> Option<Verdict> {
        // SAFETY: all bits zero are a valid value of this plain struct.
        let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
        let place = &raw mut info as usize;
        ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size_of_val(&info), place).ok()?;
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            let at = self.inside.iter().position(|(t, _)| *t == thread)?;
            let (_, (mut call, result)) = self.inside.swap_remove(at);
            // SAFETY: at an exit, this member of the union is the one that is set.
            call.result = result.unwrap_or(unsafe { info.u.exit }.sval);
            if let Some(result) = result {
                change(thread, |registers| registers.rax = result as u64).ok()?;
            }
            return Some(decide(&call, Phase::After));
        }
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY || self.done {
            return None;
        }
        // SAFETY: at an entry, this member of the union is the one that is set.
        let entry = unsafe { info.u.entry };
        let Known(number, name, argument, kind) = KNOWN.iter().find(|k| k.0 as u64 == entry.nr)?;
        let path = match *argument {
            Argument::Handle(at) => handle(thread, entry.args[at])?,
            Argument::Path(at) => absolute(thread, libc::AT_FDCWD as u64, &text(thread, entry.args[at])?)?,
            Argument::At(at) => absolute(thread, entry.args[at - 1], &text(thread, entry.args[at])?)?,
        };
        if !self.watched.iter().any(|folder| path.starts_with(folder)) {
            return None;
        }
        let opens = match *number {
            libc::SYS_open => Some(entry.args[1]),
            libc::SYS_openat => Some(entry.args[2]),
            libc::SYS_openat2 => Some(u64::from_ne_bytes(memory(thread, entry.args[2], 8)?.try_into().ok()?)),
            _ => None,
        };
        let writes = (libc::O_CREAT | libc::O_TRUNC) as u64;
        // Only the two that clone change anything.
        let clones = [libc::FICLONE, libc::FICLONERANGE].contains(&(entry.args[1] as _));
        let kind = match opens {
            Some(flags) if flags & writes != 0 || flags & libc::O_TMPFILE as u64 == libc::O_TMPFILE as u64 => Mutates,
            _ if *number == libc::SYS_ioctl && !clones => Looks,
            _ => *kind,
        };
        let to = match *number {
            libc::SYS_rename | libc::SYS_link => absolute(thread, libc::AT_FDCWD as u64, &text(thread, entry.args[1])?),
            libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
                absolute(thread, entry.args[2], &text(thread, entry.args[3])?)
            }
            _ => None,
        };
        self.count += 1;
        let exchanges = *number == libc::SYS_renameat2 && entry.args[4] & u64::from(libc::RENAME_EXCHANGE) != 0;
        let call = Call { number: self.count, name, path, to, exchanges, kind, result: 0 };
        let verdict = decide(&call, Phase::Before);
        let result = match verdict {
            Verdict::Fail(errno) | Verdict::FailLast(errno) => Some(-i64::from(errno)),
            Verdict::Skip => Some(0),
            _ => None,
        };
        if result.is_some() {
            change(thread, |registers| registers.orig_rax = u64::MAX).ok()?;
        }
        self.done = matches!(verdict, Verdict::FailLast(_));
        self.inside.push((thread, (call, result)));
        Some(verdict)
    }
}

fn change(thread: i32, change: impl FnOnce(&mut libc::user_regs_struct)) -> io::Result<()> {
    // SAFETY: all bits zero are a valid value of this plain struct.
    let mut registers: libc::user_regs_struct = unsafe { mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, thread, 0, &raw mut registers as usize)?;
    change(&mut registers);
    ptrace(libc::PTRACE_SETREGS, thread, 0, &raw const registers as usize).map(drop)
}

fn handle(thread: i32, number: u64) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{thread}/fd/{}", number as i32)).ok()
}

fn absolute(thread: i32, folder: u64, path: &str) -> Option<PathBuf> {
    if path.starts_with('/') {
        return Some(path.into());
    }
    let folder = match folder as i32 {
        libc::AT_FDCWD => fs::read_link(format!("/proc/{thread}/cwd")).ok()?,
        _ => handle(thread, folder)?,
    };
    Some(if path.is_empty() { folder } else { folder.join(path) })
}

/// The text at an address of the process.
fn text(thread: i32, address: u64) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        // Up to the end of a page: what follows may not be there.
        let at = address + bytes.len() as u64;
        let piece = memory(thread, at, (4096 - at % 4096).min(256) as usize)?;
        if let Some(end) = piece.iter().position(|b| *b == 0) {
            bytes.extend_from_slice(&piece[..end]);
            return CString::new(bytes).ok()?.into_string().ok();
        }
        bytes.extend(piece);
    }
}

fn memory(thread: i32, address: u64, length: usize) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; length];
    fs::File::open(format!("/proc/{thread}/mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}
