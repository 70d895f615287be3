//! `snapcask demo`: the main job on made-up snapshots, step by step.

mod make;

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Instant,
};

use snapcask::{
    Error, Result,
    check_bundle::verify_bundle,
    error::IoContext,
    export::{Compression, Destination, ExportOptions, Form, export},
    import::{BundleLocation, ImportOptions, import},
    layer::extents::{data_extents, union},
    store::{head::HeadRule, index::Index, place::Stage},
    temporary,
};

use super::{args::DemoArgs, export, import as import_text, output, progress, verify};
use make::NAMES;

/// Runs the verb. It takes an empty folder only, and leaves it so if it fails.
pub fn run(args: &DemoArgs) -> Result<()> {
    let dir = &args.dir;
    match dir.read_dir() {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::NotEmpty { path: dir.clone() });
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).context("list", dir),
    }
    let missing = Stage::folders_missing(dir);
    let made = ["store", "restored", "bundle.tar.zst"].map(|name| dir.join(name));
    made.iter().for_each(|path| temporary::claim(path));
    let result = steps(args);
    made.iter().for_each(|path| temporary::forget(path));
    if result.is_err() {
        for path in made {
            // The error says what happened; what cannot be removed is in the folder that it names.
            let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
        Stage::remove_empty(&missing);
    }
    result
}

fn steps(args: &DemoArgs) -> Result<()> {
    let dir = &args.dir;
    let (store, restored, bundle) = (dir.join("store"), dir.join("restored"), dir.join("bundle.tar.zst"));
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(256);
    let say = |text: &str| match args.common.quiet || args.common.json {
        true => Ok(()),
        false => output::print(&format!("{text}\n")),
    };

    say("1. Make a store: a chain of three snapshots with sparse 1 GiB disks, and one image in its cache")?;
    let started = Instant::now();
    let disks = make::store(&store)?;
    let mut logical = 0;
    for name in NAMES {
        let disk = store.join("snapshots").join(name).join("upper.ext4");
        let meta = fs::metadata(&disk).context("stat", &disk)?;
        logical += meta.len();
        let (size, data) = (output::size(meta.len()), output::size(meta.blocks() * 512));
        say(&format!("   {name:11} {size} logical, {data} allocated"))?;
    }
    say(&format!("   disks are {disks}"))?;
    say(&format!("   made   {} in {}", store.display(), output::seconds(started.elapsed().as_secs_f64())))?;

    say("\n2. Export the newest with its parents and its image: one file")?;
    let exported = export(&ExportOptions {
        store: store.clone(),
        snapshot: NAMES[2].into(),
        destination: Destination::Path(bundle.clone()),
        form: Form::TarZst,
        with_parents: true,
        with_image: true,
        since: Vec::new(),
        delta: true,
        compression: Compression::Zstd(3),
        tag: None,
        force: false,
        jobs,
        progress: progress::for_output(&args.common),
    })?;
    say(&indent(&export::text(&exported)))?;

    say("\n3. Verify it: every blob, every file")?;
    let location = BundleLocation::path(bundle.clone());
    let verified = verify_bundle(&location, true, jobs, progress::for_output(&args.common))?;
    say(&indent(&verify::summary(&verified)))?;
    if !verified.findings.is_empty() {
        say(&indent(&verify::findings(&verified.findings)))?;
        return Err(Error::Findings { count: verified.findings.len() });
    }

    say("\n4. Import it into a second store")?;
    let imported = import(&ImportOptions {
        sources: vec![location],
        bases: Vec::new(),
        store: restored.clone(),
        dest: None,
        tag: None,
        name: None,
        head_only: false,
        group: None,
        head: HeadRule::Automatic,
        force: false,
        orphan_children: false,
        trust_image_tags: true,
        skip_recorded: false,
        verify_source: false,
        max_bytes: None,
        max_files: 1000,
        jobs,
        index: Index::Off,
        progress: progress::for_output(&args.common),
    })?;
    say(&indent(&import_text::text(&imported)))?;

    say("\n5. Compare every file of the two stores")?;
    let started = Instant::now();
    let (files, cache_files) = compare(&store, &restored)?;
    let seconds = output::seconds(started.elapsed().as_secs_f64());
    let cache = output::count(cache_files, "file");
    say(&format!("   {files} files are identical, byte for byte, and {cache} of the image cache; in {seconds}"))?;
    say("   the VMDK names the second store's paths")?;

    let bytes = fs::metadata(&bundle).context("stat", &bundle)?.len();
    let data = exported.snapshots.iter().map(|s| s.data_bytes).sum();
    say(&format!(
        "\nThree snapshots ({} logical, {} of data) and their image travelled in {}.",
        output::size(logical),
        output::size(data),
        output::size(bytes)
    ))?;
    say(&next(dir))?;
    if args.common.json {
        output::json(&serde_json::json!({
            "bundle": bundle, "bundleBytes": bytes, "export": exported, "verify": verified, "import": imported,
            "identicalFiles": files + cache_files,
        }))?;
    }
    Ok(())
}

/// The commands to try next. The program is named as it was called, so that they can be pasted.
fn next(dir: &Path) -> String {
    let program = std::env::args_os().next().map_or("snapcask".into(), |p| quoted(Path::new(&p)));
    let path = |name: &str| quoted(&dir.join(name));
    let (store, restored, bundle, layout) = (path("store"), path("restored"), path("bundle.tar.zst"), path("layout"));
    let head = NAMES[2];
    format!(
        "\nTry next:
   {program} list --store {restored}
   {program} inspect {bundle}
   {program} verify --deep {bundle}
   {program} export {head} --store {store} --with-parents -o - | {program} import - --store {piped}
With tools that know nothing of snapcask:
   zstd -dc {bundle} | tar -tv
   skopeo inspect --raw oci-archive:{bundle}:{head}
   skopeo copy --dest-tls-verify=false oci-archive:{bundle}:{head} docker://localhost:5000/demo:{head}
   {program} export {head} --store {store} --with-parents -o {layout}/
   oras cp --from-oci-layout {layout}:{head} --to-plain-http localhost:5000/demo:{head}",
        piped = path("piped"),
    )
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+=@%".contains(&b)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Each line, under its step.
fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}

/// How many files of the two stores are equal, in the snapshots and in the cache; a difference is an error. The VMDK alone has to differ: it names its
/// own cache.
fn compare(left: &Path, right: &Path) -> Result<(usize, usize)> {
    let differs =
        |path: &Path, why: &str| Err(Error::bundle("the demo's comparison", format!("{} {why}", path.display())));
    let (sources, results) = (files_under(left)?, files_under(right)?);
    if let Some(extra) = results.iter().find(|path| !sources.contains(path)) {
        return differs(&right.join(extra), "was not in the first store");
    }
    let (mut snapshots, mut cache) = (0, 0);
    for path in &sources {
        let (a, b) = (left.join(path), right.join(path));
        if !results.contains(path) {
            return differs(&b, "was not restored");
        }
        if path.extension().is_some_and(|e| e == "vmdk") {
            let text = fs::read_to_string(&b).context("read", &b)?;
            let cache = std::path::absolute(right.join("cache")).context("find the absolute path of", right)?;
            if !text.contains(&format!("\"{}/fsmeta/", cache.display())) {
                return differs(&b, "does not name the second store");
            }
        } else if !same(&a, &b)? {
            return differs(&b, &format!("is not {}", a.display()));
        } else if path.starts_with("cache") {
            cache += 1;
        } else {
            snapshots += 1;
        }
    }
    Ok((snapshots, cache))
}

/// Byte for byte where either has data; the rest of both is holes.
fn same(a: &Path, b: &Path) -> Result<bool> {
    let (left, right) = (fs::File::open(a).context("open", a)?, fs::File::open(b).context("open", b)?);
    let size = left.metadata().context("stat", a)?.len();
    if right.metadata().context("stat", b)?.len() != size {
        return Ok(false);
    }
    let (mut x, mut y) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    for extent in union(&data_extents(&left, a, size)?, &data_extents(&right, b, size)?) {
        let mut at = extent.start;
        while at < extent.end {
            let n = (extent.end - at).min(1 << 16) as usize;
            left.read_exact_at(&mut x[..n], at).context("read", a)?;
            right.read_exact_at(&mut y[..n], at).context("read", b)?;
            if x[..n] != y[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
    }
    Ok(true)
}

/// Every file beneath, relative to the folder, without a store's own bookkeeping.
fn files_under(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let absolute = folder.join(&relative);
        for entry in fs::read_dir(&absolute).context("list", &absolute)? {
            let entry = entry.context("list", &absolute)?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') || name.to_string_lossy().ends_with(".lock") {
                continue;
            }
            let path = relative.join(name);
            if entry.file_type().context("stat", folder.join(&path))?.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        for (path, text) in [("demo/b.tar.zst", "demo/b.tar.zst"), ("my demo", "'my demo'"), ("it's", r"'it'\''s'")] {
            assert_eq!(quoted(Path::new(path)), text);
        }
    }
}
