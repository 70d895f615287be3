//! What each tool is asked to do, with the literal commands, and what must hold afterwards.

use std::fs;

use snapcask::Digest;

use super::case::{Content, Expect, Run};
use crate::fixture::*;

/// How an operation should end for a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Works,
    /// It cannot: its message begins with this.
    Refuses(&'static str),
    /// There is nothing to do.
    DoesNotApply,
}

/// One thing that a user does with one tool.
pub struct Operation {
    pub name: &'static str,
    pub tool: &'static str,
    /// The commands, as a user writes them.
    pub commands: &'static str,
    pub run: fn(&Run<'_>) -> Result<(), String>,
    pub expected: fn(Content) -> Verdict,
}

fn works(_: Content) -> Verdict {
    Verdict::Works
}

/// Every operation, in the order of `docs/interop.md`.
pub const OPERATIONS: [Operation; 12] = [
    Operation {
        name: "oras cp, layout directory",
        tool: "oras",
        commands: "oras cp --from-oci-layout bundle:head --to-plain-http REGISTRY/REPOSITORY:head\n\
                   oras cp --from-plain-http --to-oci-layout REGISTRY/REPOSITORY:head back:head\n\
                   snapcask import back",
        run: |run| oras_cp(run, run.case.directory.to_str().unwrap()),
        expected: works,
    },
    Operation {
        name: "oras cp, tar",
        tool: "oras",
        commands: "oras cp --from-oci-layout bundle.tar:head --to-plain-http REGISTRY/REPOSITORY:head\n\
                   oras cp --from-plain-http --to-oci-layout REGISTRY/REPOSITORY:head back:head\n\
                   snapcask import back",
        run: |run| oras_cp(run, run.case.tar.to_str().unwrap()),
        expected: works,
    },
    Operation {
        name: "oras pull",
        tool: "oras",
        commands: "oras pull --plain-http -o files REGISTRY/REPOSITORY:head",
        run: oras_pull,
        expected: works,
    },
    Operation {
        name: "oras discover",
        tool: "oras",
        commands: "oras discover --plain-http --format json REGISTRY/REPOSITORY@DIGEST-OF-BASE",
        run: oras_discover,
        expected: |content| match content {
            Content::OneSnapshot => Verdict::DoesNotApply,
            _ => Verdict::Works,
        },
    },
    Operation {
        name: "skopeo copy, layout directory",
        tool: "skopeo",
        commands: "skopeo copy --dest-tls-verify=false oci:bundle:base docker://REGISTRY/REPOSITORY:base    # then middle, head\n\
                   skopeo copy --src-tls-verify=false docker://REGISTRY/REPOSITORY:base oci:back:base       # then middle, head\n\
                   snapcask import back",
        run: skopeo_copy,
        expected: works,
    },
    Operation {
        name: "skopeo copy, tar",
        tool: "skopeo",
        commands: "skopeo copy --dest-tls-verify=false oci-archive:bundle.tar:head docker://REGISTRY/REPOSITORY:head\n\
                   skopeo copy --src-tls-verify=false docker://REGISTRY/REPOSITORY:head oci-archive:back.tar:head\n\
                   snapcask import back.tar --head-only",
        run: skopeo_archive,
        expected: works,
    },
    Operation {
        name: "crane push and pull",
        tool: "crane",
        commands: "crane push --insecure bundle REGISTRY/REPOSITORY:head\n\
                   crane pull --insecure --format=oci REGISTRY/REPOSITORY:head back\n\
                   snapcask import back",
        run: crane_push,
        expected: |content| match content {
            Content::OneSnapshot => Verdict::Works,
            _ => Verdict::Refuses("Error: layout contains 3 entries, consider --index"),
        },
    },
    Operation {
        name: "crane push --index, tag and pull",
        tool: "crane",
        commands: "crane push --insecure --index bundle REGISTRY/REPOSITORY:all\n\
                   crane tag --insecure REGISTRY/REPOSITORY@DIGEST-OF-HEAD head         # and the others\n\
                   crane pull --insecure --format=oci REGISTRY/REPOSITORY:base back    # then middle, head\n\
                   snapcask import back",
        run: crane_index,
        expected: works,
    },
    Operation {
        name: "crane push, tar",
        tool: "crane",
        commands: "crane push --insecure bundle.tar REGISTRY/REPOSITORY:head",
        run: |run| {
            run.tool("crane", &["push", "--insecure", run.case.tar.to_str().unwrap(), &run.remote("head")]).map(drop)
        },
        expected: |_| Verdict::Refuses("Error: loading DIR/bundle.tar as tarball: file manifest.json not found in tar"),
    },
    Operation {
        name: "regctl image import",
        tool: "regctl",
        commands: "regctl image import --name base REGISTRY/REPOSITORY:base bundle.tar    # then middle, head\n\
                   regctl image copy REGISTRY/REPOSITORY:base ocidir://back:base          # then middle, head\n\
                   snapcask import back",
        run: |run| {
            let tar = run.case.tar.to_str().unwrap();
            regctl(run, &|tag, remote| {
                vec!["image", "import", "--name", tag, remote, tar].into_iter().map(Into::into).collect()
            })
        },
        expected: works,
    },
    Operation {
        name: "regctl image copy",
        tool: "regctl",
        commands: "regctl image copy ocidir://bundle:base REGISTRY/REPOSITORY:base    # then middle, head\n\
                   regctl image copy REGISTRY/REPOSITORY:base ocidir://back:base      # then middle, head\n\
                   snapcask import back",
        run: |run| {
            let source = format!("ocidir://{}", run.case.directory.display());
            regctl(run, &|tag, remote| vec!["image".into(), "copy".into(), format!("{source}:{tag}"), remote.into()])
        },
        expected: works,
    },
    Operation {
        name: "snapcask push and pull",
        tool: "snapcask",
        commands: "snapcask push ./bundle oci://REGISTRY/REPOSITORY:head\n\
                   snapcask pull oci://REGISTRY/REPOSITORY:head -o back/\n\
                   snapcask import back",
        run: snapcask_push_and_pull,
        expected: works,
    },
];

fn oras_push(run: &Run<'_>, source: &str) -> Result<(), String> {
    let from = format!("{source}:{}", run.case.head().0);
    run.tool("oras", &["cp", "--no-tty", "--from-oci-layout", &from, "--to-plain-http", &run.remote("head")]).map(drop)
}

/// Of the head alone: the parents come along.
fn oras_cp(run: &Run<'_>, source: &str) -> Result<(), String> {
    oras_push(run, source)?;
    run.is_in_registry(Expect::Everything, Expect::HeadOnly)?;
    let back = run.local("back");
    let to = format!("{}:head", back.display());
    run.tool("oras", &["cp", "--no-tty", "--from-plain-http", &run.remote("head"), "--to-oci-layout", &to])?;
    run.imports(&back, Expect::Everything)
}

/// Every layer becomes a file with the layer's title and bytes.
fn oras_pull(run: &Run<'_>) -> Result<(), String> {
    oras_push(run, run.case.directory.to_str().unwrap())?;
    let files = run.local("files");
    run.tool("oras", &["pull", "--no-tty", "--plain-http", "-o", files.to_str().unwrap(), &run.remote("head")])?;
    let manifest = json_file(&run.case.directory.join("blobs/sha256").join(run.case.head().1.hex()));
    let layers = manifest["layers"].as_array().unwrap();
    for layer in layers {
        let title = layer["annotations"]["org.opencontainers.image.title"].as_str().unwrap();
        let bytes = fs::read(files.join(title)).map_err(|e| format!("no file {title}: {e}"))?;
        if layer["digest"] != Digest::of(&bytes).to_string() {
            return Err(format!("{title} does not have the bytes of its layer"));
        }
    }
    let found = tree(&files).len();
    if found == layers.len() { Ok(()) } else { Err(format!("{found} files of {} layers", layers.len())) }
}

/// The children of the first snapshot, and theirs.
fn oras_discover(run: &Run<'_>) -> Result<(), String> {
    oras_push(run, run.case.directory.to_str().unwrap())?;
    for pair in run.case.snapshots.windows(2) {
        let parent = format!("{}@{}", run.repository, pair[0].1);
        let text = run.tool("oras", &["discover", "--plain-http", "--format", "json", "--depth", "1", &parent])?;
        let seen: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let children = seen["referrers"].as_array().cloned().unwrap_or_default();
        let digests: Vec<&str> = children.iter().filter_map(|c| c["digest"].as_str()).collect();
        if digests != [pair[1].1.to_string()] {
            return Err(format!("the children of {} are {digests:?}", pair[0].0));
        }
    }
    Ok(())
}

/// skopeo does not follow subjects: one command a snapshot.
fn skopeo_copy(run: &Run<'_>) -> Result<(), String> {
    let back = run.local("back");
    for (tag, _) in &run.case.snapshots {
        let from = format!("oci:{}:{tag}", run.case.directory.display());
        let (remote, to) = (format!("docker://{}", run.remote(tag)), format!("oci:{}:{tag}", back.display()));
        run.tool("skopeo", &["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &from, &remote])?;
        run.tool("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &remote, &to])?;
    }
    run.is_in_registry(Expect::Everything, Expect::Everything)?;
    run.imports(&back, Expect::Everything)
}

fn skopeo_archive(run: &Run<'_>) -> Result<(), String> {
    let back = run.local("back.tar");
    let from = format!("oci-archive:{}:head", run.case.tar.display());
    let (remote, to) = (format!("docker://{}", run.remote("head")), format!("oci-archive:{}:head", back.display()));
    run.tool("skopeo", &["copy", "-q", "--insecure-policy", "--dest-tls-verify=false", &from, &remote])?;
    run.tool("skopeo", &["copy", "-q", "--insecure-policy", "--src-tls-verify=false", &remote, &to])?;
    run.is_in_registry(Expect::HeadOnly, Expect::HeadOnly)?;
    run.imports(&back, Expect::HeadOnly)
}

fn crane_push(run: &Run<'_>) -> Result<(), String> {
    let (back, remote) = (run.local("back"), run.remote("head"));
    run.tool("crane", &["push", "--insecure", run.case.directory.to_str().unwrap(), &remote])?;
    run.tool("crane", &["pull", "--insecure", "--format=oci", &remote, back.to_str().unwrap()])?;
    run.is_in_registry(Expect::Everything, Expect::HeadOnly)?;
    run.imports(&back, Expect::Everything)
}

/// The bundle as a collection; its members then get their tags.
fn crane_index(run: &Run<'_>) -> Result<(), String> {
    let back = run.local("back");
    run.tool("crane", &["push", "--insecure", "--index", run.case.directory.to_str().unwrap(), &run.remote("all")])?;
    for (tag, digest) in &run.case.snapshots {
        run.tool("crane", &["tag", "--insecure", &format!("{}@{digest}", run.repository), tag])?;
        run.tool("crane", &["pull", "--insecure", "--format=oci", &run.remote(tag), back.to_str().unwrap()])?;
    }
    run.is_in_registry(Expect::Everything, Expect::Everything)?;
    run.imports(&back, Expect::Everything)
}

/// regctl keeps the list of referrers but copies what it was asked for: one command a snapshot.
fn regctl(run: &Run<'_>, push: &dyn Fn(&str, &str) -> Vec<String>) -> Result<(), String> {
    let (back, host) = (run.local("back"), format!("reg={},tls=disabled", run.registry.host()));
    for (tag, _) in &run.case.snapshots {
        let (remote, to) = (run.remote(tag), format!("ocidir://{}:{tag}", back.display()));
        let push = push(tag, &remote);
        let arguments: Vec<&str> = ["--host", &host].into_iter().chain(push.iter().map(String::as_str)).collect();
        run.tool("regctl", &arguments)?;
        run.tool("regctl", &["--host", &host, "image", "copy", &remote, &to])?;
    }
    run.is_in_registry(Expect::Everything, Expect::Everything)?;
    run.imports(&back, Expect::Everything)
}

fn snapcask_push_and_pull(on: &Run<'_>) -> Result<(), String> {
    let (back, remote) = (on.local("back"), format!("oci://{}", on.remote("head")));
    let to = format!("{}/", back.display());
    for arguments in [["push", on.case.directory.to_str().unwrap(), &remote, "-q"], ["pull", &remote, "-o", &to]] {
        let output = run(arguments);
        if !output.status.success() {
            return Err(super::tools::message(&output));
        }
    }
    on.is_in_registry(Expect::Everything, Expect::HeadOnly)?;
    on.imports(&back, Expect::Everything)
}
