//! One kind's way out of a store and into another, by `snapcask` or by `msb`, and what `msb` then does with what arrived.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    compare::{self, Names},
    placed::{self, Placed},
    program::Msb,
    source::{Kind, Source, Subject},
};

/// Who packs: what is packed is imported by us in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packer {
    /// `snapcask export`.
    Snapcask,
    /// `msb snapshot export`.
    Msb,
}

impl Packer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Snapcask, Self::Msb];

    /// The table's title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Snapcask => "`snapcask export`, `snapcask import`, then `msb`",
            Self::Msb => "`msb snapshot export`, `snapcask import`, then `msb`",
        }
    }
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Packing all snapshots with their image.
    Export,
    /// `snapcask import` into an empty store.
    Import,
    /// `msb snapshot ls` names all that arrived and nothing else.
    List,
    /// `msb snapshot inspect PATH`.
    InspectPath,
    /// `msb snapshot inspect GROUP:MEMBER`.
    InspectName,
    /// `msb snapshot verify`.
    Verify,
    /// `msb snapshot export`, and `msb snapshot import` of that somewhere else.
    MsbExport,
    /// `msb snapshot import` of the youngest into the group that we placed the others in.
    ImportInto,
    /// `snapcask import --group` of all into a group in which `msb` has placed all but the youngest.
    Join,
    /// `msb snapshot head`, read and selected.
    Head,
    /// The same files as after `msb snapshot import`.
    Files,
    /// `msb snapshot rm`, until nothing is left.
    Remove,
}

impl Step {
    /// In the order in which they run; removal is the last, because nothing is left after it.
    pub const ALL: [Self; 12] = [
        Self::Export,
        Self::Import,
        Self::List,
        Self::InspectPath,
        Self::InspectName,
        Self::Verify,
        Self::MsbExport,
        Self::ImportInto,
        Self::Join,
        Self::Head,
        Self::Files,
        Self::Remove,
    ];

    /// The column's title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Import => "import",
            Self::List => "ls",
            Self::InspectPath => "inspect path",
            Self::InspectName => "inspect name",
            Self::Verify => "verify",
            Self::MsbExport => "export again",
            Self::ImportInto => "import into",
            Self::Join => "join",
            Self::Head => "head",
            Self::Files => "same files",
            Self::Remove => "rm",
        }
    }
}

/// How a step ends; what went wrong is text.
pub type Ended = Result<Outcome, String>;

/// A step that did not go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Did what it should.
    Works,
    /// There is nothing to do: snapshots without a group have no head.
    DoesNotApply,
}

/// A store of one kind with everything that is made of it.
pub struct Journey {
    kind: Kind,
    source: Source,
    /// What `snapcask` packed: all, and all but the youngest.
    bundles: Result<[PathBuf; 2], String>,
    /// What `msb` packed.
    archives: Archives,
    /// A home into which `msb` imported its own archives.
    reference: Msb,
}

/// Archives of `msb`.
struct Archives {
    /// All snapshots.
    all: Vec<PathBuf>,
    /// All but the youngest.
    older: Vec<PathBuf>,
    /// The youngest alone.
    youngest: PathBuf,
}

/// One packer's part of a journey.
pub struct Leg<'a> {
    journey: &'a Journey,
    packer: Packer,
    target: OnceCell<Result<Msb, String>>,
}

impl Journey {
    /// Makes the store and packs it; our export comes first, because `msb` migrates what it touches.
    pub fn new(kind: Kind) -> Self {
        let source = Source::new(kind);
        let bundles = pack(&source);
        let archives = archive(kind, &source);
        let reference = Msb::new(&source.path("reference"));
        import_archives(&reference, &archives.all, &[]).unwrap();
        Self { kind, source, bundles, archives, reference }
    }

    /// The leg of one packer.
    pub fn leg(&self, packer: Packer) -> Leg<'_> {
        Leg { journey: self, packer, target: OnceCell::new() }
    }
}

/// `snapcask export` of the whole chain, and of all but the youngest.
fn pack(source: &Source) -> Result<[PathBuf; 2], String> {
    let pack = |subject: &Subject, name: &str| -> Result<PathBuf, String> {
        let path = source.path(name);
        let selector = match &subject.group {
            Some(group) => format!("{group}:{}", subject.name),
            None => subject.name.clone(),
        };
        let destination = path.to_str().unwrap();
        source.msb.snapcask(&["export", &selector, "-o", destination, "--with-parents", "--with-image"])?;
        Ok(path)
    };
    let older = &source.subjects[source.subjects.len() - 2];
    Ok([pack(source.head(), "all.tar.zst")?, pack(older, "older.tar.zst")?])
}

/// `msb snapshot export` of every snapshot. Chains that share layers go into an archive for each snapshot, because `msb`
/// refuses what it writes of them with `--with-parents` ("duplicate entry").
fn archive(kind: Kind, source: &Source) -> Archives {
    let export = |subject: &Subject, name: &str, more: &[&str]| {
        let path = source.path(&format!("{name}.msb"));
        let mut arguments =
            vec!["snapshot", "export", subject.directory.to_str().unwrap(), "-o", path.to_str().unwrap()];
        arguments.push("--with-image");
        arguments.extend(more);
        source.msb.ok(&arguments);
        path
    };
    // A parent without a group is found by the index alone.
    source.msb.ok(&["snapshot", "reindex"]);
    let (youngest, older) = source.subjects.split_last().unwrap();
    let alone = export(youngest, "youngest", &[]);
    if kind == Kind::Stack {
        let older: Vec<PathBuf> = older.iter().map(|s| export(s, &s.name, &[])).collect();
        let all = older.iter().cloned().chain([alone.clone()]).collect();
        return Archives { all, older, youngest: alone };
    }
    let all = export(youngest, "all", &["--with-parents"]);
    let older = export(older.last().unwrap(), "older", &["--with-parents"]);
    Archives { all: vec![all], older: vec![older], youngest: alone }
}

fn import_archives(msb: &Msb, archives: &[PathBuf], more: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["snapshot", "import"];
    arguments.extend(archives.iter().map(|path| path.to_str().unwrap()));
    arguments.extend(more);
    msb.tried(&arguments)
}

fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Leg<'_> {
    /// Runs one step.
    pub fn run(&self, step: Step) -> Ended {
        if step == Step::Export {
            return match self.packer {
                Packer::Snapcask => self.journey.bundles.clone().map(|_| Outcome::Works),
                Packer::Msb => Ok(Outcome::Works),
            };
        }
        let msb = self.target()?;
        match step {
            Step::Export | Step::Import => {}
            Step::List => self.list(msb)?,
            Step::InspectPath => self.each(msb, |subject, placed| {
                inspected(&msb.tried(&["snapshot", "inspect", placed.path()])?, subject)
            })?,
            Step::InspectName => self.inspect_names(msb)?,
            Step::Verify => {
                self.each(msb, |_, placed| msb.tried(&["snapshot", "verify", placed.path()]).map(|_| ()))?
            }
            Step::MsbExport => self.export_again(msb)?,
            Step::ImportInto => self.import_into()?,
            Step::Join => return self.join(),
            Step::Head => return self.head(msb),
            Step::Files => self.files(msb)?,
            Step::Remove => self.remove(msb)?,
        }
        Ok(Outcome::Works)
    }

    /// The home into which we imported everything.
    fn target(&self) -> Result<&Msb, String> {
        let import = || {
            let msb = Msb::new(&self.journey.source.path(&format!("target of {:?}", self.packer)));
            import(&msb, &self.everything()?, &[]).map(|()| msb)
        };
        self.target
            .get_or_init(|| import().map_err(|said: String| format!("not imported: {said}")))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// What holds all snapshots.
    fn everything(&self) -> Result<Vec<PathBuf>, String> {
        match self.packer {
            Packer::Snapcask => Ok(vec![self.journey.bundles.clone()?[0].clone()]),
            Packer::Msb => Ok(self.journey.archives.all.clone()),
        }
    }

    /// Something of each snapshot that should be there.
    fn each(&self, msb: &Msb, check: impl Fn(&Subject, &Placed) -> Result<(), String>) -> Result<(), String> {
        let placed = placed::all(msb);
        for subject in &self.journey.source.subjects {
            let Some(found) = placed.get(&subject.id) else { return Err(format!("{} did not arrive", subject.name)) };
            check(subject, found)?;
        }
        expect(placed.len() == self.journey.source.subjects.len(), || format!("{} snapshots arrived", placed.len()))
    }

    fn list(&self, msb: &Msb) -> Result<(), String> {
        let listed = msb.json(&["snapshot", "ls", "--format", "json"])?;
        let expected = self.journey.reference.json(&["snapshot", "ls", "--format", "json"])?;
        let rows = |list: &Value| {
            let mut rows: Vec<Vec<String>> = list
                .as_array()
                .unwrap()
                .iter()
                .map(|row| {
                    let fields = ["snapshot_id", "digest", "parent_digest", "scope", "image_ref", "size_bytes"];
                    let more = ["availability", "created_at"];
                    fields.iter().chain(&more).map(|field| row[field].to_string()).collect()
                })
                .collect();
            rows.sort();
            rows
        };
        let (listed, expected) = (rows(&listed), rows(&expected));
        expect(listed == expected, || format!("msb lists {listed:?}, after its own import {expected:?}"))
    }

    fn inspect_names(&self, msb: &Msb) -> Result<(), String> {
        let theirs = placed::all(&self.journey.reference);
        self.each(msb, |subject, placed| {
            let name = &subject.name;
            // An archive names members of groups alone, and its head.
            let expected = match self.packer {
                Packer::Snapcask => Some(name.clone()),
                Packer::Msb => theirs[&subject.id].name.clone(),
            };
            expect(placed.name == expected, || format!("{name} is named {:?}, not {expected:?}", placed.name))?;
            if placed.group.is_some() {
                return inspected(&msb.tried(&["snapshot", "inspect", &placed.selector()])?, subject);
            }
            // msb takes a snapshot without a group by its path alone.
            let said = msb.tried(&["snapshot", "inspect", name]).unwrap_err();
            expect(said.contains("is an ungrouped snapshot") && said.contains(placed.path()), || said)
        })
    }

    fn export_again(&self, msb: &Msb) -> Result<(), String> {
        let placed = placed::all(msb);
        let mut archives = Vec::new();
        let (youngest, older) = self.journey.source.subjects.split_last().unwrap();
        let alone = self.journey.kind == Kind::Stack;
        for subject in older.iter().filter(|_| alone).chain([youngest]) {
            let path = self.journey.source.path(&format!("again-{:?}-{}.msb", self.packer, subject.name));
            let found = placed.get(&subject.id).ok_or_else(|| format!("{} did not arrive", subject.name))?;
            let mut arguments = vec!["snapshot", "export", found.path(), "-o", path.to_str().unwrap(), "--with-image"];
            arguments.extend((!alone).then_some("--with-parents"));
            msb.tried(&arguments)?;
            archives.push(path);
        }
        let there = Msb::new(&self.journey.source.path(&format!("again of {:?}", self.packer)));
        import_archives(&there, &archives, &[])?;
        self.compare(&there)
    }

    fn import_into(&self) -> Result<(), String> {
        let msb = Msb::new(&self.journey.source.path(&format!("group of {:?}", self.packer)));
        let sources = match self.packer {
            Packer::Snapcask => vec![self.journey.bundles.clone()?[1].clone()],
            Packer::Msb => self.journey.archives.older.clone(),
        };
        import(&msb, &sources, &[])?;
        let older = &self.journey.source.subjects[self.journey.source.subjects.len() - 2];
        let placed = placed::all(&msb);
        let found = placed.get(&older.id).ok_or_else(|| format!("{} did not arrive", older.name))?;
        let group = found.group.as_deref().unwrap_or("joined");
        import_archives(&msb, std::slice::from_ref(&self.journey.archives.youngest), &["--group", group])?;
        let head = msb.json(&["snapshot", "head", group, "--format", "json"])?;
        let youngest = self.journey.source.head();
        expect(head["head"] == youngest.id.as_str(), || format!("the head is {}, not {}", head["head"], youngest.name))
    }

    fn join(&self) -> Ended {
        if self.packer == Packer::Snapcask && matches!(self.journey.kind, Kind::V066 | Kind::Flat) {
            return Ok(Outcome::DoesNotApply);
        }
        let msb = Msb::new(&self.journey.source.path(&format!("joined by {:?}", self.packer)));
        import_archives(&msb, &self.journey.archives.older, &["--group", "theirs"])?;
        import(&msb, &self.everything()?, &["--group", "theirs"])?;
        let head = msb.json(&["snapshot", "head", "theirs", "--format", "json"])?;
        let youngest = self.journey.source.head();
        expect(head["head"] == youngest.id.as_str(), || {
            format!("the head is {}, not {}", head["head"], youngest.name)
        })?;
        self.compare(&msb)?;
        self.list(&msb)?;
        Ok(Outcome::Works)
    }

    fn head(&self, msb: &Msb) -> Ended {
        let placed = placed::all(msb);
        let youngest = self.journey.source.head();
        let found = placed.get(&youngest.id).ok_or_else(|| format!("{} did not arrive", youngest.name))?;
        let Some(group) = &found.group else { return Ok(Outcome::DoesNotApply) };
        let head = |selector: &str| {
            let update = msb.json(&["snapshot", "head", selector, "--format", "json"])?;
            Ok::<_, String>(update["head"].as_str().unwrap_or_default().to_owned())
        };
        let first = &self.journey.source.subjects[0];
        let of_first = placed.get(&first.id).ok_or_else(|| format!("{} did not arrive", first.name))?.selector();
        for (selector, expected) in
            [(group.clone(), youngest), (of_first, first), (group.clone(), first), (found.selector(), youngest)]
        {
            let is = head(&selector)?;
            expect(is == expected.id, || format!("the head of {selector} is {is}, not {}", expected.id))?;
        }
        Ok(Outcome::Works)
    }

    fn files(&self, msb: &Msb) -> Result<(), String> {
        self.compare(msb)?;
        compare::same_images(msb, &self.journey.reference)
    }

    /// Each snapshot's directory and the group's own files, beside those of `msb`.
    fn compare(&self, msb: &Msb) -> Result<(), String> {
        let theirs = placed::all(&self.journey.reference);
        self.each(msb, |subject, placed| {
            let expected = match placed.group {
                Some(_) => &theirs[&subject.id].directory,
                // msb never imports without a group: what it makes of such a directory is what it makes of the source's.
                None => &subject.directory,
            };
            // Of snapshots that stood in no group, an archive of msb names the head alone; a bundle names all.
            let names = match subject.group {
                Some(_) => Names::Compared,
                None => Names::Left,
            };
            compare::same(&subject.name, &placed.directory, expected, names)?;
            let (Some(ours), Some(expected)) = (&placed.group, &theirs[&subject.id].group) else { return Ok(()) };
            same_group(&msb.snapshots().join(ours), &self.journey.reference.snapshots().join(expected))
        })
    }

    fn remove(&self, msb: &Msb) -> Result<(), String> {
        let placed = placed::all(msb);
        let of = |subject: &Subject| placed.get(&subject.id).ok_or_else(|| format!("{} did not arrive", subject.name));
        let subjects = &self.journey.source.subjects;
        let (youngest, first) = (of(self.journey.source.head())?, of(&subjects[0])?);
        if youngest.group.is_some() {
            match msb.tried(&["snapshot", "rm", &youngest.selector()]) {
                Ok(_) => return Err("msb removes a head while others stay".into()),
                Err(said) => expect(said.contains("cannot remove current head"), || said)?,
            }
            msb.tried(&["snapshot", "head", &first.selector()])?;
        }
        for subject in subjects.iter().rev() {
            msb.tried(&["snapshot", "rm", &of(subject)?.selector()])?;
        }
        let left = placed::all(msb);
        expect(left.is_empty(), || format!("{left:?} is left"))?;
        let listed = msb.json(&["snapshot", "ls", "--format", "json"])?;
        expect(listed == Value::Array(Vec::new()), || format!("msb still lists {listed}"))
    }
}

/// `snapcask import` of all sources in one command.
fn import(msb: &Msb, sources: &[PathBuf], more: &[&str]) -> Result<(), String> {
    // As msb does, which gives every tag the meaning that an archive says; "export again" finds the image by its tag alone.
    let mut arguments = vec!["import", "--trust-image-tags"];
    arguments.extend(sources.iter().map(|path| path.to_str().unwrap()));
    arguments.extend(more);
    msb.snapcask(&arguments).map(|_| ())
}

fn inspected(printed: &str, subject: &Subject) -> Result<(), String> {
    let says = printed.lines().any(|line| line.contains("Snapshot ID") && line.contains(&subject.id));
    expect(says, || format!("msb shows {printed:?} for {}", subject.name))
}

/// The files of two groups themselves, without their members.
fn same_group(ours: &Path, theirs: &Path) -> Result<(), String> {
    // Leases and the marks of past removals come and go with what was done.
    let own = |path: &str| {
        path.starts_with("snap_") || path.starts_with(".msb-leases") || path.starts_with(".snapshot-deletions")
    };
    let (a, b) = (compare::contents(ours, &own), compare::contents(theirs, &own));
    expect(a == b, || format!("the group's files are {a:?}, as msb places it {b:?}"))
}
