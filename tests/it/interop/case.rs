//! What is copied (a bundle as directory and as tar), and how what came back is compared with its source.

use std::{
    fs,
    path::{Path, PathBuf},
};

use snapcask::{
    Digest,
    export::{ExportOptions, Form, export},
    model::Generation,
};

use super::{
    registry::Registry,
    tools::{message, tool_command},
};
use crate::fixture::*;

/// What a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    OneSnapshot,
    Chain,
    ChainWithImage,
}

impl Content {
    pub const ALL: [Self; 3] = [Self::OneSnapshot, Self::Chain, Self::ChainWithImage];

    pub fn title(self) -> &'static str {
        match self {
            Self::OneSnapshot => "one snapshot",
            Self::Chain => "a chain of three",
            Self::ChainWithImage => "a chain of three with its image",
        }
    }
}

/// A store and its head's bundle in two forms.
pub struct Case {
    pub content: Content,
    pub fixture: Fixture,
    pub directory: PathBuf,
    pub tar: PathBuf,
    /// Oldest first: the tag (which is the snapshot's name) and the manifest.
    pub snapshots: Vec<(String, Digest)>,
}

impl Case {
    pub fn new(content: Content) -> Self {
        let fixture = Fixture::sized(Generation::Flat, 16 << 20);
        let (directory, tar) = (fixture.path("bundle"), fixture.path("bundle.tar"));
        let mut snapshots = Vec::new();
        for (form, path) in [(Form::Dir, &directory), (Form::Tar, &tar)] {
            let options = ExportOptions {
                with_parents: content != Content::OneSnapshot,
                with_image: content == Content::ChainWithImage,
                ..fixture.export_options(form, path)
            };
            let report = export(&options).unwrap();
            snapshots = report.snapshots.iter().rev().map(|s| (s.name.clone(), s.manifest.unwrap())).collect();
        }
        Self { content, fixture, directory, tar, snapshots }
    }

    pub fn head(&self) -> &(String, Digest) {
        self.snapshots.last().unwrap()
    }
}

/// Which snapshots a copy should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Everything,
    HeadOnly,
}

/// One case on its way through one registry and back. What fails is the text of what the tool, or the comparison, said.
pub struct Run<'a> {
    pub case: &'a Case,
    pub registry: &'a Registry,
    /// `HOST:PORT/REPOSITORY`.
    pub repository: String,
    /// A folder of this run's own.
    pub scratch: PathBuf,
}

impl<'a> Run<'a> {
    pub fn new(case: &'a Case, registry: &'a Registry, name: &str) -> Self {
        let scratch = case.fixture.path(&format!("run-{}-{name}", registry.port));
        fs::create_dir_all(&scratch).unwrap();
        Self { case, registry, repository: format!("{}/{name}", registry.host()), scratch }
    }

    /// A tagged reference in the run's repository.
    pub fn remote(&self, tag: &str) -> String {
        format!("{}:{tag}", self.repository)
    }

    /// A path of the run's own.
    pub fn local(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Runs a tool; what it prints, or the message with which it fails.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = tool_command(program, &self.scratch).args(arguments).output().unwrap();
        if output.status.success() { Ok(stdout(&output)) } else { Err(self.anonymous(&message(&output))) }
    }

    /// The text without what differs from run to run.
    fn anonymous(&self, text: &str) -> String {
        let (repository, host, folder) = (&self.repository, self.registry.host(), self.case.fixture.dir.path());
        text.replace(repository, "REGISTRY/REPOSITORY")
            .replace(&host, "REGISTRY")
            .replace(self.scratch.to_str().unwrap(), "DIR")
            .replace(folder.to_str().unwrap(), "DIR")
    }

    /// The registry serves these snapshots' manifests byte for byte, by digest and, those in `tagged`, by tag.
    pub fn is_in_registry(&self, expect: Expect, tagged: Expect) -> Result<(), String> {
        let repository = self.repository.split_once('/').unwrap().1;
        for (tag, digest) in &self.case.snapshots {
            let head = tag == &self.case.head().0;
            let references = [(expect, digest.to_string()), (tagged, tag.clone())];
            for (_, reference) in references.iter().filter(|(which, _)| head || *which == Expect::Everything) {
                match self.registry.manifest(repository, reference) {
                    Some(found) if found == *digest => {}
                    Some(found) => return Err(format!("{reference} is {found} in the registry, not {digest}")),
                    None => return Err(format!("the registry does not have {reference}")),
                }
            }
        }
        Ok(())
    }

    /// `snapcask import` of what came back places the same trees, and the same image-cache files.
    pub fn imports(&self, bundle: &Path, expect: Expect) -> Result<(), String> {
        let store = self.local(&format!("store-of-{}", bundle.file_name().unwrap().to_string_lossy()));
        let mut arguments = vec!["import".as_ref(), bundle.as_os_str(), "--store".as_ref(), store.as_os_str()];
        if expect == Expect::HeadOnly {
            arguments.push("--head-only".as_ref());
        }
        let output = run(arguments);
        if !output.status.success() {
            return Err(self.anonymous(&stderr(&output)));
        }
        for (name, _) in &self.case.snapshots {
            let placed = store.join("snapshots").join(name);
            if expect == Expect::HeadOnly && name != &self.case.head().0 {
                continue;
            }
            let source = self.case.fixture.snapshots.iter().find(|s| s.name == *name).unwrap();
            if tree(&source.directory) != tree(&placed) {
                return Err(format!("the files of {name} are not what they were"));
            }
        }
        if self.case.content == Content::ChainWithImage {
            self.same_cache(&store.join("cache"))?;
        }
        Ok(())
    }

    fn same_cache(&self, placed: &Path) -> Result<(), String> {
        let (source, placed) = (tree(&self.case.fixture.store.join("cache")), tree(placed));
        if placed.len() != 5 {
            return Err(format!("{} image-cache files came back, not 5", placed.len()));
        }
        // The VMDK names the store's own paths, and metadata goes under the key that can mean this image only.
        let is_there = |path: &String, file| match path.split('/').next() {
            Some("vmdk") => true,
            Some("manifests") => source.iter().any(|(other, was)| other.starts_with("manifests/") && was == file),
            _ => source.get(path) == Some(file),
        };
        match placed.iter().find(|(path, file)| !is_there(path, *file)) {
            Some((path, _)) => Err(format!("the image-cache file {path} is not what it was")),
            None => Ok(()),
        }
    }
}
