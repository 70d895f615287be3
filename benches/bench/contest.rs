//! Export, import, verify and look-ups beside their peers.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    dataset::{CHAIN, link, make_chain, make_many, make_spread, must},
    installed,
    measure::{Contestant, Sample, alternate, shell},
    table::Row,
};

/// Memory that every run of ours must keep to, in MiB.
const MEMORY: f64 = 96.0;
const MIB: f64 = 1048576.0;

/// `msb`, the packer of microsandbox 0.7.
pub fn msb() -> Option<PathBuf> {
    let from = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
    // Where scripts/install-msb.sh puts it.
    let built = cache.map(|cache| cache.join("snapcask-tools/bin/msb"));
    from("MSB").or(built).filter(|path| path.is_file()).or_else(|| installed(&["msb"]))
}

/// Where the runs work, and what they have in common.
pub struct Bench {
    pub folder: PathBuf,
    pub runs: usize,
    /// The most memory of each run of ours, by what it did.
    peaks: RefCell<Vec<(String, u64)>>,
}

impl Bench {
    pub fn new(folder: PathBuf, runs: usize) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self { folder, runs, peaks: RefCell::default() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A command of ours.
    pub fn snapcask<'s>(&self, arguments: impl IntoIterator<Item = &'s str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapcask"));
        let mut arguments = arguments.into_iter();
        command.args(arguments.next()).arg("--quiet").args(arguments);
        command.env("XDG_CACHE_HOME", self.path("cache")).env("DOCKER_CONFIG", &self.folder);
        command
    }

    /// Runs contestants, the first of which is ours.
    pub fn against(&self, what: &str, contestants: &[Contestant]) -> Vec<Sample> {
        let samples = alternate(self.runs, contestants);
        self.peaks.borrow_mut().push((what.into(), samples[0].peak()));
        samples
    }

    pub fn remove(&self, name: &str) {
        let path = self.path(name);
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }

    /// The store with the chain; made once, and read once so that it is in the page cache.
    pub fn store(&self) -> PathBuf {
        let store = self.path("store");
        if !store.join("snapshots").join(link(CHAIN.links - 1)).join("manifest.json").exists() {
            self.remove("store");
            make_chain(&store, &CHAIN);
        }
        let dense = self.path("dense");
        if !dense.exists() {
            must(&mut shell(
                r#"python3 - "$1" "$2" <<'END'
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), open(sys.argv[2], "wb")
at, size = 0, os.fstat(source).st_size
while at < size:
    try: start = os.lseek(source, at, os.SEEK_DATA)
    except OSError: break
    at = os.lseek(source, start, os.SEEK_HOLE)
    while start < at:
        piece = os.pread(source, min(8 << 20, at - start), start)
        target.write(piece); start += len(piece)
END"#,
                &[&store.join("snapshots").join(link(0)).join("upper.ext4"), &dense],
            ));
        }
        must(&mut shell(
            r#"for link in "$1"/snapshots/*; do tar -S -cf - -C "$link" . | cat > /dev/null; done; cat "$2" > /dev/null"#,
            &[&store, &dense],
        ));
        store
    }

    /// A copy of the store: `msb` 0.7 rewrites the older snapshots that it reads.
    fn msb_store(&self) -> PathBuf {
        let copy = self.path("msb-store");
        if !copy.join("snapshots").join(link(CHAIN.links - 1)).exists() {
            self.remove("msb-store");
            fs::create_dir(&copy).unwrap();
            must(&mut shell(r#"cp -r --sparse=always "$1/snapshots" "$2/""#, &[&self.store(), &copy]));
        }
        copy
    }

    fn export(&self, store: &Path, snapshot: &str, output: &Path, parents: bool) -> Command {
        let mut command = self.snapcask(["export", snapshot, "--force", "-o"]);
        command.arg(output).arg("--store").arg(store);
        if parents {
            command.arg("--with-parents");
        }
        command
    }

    fn import(&self, bundle: &Path, store: &Path) -> Command {
        let mut command = self.snapcask(["import"]);
        command.arg(bundle).arg("--store").arg(store);
        command
    }

    /// One snapshot out and in.
    pub fn one(&self) -> Vec<Row> {
        let store = self.store();
        let (dense, bundle) = (self.path("dense"), self.path("one.tar.zst"));
        let (zst, tar, msb_bundle) = (self.path("dense.zst"), self.path("tar.zst"), self.path("msb-one.msb"));
        let folder = store.join("snapshots").join(link(0));
        let mut contestants = vec![
            Contestant::new("export", || self.remove("one.tar.zst"), || self.export(&store, &link(0), &bundle, false))
                .writing(&bundle),
            Contestant::new(
                "zstd -3 -T0",
                || self.remove("dense.zst"),
                || shell(r#"zstd -q -3 -T0 "$1" -o "$2""#, &[&dense, &zst]),
            )
            .writing(&zst),
            Contestant::new(
                "tar -S | zstd -3 -T0",
                || self.remove("tar.zst"),
                || shell(r#"tar -S -cf - -C "$1" . | zstd -q -3 -T0 -o "$2""#, &[&folder, &tar]),
            )
            .writing(&tar),
        ];
        if msb().is_some() {
            let copy = self.msb_store();
            let output = msb_bundle.clone();
            let command = move || self.msb_export(&copy, &link(0), &output, false);
            contestants.push(
                Contestant::new("msb snapshot export", || self.remove("msb-one.msb"), command).writing(&msb_bundle),
            );
        }
        let out = self.against("export of one", &contestants);
        let mut rows = vec![
            Row::ratio("export one / `zstd -3 -T0` of its data", out[0].wall() / out[1].wall(), 1.05, times(&out)),
            Row::ratio(
                "bytes of one / `tar -S \\| zstd -3`",
                ratio_of_bytes(&out[0], &out[2]),
                1.0,
                sizes(&[&out[0], &out[2]]),
            ),
        ];
        let into = self.path("in");
        let fresh = || {
            self.remove("in");
            fs::create_dir(&into).unwrap();
        };
        let mut contestants = vec![
            Contestant::new("import", fresh, || self.import(&bundle, &into)),
            Contestant::new("zstd -dc | tar -x; sync", fresh, || {
                shell(r#"zstd -q -dc "$1" | tar -xf - -C "$2"; find "$2" -type f -exec sync {} +"#, &[&tar, &into])
            }),
        ];
        if msb().is_some() {
            contestants.push(Contestant::new("msb snapshot import", fresh, || self.msb_import(&msb_bundle, &into)));
        }
        let back = self.against("import of one", &contestants);
        rows.push(Row::ratio(
            "import one / (`zstd -dc \\| tar -x`, sync)",
            back[0].wall() / back[1].wall(),
            0.7,
            times(&back),
        ));
        if let Some(theirs) = back.get(2) {
            rows.push(Row::ratio("import one / `msb snapshot import`", back[0].wall() / theirs.wall(), 0.45, ""));
            let archive = self.against(
                "import of an archive of msb",
                &[
                    Contestant::new("import of the archive", fresh, || self.import(&msb_bundle, &into)),
                    Contestant::new("msb snapshot import", fresh, || self.msb_import(&msb_bundle, &into)),
                ],
            );
            let ratio = archive[0].wall() / archive[1].wall();
            let what = "import an archive of `msb` / `msb snapshot import` of the same file";
            rows.push(Row::ratio(what, ratio, 0.6, times(&archive)));
        }
        rows
    }

    /// The chain of ten out and in.
    pub fn chain(&self) -> Vec<Row> {
        let store = self.store();
        let (one, bundle, theirs) = (self.path("one.tar.zst"), self.path("chain.tar.zst"), self.path("msb-chain.msb"));
        let head = link(CHAIN.links - 1);
        let out = self.against(
            "export of the chain",
            &[
                Contestant::new(
                    "export the chain",
                    || self.remove("chain.tar.zst"),
                    || self.export(&store, &head, &bundle, true),
                )
                .writing(&bundle),
                Contestant::new(
                    "export one",
                    || self.remove("one.tar.zst"),
                    || self.export(&store, &link(0), &one, false),
                )
                .writing(&one),
            ],
        );
        let mut rows = vec![
            Row::ratio("export a chain of ten / export of one", out[0].wall() / out[1].wall(), 3.8, times(&out)),
            Row::ratio(
                "bytes of the chain / of one",
                ratio_of_bytes(&out[0], &out[1]),
                2.05,
                sizes(&out.iter().collect::<Vec<_>>()),
            ),
        ];
        let into = self.path("in");
        let fresh = || {
            self.remove("in");
            fs::create_dir(&into).unwrap();
        };
        let mut contestants = vec![
            Contestant::new("import the chain", fresh, || self.import(&bundle, &into)),
            Contestant::new("cp -r --sparse=always; sync", fresh, || {
                shell(
                    r#"cp -r --sparse=always "$1/snapshots" "$2/"; find "$2" -type f -exec sync {} +"#,
                    &[&store, &into],
                )
            }),
        ];
        if msb().is_some() {
            let copy = self.msb_store();
            let command = || self.msb_export(&copy, &head, &theirs, true);
            let rounds = Bench { runs: self.runs.min(3), folder: self.folder.clone(), peaks: RefCell::default() };
            let msb_out = rounds.against(
                "",
                &[Contestant::new("msb snapshot export --with-parents", || self.remove("msb-chain.msb"), command)
                    .writing(&theirs)],
            );
            rows.push(Row::at_least(
                "faster than `msb snapshot export --with-parents`",
                msb_out[0].wall() / out[0].wall(),
                13.0,
                times(&msb_out),
            ));
            rows.push(Row::ratio(
                "bytes of the chain / `msb`'s",
                ratio_of_bytes(&out[0], &msb_out[0]),
                0.155,
                sizes(&[&out[0], &msb_out[0]]),
            ));
            contestants.push(Contestant::new("msb snapshot import", fresh, || self.msb_import(&theirs, &into)));
        }
        let back = self.against("import of the chain", &contestants);
        rows.push(Row::ratio(
            "import the chain / (`cp -r --sparse=always`, sync), ext4",
            back[0].wall() / back[1].wall(),
            1.1,
            times(&back),
        ));
        for name in ["msb-chain.msb", "msb-store", "in"] {
            self.remove(name);
        }
        rows
    }

    /// The chain onto a filesystem that shares blocks.
    pub fn xfs(&self) -> Vec<Row> {
        if installed(&["mkfs.xfs"]).is_none() {
            eprintln!("  left out: mkfs.xfs is not installed");
            return Vec::new();
        }
        let store = self.store();
        let (one, bundle) = (self.path("one.tar.zst"), self.path("chain.tar.zst"));
        must(&mut self.export(&store, &link(0), &one, false));
        must(&mut self.export(&store, &link(CHAIN.links - 1), &bundle, true));
        let (image, mount) = (self.path("xfs.img"), self.path("xfs"));
        fs::create_dir_all(&mount).unwrap();
        fs::File::create(&image).unwrap().set_len(32 << 30).unwrap();
        must(&mut shell(r#"mkfs.xfs -q -f -m reflink=1 "$1"; mount -o loop "$1" "$2""#, &[&image, &mount]));
        let into = mount.join("in");
        let fresh = || {
            let _ = fs::remove_dir_all(&into);
            fs::create_dir(&into).unwrap();
        };
        let used = |path: &Path| rustix::fs::statvfs(path).map(|s| (s.f_blocks - s.f_bfree) * s.f_frsize).unwrap();
        let empty = used(&mount);
        let samples = self.against(
            "import of the chain on XFS",
            &[
                Contestant::new("import the chain, XFS", fresh, || self.import(&bundle, &into)),
                Contestant::new("import one, XFS", fresh, || self.import(&one, &into)),
            ],
        );
        let alone = used(&mount) - empty;
        fresh();
        must(&mut self.import(&bundle, &into));
        rustix::fs::sync();
        let chain = used(&mount) - empty;
        must(Command::new("umount").arg(&mount));
        self.remove("xfs.img");
        let detail = format!("on disk: {:.0} MiB for ten, {:.0} MiB for one", chain as f64 / MIB, alone as f64 / MIB);
        vec![
            Row::ratio(
                "import the chain / import of one, XFS with reflink",
                samples[0].wall() / samples[1].wall(),
                2.5,
                times(&samples),
            ),
            Row::ratio("blocks on disk of ten / of one, XFS", chain as f64 / alone as f64, 2.5, detail),
        ]
    }

    /// Verifying a bundle.
    pub fn verify(&self) -> Vec<Row> {
        let store = self.store();
        let (bundle, layout) = (self.path("chain.tar.zst"), self.path("chain"));
        must(&mut self.export(&store, &link(CHAIN.links - 1), &bundle, true));
        must(self.export(&store, &link(CHAIN.links - 1), &layout, true).args(["--format", "dir"]));
        let quick = self.against(
            "verify",
            &[
                Contestant::new(
                    "verify",
                    || {},
                    || {
                        let mut command = self.snapcask(["verify"]);
                        command.arg(&bundle);
                        command
                    },
                ),
                Contestant::new("openssl dgst -sha256", || {}, || shell(r#"openssl dgst -sha256 "$1""#, &[&bundle])),
            ],
        );
        let deep = self.against(
            "verify --deep",
            &[
                Contestant::new(
                    "verify --deep",
                    || {},
                    || {
                        let mut command = self.snapcask(["verify", "--deep"]);
                        command.arg(&bundle);
                        command
                    },
                ),
                // Documents are no zstd and a few kilobytes.
                Contestant::new(
                    "zstd -dc of the layers",
                    || {},
                    || {
                        shell(
                            r#"find "$1/blobs/sha256" -type f -size +32k -exec zstd -q -dc {} + > /dev/null"#,
                            &[&layout],
                        )
                    },
                ),
            ],
        );
        self.remove("chain");
        vec![
            Row::ratio(
                "`verify` / SHA-256 of the bundle on one core",
                quick[0].wall() / quick[1].wall(),
                1.2,
                times(&quick),
            ),
            Row::ratio(
                "`verify --deep` / `zstd -dc` of the layers",
                deep[0].wall() / deep[1].wall(),
                0.9,
                times(&deep),
            ),
        ]
    }

    /// The same data in 1 GiB and in 1 TiB.
    pub fn spread(&self) -> Vec<Row> {
        let store = self.path("spread");
        self.remove("spread");
        for (name, size) in [("small", 1u64 << 30), ("large", 1 << 40)] {
            make_spread(&store, name, size, 100 << 20);
        }
        let bundle = |name: &str| self.path(&format!("{name}.tar.zst"));
        let out = |label, name: &'static str| {
            Contestant::new(label, move || self.remove(&format!("{name}.tar.zst")), {
                let store = &store;
                move || self.export(store, name, &bundle(name), false)
            })
        };
        let exports = self.against("export of 1 TiB", &[out("export, 1 TiB", "large"), out("export, 1 GiB", "small")]);
        let into = self.path("in");
        let fresh = || {
            self.remove("in");
            fs::create_dir(&into).unwrap();
        };
        let imports = self.against(
            "import of 1 TiB",
            &[
                Contestant::new("import, 1 TiB", fresh, || self.import(&bundle("large"), &into)),
                Contestant::new("import, 1 GiB", fresh, || self.import(&bundle("small"), &into)),
            ],
        );
        for name in ["spread", "in", "small.tar.zst", "large.tar.zst"] {
            self.remove(name);
        }
        let memory = |s: &[Sample]| s[0].peak() as f64 / s[1].peak() as f64;
        vec![
            Row::ratio(
                "export 1 TiB / 1 GiB with the same 100 MB: time",
                exports[0].wall() / exports[1].wall(),
                1.3,
                times(&exports),
            ),
            Row::ratio("the same: memory", memory(&exports), 1.1, peaks(&exports)),
            Row::ratio(
                "import 1 TiB / 1 GiB with the same 100 MB: time",
                imports[0].wall() / imports[1].wall(),
                1.3,
                times(&imports),
            ),
            Row::ratio("the same: memory", memory(&imports), 1.1, peaks(&imports)),
        ]
    }

    /// A store with very many snapshots.
    pub fn many(&self) -> Vec<Row> {
        let store = self.path("many");
        self.remove("many");
        let digest = make_many(&store, 10_000).to_string();
        let command = |arguments: &[&str]| {
            let mut command = self.snapcask(arguments.iter().copied());
            command.arg("--store").arg(&store);
            command
        };
        let samples = self.against(
            "list of 10,000",
            &[
                Contestant::new("list, 10,000 snapshots", || {}, || command(&["list"])),
                Contestant::new("inspect by digest", || {}, || command(&["inspect", &digest])),
            ],
        );
        self.remove("many");
        vec![
            Row::most("`list` of 10,000 snapshots", samples[0].wall(), 0.5, "s", ""),
            Row::most("one of them by digest", samples[1].wall(), 0.5, "s", "`inspect sha256:...`"),
        ]
    }

    /// The most memory of all runs of ours.
    pub fn memory(&self) -> Vec<Row> {
        let peaks = self.peaks.borrow();
        let Some((what, most)) = peaks.iter().max_by_key(|(_, peak)| *peak) else { return Vec::new() };
        let all: Vec<String> = peaks.iter().map(|(what, peak)| format!("{what} {:.0}", *peak as f64 / MIB)).collect();
        vec![Row::most(format!("peak memory ({what})"), *most as f64 / MIB, MEMORY, "MiB", all.join(", "))]
    }

    fn msb_command(&self, store: &Path) -> Command {
        let mut command = Command::new(msb().unwrap());
        command.env("MSB_HOME", store).env("HOME", &self.folder).args(["snapshot"]);
        command
    }

    fn msb_export(&self, store: &Path, snapshot: &str, output: &Path, parents: bool) -> Command {
        let mut command = self.msb_command(store);
        command.arg("export");
        if parents {
            command.arg("--with-parents");
        }
        command.arg(store.join("snapshots").join(snapshot)).arg("-o").arg(output);
        command
    }

    fn msb_import(&self, bundle: &Path, store: &Path) -> Command {
        let mut command = self.msb_command(store);
        command.arg("import").arg(bundle);
        command
    }
}

fn ratio_of_bytes(ours: &Sample, theirs: &Sample) -> f64 {
    ours.bytes.unwrap() as f64 / theirs.bytes.unwrap() as f64
}

/// Median wall times, and the processors' in brackets.
pub fn times(samples: &[Sample]) -> String {
    let each: Vec<String> = samples.iter().map(|s| format!("{:.2} s ({:.2} s cpu)", s.wall(), s.cpu())).collect();
    each.join(", ")
}

fn sizes(samples: &[&Sample]) -> String {
    let each: Vec<String> = samples.iter().map(|s| format!("{:.1} MB", s.bytes.unwrap() as f64 / 1e6)).collect();
    each.join(", ")
}

fn peaks(samples: &[Sample]) -> String {
    let each: Vec<String> = samples.iter().map(|s| format!("{:.1} MiB", s.peak() as f64 / MIB)).collect();
    each.join(", ")
}
