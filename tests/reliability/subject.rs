//! What is put to the test: one command, and what it makes.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use snapcask::{
    copy::{CopyOptions, copy},
    export::{Destination, ExportOptions, Form, export},
    import::BundleLocation,
    model::Generation,
    progress::Silent,
    reference::RegistryReference,
    registry::{CredentialFiles, Options},
};
use tempfile::TempDir;

use crate::{
    fixture::{Fixture, command, export_options, form_name},
    oracle::{BundleOracle, Oracle, StoreOracle},
    score::Effort,
    server::Server,
};

/// The logical size of the disks.
const DISK: u64 = 16 << 20;

/// A chain of three snapshots with its image, as a store and as a bundle.
pub struct Origin {
    pub fixture: Fixture,
    pub generation: Generation,
}

impl Origin {
    pub fn new(generation: Generation) -> Self {
        Self { fixture: Fixture::sized(generation, DISK), generation }
    }

    /// The bundle in this form, made once.
    pub fn bundle(&self, form: Form) -> PathBuf {
        let path = self.fixture.path(form_name(form));
        if !path.exists() {
            self.fixture.export_chain(form, &path);
        }
        path
    }
}

/// A folder to work in: in short, in memory, where an fsync costs nothing.
pub fn place(effort: Effort) -> TempDir {
    match effort {
        Effort::Short => in_memory(),
        Effort::Full => TempDir::new().unwrap(),
    }
}

/// A folder in memory if there is room, else on disk.
pub fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    match rustix::fs::statvfs(memory) {
        Ok(stat) if stat.f_bavail * stat.f_frsize >= 4 << 30 => TempDir::new_in(memory).unwrap(),
        _ => TempDir::new().unwrap(),
    }
}

/// A command whose every call can be spoiled, in a folder of its own.
pub struct Subject {
    pub name: String,
    /// Everything that it writes is below.
    pub area: PathBuf,
    /// Everything that it reads is below.
    pub origin: PathBuf,
    pub oracle: Oracle,
    pub arguments: Vec<String>,
    /// Of TMPDIR and of what the command prints: outside of the area.
    scratch: TempDir,
    /// The registry that it talks to.
    server: Option<Server>,
}

impl Subject {
    /// An import of the chain into an empty store below `area`.
    pub fn import(origin: &Origin, form: Form, area: &Path) -> Self {
        let (bundle, store) = (origin.bundle(form), area.join("store"));
        let arguments = ["import", bundle.to_str().unwrap(), "--store", store.to_str().unwrap(), "--jobs", "1"];
        Self::new("import", origin, form, area, &arguments, Oracle::Store(StoreOracle::new(&bundle, &store)))
    }

    /// An export of the chain into an empty folder below `area`.
    pub fn export(origin: &Origin, form: Form, area: &Path) -> Self {
        let (store, folder) = (&origin.fixture.store, area.join("out"));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(form_name(form));
        let oracle = BundleOracle::new(&folder, || {
            let options = export_options(store, "head", form, &path);
            export(&ExportOptions { with_parents: true, with_image: true, ..options }).unwrap();
        });
        let (to, from) = (path.to_str().unwrap(), store.to_str().unwrap());
        let arguments = ["export", "head", "-o", to, "--store", from, "--with-parents", "--with-image", "--jobs", "1"];
        Self::new("export", origin, form, area, &arguments, Oracle::Bundle(oracle))
    }

    /// A pull of the chain from a registry into an empty folder below `area`.
    pub fn pull(origin: &Origin, form: Form, area: &Path) -> Self {
        let (server, folder) = (Server::start(), area.join("out"));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(form_name(form));
        let options = Options { files: CredentialFiles::default(), cache: None, ..Options::default() };
        let registry: RegistryReference = server.reference("team/vm:head").parse().unwrap();
        let move_to = |source, destination, form| {
            let options = CopyOptions {
                source,
                bases: Vec::new(),
                tag: None,
                destination,
                form,
                force: true,
                jobs: 1,
                progress: Arc::new(Silent),
            };
            copy(&options).unwrap();
        };
        let there = || (registry.clone(), Box::new(options.clone()));
        let (reference, spoken) = there();
        let bundle = BundleLocation::path(origin.bundle(Form::Dir));
        move_to(bundle, Destination::Registry(reference, spoken), Form::Registry);
        let oracle = BundleOracle::new(&folder, || {
            let (reference, spoken) = there();
            move_to(BundleLocation::Registry(reference, spoken), Destination::Path(path.clone()), form);
        });
        let arguments = ["pull", &server.reference("team/vm:head"), "-o", path.to_str().unwrap(), "--jobs", "1"];
        let mut subject = Self::new("pull", origin, form, area, &arguments, Oracle::Bundle(oracle));
        subject.server = Some(server);
        subject
    }

    fn new(verb: &str, origin: &Origin, form: Form, area: &Path, arguments: &[&str], oracle: Oracle) -> Self {
        Self {
            name: format!("{verb} of a {} {}", origin.generation.as_str(), form.as_str()),
            area: area.into(),
            origin: origin.fixture.dir.path().into(),
            oracle,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            scratch: TempDir::new().unwrap(),
            server: None,
        }
    }

    /// The command, silent; [`Self::said`] tells what it said.
    pub fn command(&self) -> Command {
        let mut command = command(&self.arguments);
        command.env("TMPDIR", self.scratch.path()).stdout(Stdio::null());
        command.stderr(File::create(self.scratch.path().join("stderr")).unwrap());
        command
    }

    /// What it wrote to standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(self.scratch.path().join("stderr")).unwrap()
    }

    /// The same command again makes the result complete, and reclaims what was left.
    pub fn recover(&self) -> Result<(), String> {
        // A bundle that is there whole is not replaced without force.
        let there = matches!(self.oracle, Oracle::Bundle(_)) && self.oracle.check_complete().is_ok();
        let code = self.command().status().unwrap().code();
        if code != Some(if there { 5 } else { 0 }) {
            return Err(format!("run again, it ends with {code:?}: {}", self.said()));
        }
        self.oracle.check_complete().map_err(|e| format!("run again, {e}"))
    }
}
