//! `snapcask inspect`.

use std::{os::unix::fs::MetadataExt, path::Path};

use snapcask::{
    Result,
    check_bundle::inspect_bundle,
    error::IoContext,
    report::{FileReport, InspectReport, InspectedSnapshot},
    snapshot::{
        Snapshot,
        scan::{SourceFile, scan},
    },
    store::Store,
};

use super::{
    args::InspectArgs,
    argument::{self, Meant},
    import::location,
    output, progress,
};

/// Runs the verb: a bundle if the argument is one, else a snapshot of the store.
pub fn run(args: &InspectArgs) -> Result<()> {
    let report = match argument::meant(&args.what)? {
        Meant::Bundle => {
            let location = location(&args.what, args.window.max_window, &|host| args.registry.options_for(host))?;
            inspect_bundle(&location, progress::for_output(&args.common).as_ref())?
        }
        Meant::Snapshot(reference) => {
            let store = Store::at(args.store.resolve()?);
            let chain = store.chain_there(store.find(&reference)?)?;
            // A path may lead out of the store.
            let source = if is_path(&reference) { Path::new(&args.what) } else { store.root.as_path() };
            InspectReport {
                source: source.display().to_string(),
                snapshots: chain.iter().map(inspected).collect::<Result<_>>()?,
                blob_bytes: None,
                archive: None,
            }
        }
    };
    if args.common.json { output::json(&report) } else { output::print(&text(&report)) }
}

/// Whether a reference is a path, as [`Store::find`] has it.
fn is_path(reference: &str) -> bool {
    reference.contains('/') || matches!(reference, "." | "..")
}

/// What the descriptor and the folder say. Data bytes are those that are allocated: nothing is read.
fn inspected(snapshot: &Snapshot) -> Result<InspectedSnapshot> {
    let descriptor = &snapshot.descriptor;
    let allocated = |file: &SourceFile| -> Result<u64> {
        Ok((file.absolute.metadata().context("look at", &file.absolute)?.blocks() * 512).min(file.size))
    };
    let files = scan(snapshot)?
        .iter()
        .map(|file| {
            Ok(FileReport {
                path: file.path.to_string(),
                size: file.size,
                data_bytes: allocated(file)?,
                executable: file.executable,
            })
        })
        .collect::<Result<_>>()?;
    Ok(InspectedSnapshot {
        tag: None,
        digest: descriptor.digest,
        id: descriptor.id.clone(),
        name: snapshot.name.clone(),
        parent: descriptor.parent.clone(),
        image: descriptor.image.clone(),
        generation: descriptor.generation,
        format: descriptor.format.clone(),
        created_at: descriptor.created_at.clone(),
        manifest: None,
        files,
        layers: Vec::new(),
    })
}

/// The report for people.
fn text(report: &InspectReport) -> String {
    let mut text = format!("{}\n", output::clean(&report.source));
    for (position, snapshot) in report.snapshots.iter().enumerate() {
        let role = if position == 0 { "head" } else { "parent" };
        text += &format!("\n{role} {}  {}\n", output::clean(&snapshot.name), snapshot.digest);
        let mut line = |label: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!("  {label:10} {}\n", output::clean(&value));
            }
        };
        line("tag", snapshot.tag.clone().filter(|tag| *tag != snapshot.name));
        line("id", snapshot.id.clone());
        line("parent", snapshot.parent.as_ref().map(ToString::to_string));
        line("generation", Some(format!("{}, {} disk", snapshot.generation.as_str(), snapshot.format)));
        line("created", snapshot.created_at.clone());
        line("image", snapshot.image.as_ref().map(|i| format!("{}  {}", i.reference, i.manifest_digest)));
        line("manifest", snapshot.manifest.map(|m| m.to_string()));
        for file in &snapshot.files {
            let data = output::size(file.data_bytes);
            let executable = if file.executable { ", executable" } else { "" };
            line("file", Some(format!("{}  {} ({data} of data{executable})", file.path, output::size(file.size))));
        }
        for layer in &snapshot.layers {
            let shared =
                if layer.used_by > 1 { format!(", shared by {} snapshots", layer.used_by) } else { String::new() };
            let name = output::short(&layer.digest);
            let left_out = if layer.left_out { ", left out" } else { "" };
            line(
                layer.kind,
                Some(format!("{name}  {}{left_out}{shared}  {}", output::size(layer.size), layer.files.join(" "))),
            );
        }
    }
    if report.snapshots.iter().flat_map(|snapshot| &snapshot.layers).any(|layer| layer.left_out) {
        text +=
            "\nlayers are left out: an import needs what the bundle was made over, installed or named with --base\n";
    }
    if let Some(archive) = &report.archive {
        let image = match archive.cache_files.len() {
            0 => String::new(),
            count => format!(", {} of the image", output::count(count, "file")),
        };
        let files = output::count(archive.files, "file");
        text += &format!("\narchive of msb ({}): {files}{image}, {}\n", archive.form, output::size(archive.bytes));
        for path in &archive.left_out {
            text += &format!("left out  {}\n", output::clean(path));
        }
    }
    if let Some(bytes) = report.blob_bytes {
        text += &format!("\n{} in all blobs\n", output::size(bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapcask::{Digest, model::Generation, report::LayerReport};

    #[test]
    fn shared_layers_are_said_and_control_characters_are_not_printed() {
        let digest = Digest::of(b"a");
        let snapshot = InspectedSnapshot {
            tag: Some("a".into()),
            digest,
            id: None,
            name: "a".into(),
            parent: None,
            image: None,
            generation: Generation::Flat,
            format: "raw".into(),
            created_at: Some("now\n\x1b[2J".into()),
            manifest: None,
            files: vec![FileReport { path: "run".into(), size: 10, data_bytes: 10, executable: true }],
            layers: vec![LayerReport {
                digest,
                kind: "base",
                size: 7,
                files: vec!["run".into()],
                used_by: 2,
                left_out: false,
            }],
        };
        let report =
            InspectReport { source: "b.tar".into(), snapshots: vec![snapshot], blob_bytes: Some(7), archive: None };
        assert_eq!(
            text(&report),
            format!(
                "b.tar\n\nhead a  {digest}\n  generation flat, raw disk\n  created    now\\n\\u{{1b}}[2J\n  \
                 file       run  10 B (10 B of data, executable)\n  \
                 base       sha256:ca978112ca1b  7 B, shared by 2 snapshots  run\n\n7 B in all blobs\n"
            )
        );
    }
}
