//! One journey on every filesystem that a store may stand on: round trip, delta import, allocation, `--force`, repair,
//! remove. Each is mounted for its test, which takes root; what cannot run is said, and fails where CI is set.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use snapcask::{
    check::{CheckOptions, Repairs, check},
    export::{ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    model::Generation,
    progress::Silent,
    remove::{RemoveOptions, remove},
    report::Outcome,
    store::index::Index,
};
use tempfile::TempDir;

use crate::fixture::*;

/// Bytes of a loop device; btrfs and XFS refuse to be much smaller.
const IMAGE: u64 = 512 << 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
    /// What is written first becomes the lower layer.
    Overlayfs,
    /// The same in user space: it reports no holes.
    FuseOverlayfs,
}

/// A mounted filesystem, unmounted at the end.
struct Mounted {
    kind: Kind,
    folder: TempDir,
    mounts: Vec<PathBuf>,
}

/// A program of the test tools, which stands in a folder that an ordinary user does not have in PATH.
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command
}

fn sh(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
}

/// Why a filesystem cannot be mounted here.
fn lacking(kind: Kind) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting takes root".into());
    }
    let (module, tool) = match kind {
        Kind::Tmpfs => ("tmpfs", None),
        Kind::Ext4 => ("ext4", Some("mkfs.ext4")),
        Kind::Xfs => ("xfs", Some("mkfs.xfs")),
        Kind::Btrfs => ("btrfs", Some("mkfs.btrfs")),
        Kind::Overlayfs => ("overlay", None),
        Kind::FuseOverlayfs => ("fuse", Some("fuse-overlayfs")),
    };
    let version = if tool.is_some_and(|tool| tool.starts_with("mkfs")) { "-V" } else { "--version" };
    if let Some(tool) = tool.filter(|tool| program(tool).arg(version).output().is_err()) {
        return Some(format!("{tool} is missing; scripts/install-test-tools.sh installs it"));
    }
    // The kernel may have it as a module that is not loaded yet.
    let _ = program("modprobe").arg(module).output();
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let is_known = known.lines().any(|line| line.split_whitespace().last() == Some(module));
    (!is_known).then(|| format!("this kernel has no {module}"))
}

impl Mounted {
    /// Mounts it. `lower` fills what becomes the lower layer of an overlay, or simply the filesystem.
    fn new(kind: Kind, lower: impl FnOnce(&Path)) -> Option<Self> {
        if let Some(reason) = lacking(kind) {
            assert!(std::env::var_os("CI").is_none(), "{kind:?} was not tested: {reason}");
            eprintln!("NOT TESTED on {kind:?}: {reason}");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("at"));
        fs::create_dir(&at).unwrap();
        let mut mounted = Self { kind, folder, mounts: Vec::new() };
        let make = match kind {
            Kind::Tmpfs => None,
            // The layers of an overlay lie on ext4.
            Kind::Ext4 | Kind::Overlayfs | Kind::FuseOverlayfs => Some(("mkfs.ext4", ["-q", "-F"])),
            Kind::Xfs => Some(("mkfs.xfs", ["-q", "-f"])),
            Kind::Btrfs => Some(("mkfs.btrfs", ["-q", "-f"])),
        };
        match make {
            None => mounted.mount(program("mount").args(["-t", "tmpfs", "-o", "size=512m", "none"]).arg(&at), &at),
            Some((make, options)) => {
                File::create(&image).unwrap().set_len(IMAGE).unwrap();
                sh(program(make).args(options).arg(&image));
                mounted.mount(program("mount").args(["-o", "loop"]).args([&image, &at]), &at);
            }
        }
        let layers = ["lower", "upper", "work", "merged"].map(|name| at.join(name));
        layers.iter().for_each(|layer| fs::create_dir(layer).unwrap());
        match kind {
            Kind::Overlayfs | Kind::FuseOverlayfs => {
                lower(&layers[0]);
                let [lower, upper, work, merged] = layers.each_ref().map(|layer| layer.to_str().unwrap());
                let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                let mut mount = match kind {
                    Kind::Overlayfs => program("mount"),
                    _ => program("fuse-overlayfs"),
                };
                if kind == Kind::Overlayfs {
                    // Kernels may be built to rename folders nevertheless.
                    mount.args(["-t", "overlay", "none", "-o", &format!("{options},redirect_dir=off")]);
                } else {
                    mount.args(["-o", &options]);
                }
                mounted.mount(mount.arg(merged), &layers[3]);
            }
            _ => lower(&layers[3]),
        }
        Some(mounted)
    }

    fn mount(&mut self, command: &mut Command, at: &Path) {
        sh(command);
        self.mounts.push(at.into());
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("at/merged")
    }

    /// Where what is written to it lies.
    fn beneath(&self, path: &Path) -> PathBuf {
        match self.kind {
            Kind::Overlayfs | Kind::FuseOverlayfs => {
                self.folder.path().join("at/upper").join(path.strip_prefix(self.path()).unwrap())
            }
            _ => path.into(),
        }
    }

    fn used(&self) -> u64 {
        sh(Command::new("sync").arg("-f").arg(self.folder.path().join("at")));
        let stat = rustix::fs::statvfs(self.folder.path().join("at")).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            let _ = program("umount").arg(at).status();
        }
    }
}

/// What a disk takes on ext4, and how many extents it has: its blocks that are not zero, and their runs.
fn least(disk: &Path) -> (u64, u64) {
    let file = File::open(disk).unwrap();
    let mut block = vec![0; 4096];
    let (mut bytes, mut runs, mut before) = (0, 0, false);
    let size = file.metadata().unwrap().len();
    for at in (0..size).step_by(4096) {
        let held = &mut block[..(size - at).min(4096) as usize];
        file.read_exact_at(held, at).unwrap();
        let is_data = held.iter().any(|byte| *byte != 0);
        bytes += if is_data { 4096 } else { 0 };
        runs += u64::from(is_data && !before);
        before = is_data;
    }
    (bytes, runs)
}

/// The snapshots of a store, which are those of the fixture; their disks take as much as on ext4, and one block an extent.
#[track_caller]
fn assert_restored(mounted: &Mounted, fixture: &Fixture, paths: &[PathBuf], before: u64) {
    let (mut all, mut extents) = (0, 0);
    for (made, path) in fixture.snapshots.iter().rev().zip(paths) {
        assert_eq!(tree(path), tree(&made.directory), "{:?}: {}", mounted.kind, made.name);
        let (bytes, runs) = least(&made.directory.join(&made.disk));
        let disk = mounted.beneath(&path.join(&made.disk));
        // Blocks that XFS and btrfs share are counted by each file, and XFS sets some aside around what is written to them.
        if !matches!(mounted.kind, Kind::Xfs | Kind::Btrfs) {
            let most = bytes + 4096 * runs;
            assert!(
                allocated(&disk) <= most,
                "{:?}: {} takes {}, over {most}",
                mounted.kind,
                made.name,
                allocated(&disk)
            );
        }
        (all, extents) = (all + bytes, extents + runs);
    }
    let others = fs::metadata(fixture.path("bundle.tar")).unwrap().len() + (2 << 20);
    let (used, most) = (mounted.used().saturating_sub(before), all + 4096 * extents + others);
    assert!(used <= most, "{:?}: {used} bytes are used, over {most}", mounted.kind);
}

fn paths(report: &snapcask::report::ImportReport) -> Vec<PathBuf> {
    report.snapshots.iter().map(|snapshot| snapshot.path.clone().unwrap()).collect()
}

fn no_leftovers(store: &Path) {
    let left: Vec<String> = whole_tree(store).into_keys().filter(|path| path.contains(".snapcask-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn damage(disk: &Path) {
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(b"damaged", 2 << 20).unwrap();
}

fn checked(store: &Path, repair: Repairs) -> BTreeSet<&'static str> {
    let options = CheckOptions { store: store.into(), repair, jobs: 2, index: Index::Off, progress: Arc::new(Silent) };
    check(&options).unwrap().findings.into_iter().map(|finding| finding.code).collect()
}

fn journey(kind: Kind) {
    for generation in [Generation::V066, Generation::Final] {
        let fixture = Fixture::new(generation);
        let bundle = fixture.path("bundle.tar");
        let options = |store: &Path, to: &Path| ExportOptions {
            with_parents: true,
            ..export_options(store, "head", Form::Tar, to)
        };
        export(&options(&fixture.store, &bundle)).unwrap();
        let with_image = fixture.path("with-image.tar");
        fixture.export_chain(Form::Tar, &with_image);
        let base = fixture.path("base.tar");
        export(&export_options(&fixture.store, "base", Form::Tar, &base)).unwrap();
        let into = |store: &Path| ImportOptions { group: group_for(generation), ..import_options(&bundle, store) };
        // In the lower layer of an overlay.
        let fill = |folder: &Path| drop(import(&into(&folder.join("store"))).unwrap());
        let Some(mounted) = Mounted::new(kind, fill) else { return };
        let store = mounted.path().join("store");
        let whole = tree(&fixture.store.join("snapshots"));
        assert_eq!(tree(&store.join("snapshots")), whole, "{kind:?}");

        // What is exported there is what is exported elsewhere.
        let there = mounted.path().join("there.tar");
        export(&options(&store, &there)).unwrap();
        assert!(fs::read(&bundle).unwrap() == fs::read(&there).unwrap(), "{kind:?}");
        fs::remove_file(&there).unwrap();

        // A round trip, from its own bundle.
        let before = mounted.used();
        let fresh = mounted.path().join("fresh");
        let report = import_ok(&with_image, &fresh);
        assert_restored(&mounted, &fixture, &paths(&report), before);
        assert_eq!(checked(&fresh, Repairs::Nothing), BTreeSet::new(), "{kind:?}");
        fs::remove_dir_all(&fresh).unwrap();

        // Deltas over a parent that is installed.
        let before = mounted.used();
        let delta = mounted.path().join("delta");
        import(&ImportOptions { sources: import_options(&base, &delta).sources, ..into(&delta) }).unwrap();
        let report = import(&into(&delta)).unwrap();
        let outcomes: Vec<_> = report.snapshots.iter().map(|snapshot| snapshot.outcome.unwrap()).collect();
        assert_eq!(outcomes, [Outcome::Placed, Outcome::Placed, Outcome::AlreadyThere]);
        assert_restored(&mounted, &fixture, &paths(&report), before);
        fs::remove_dir_all(&delta).unwrap();

        // By force over what is damaged; then repaired; then removed.
        let disk = |made: &Made| store.join(made.directory.strip_prefix(&fixture.store).unwrap()).join(&made.disk);
        let is_whole = || assert_eq!(tree(&store.join("snapshots")), whole, "{kind:?} {generation:?}");
        damage(&disk(fixture.head()));
        import(&ImportOptions { force: true, ..into(&store) }).unwrap();
        is_whole();
        no_leftovers(&store);
        let locations = [0, 1].map(|_| Repairs::From(BundleLocation::path(bundle.clone())));
        for (made, repair) in fixture.snapshots.iter().zip(locations) {
            damage(&disk(made));
            let findings = checked(&store, repair);
            assert!(findings.is_empty(), "{kind:?} {generation:?}: {findings:?}");
            is_whole();
            no_leftovers(&store);
        }
        let names: Vec<String> = NAMES.iter().map(ToString::to_string).collect();
        let removal = RemoveOptions {
            store: store.clone(),
            snapshots: names,
            dry_run: false,
            orphan_children: false,
            prune_image: false,
            set_head: None,
            index: Index::Off,
            progress: Arc::new(Silent),
        };
        assert_eq!(remove(&removal).unwrap().removed.len(), 3);
        assert!(tree(&store.join("snapshots")).is_empty(), "{kind:?} {generation:?}");
        no_leftovers(&store);
    }
}

#[test]
fn journey_on_tmpfs() {
    journey(Kind::Tmpfs);
}

#[test]
fn journey_on_ext4() {
    journey(Kind::Ext4);
}

#[test]
fn journey_on_xfs() {
    journey(Kind::Xfs);
}

#[test]
fn journey_on_btrfs() {
    journey(Kind::Btrfs);
}

#[test]
fn journey_on_overlayfs_with_store_in_lower_layer() {
    journey(Kind::Overlayfs);
}

#[test]
fn journey_on_fuse_overlayfs_with_store_in_lower_layer() {
    journey(Kind::FuseOverlayfs);
}
