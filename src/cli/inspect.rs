//! `snapcask inspect`.

use std::{os::unix::fs::MetadataExt, path::Path};

use snapcask::{
    Error, Result,
    check_bundle::inspect_bundle,
    report::{FileReport, InspectReport, InspectedSnapshot},
    snapshot::{Snapshot, scan::scan},
    store::Store,
};

use super::{args::InspectArgs, import::location, output};

/// Runs the verb: a bundle if the argument is one, else a snapshot of the store.
pub fn run(args: &InspectArgs) -> Result<()> {
    let path = Path::new(&args.what);
    let report = if args.what == "-" || path.is_file() || path.join("oci-layout").exists() {
        inspect_bundle(&location(&args.what))?
    } else {
        let store = Store::at(args.store.resolve()?);
        let chain = match store.find(&args.what).and_then(|head| store.chain(head)) {
            // A snapshot can be looked at without its parents.
            Err(Error::ParentNotFound { .. }) => vec![store.find(&args.what)?],
            other => other?,
        };
        InspectReport {
            source: store.root.display().to_string(),
            snapshots: chain.iter().map(inspected).collect::<Result<_>>()?,
            blob_bytes: None,
        }
    };
    if args.common.json {
        output::json(&report);
    } else if !args.common.quiet {
        print!("{}", text(&report));
    }
    Ok(())
}

fn inspected(snapshot: &Snapshot) -> Result<InspectedSnapshot> {
    let descriptor = &snapshot.descriptor;
    let files = scan(snapshot)?
        .iter()
        .map(|file| FileReport {
            path: file.path.to_string(),
            size: file.size,
            data_bytes: file.absolute.metadata().map_or(0, |m| (m.blocks() * 512).min(file.size)),
            executable: file.executable,
        })
        .collect();
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

fn text(report: &InspectReport) -> String {
    let mut text = format!("{}\n", report.source);
    for snapshot in &report.snapshots {
        text += &format!("\n{}  {}\n", snapshot.name, snapshot.digest);
        let mut line = |label: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!("  {label:10} {value}\n");
            }
        };
        line("tag", snapshot.tag.clone().filter(|tag| *tag != snapshot.name));
        line("id", snapshot.id.clone());
        line("parent", snapshot.parent.as_ref().map(ToString::to_string));
        line("generation", Some(format!("{}, {} disk", snapshot.generation.as_str(), snapshot.format)));
        line("created", snapshot.created_at.clone());
        line("image", snapshot.image.as_ref().map(|i| i.reference.clone()));
        line("manifest", snapshot.manifest.map(|m| m.to_string()));
        for file in &snapshot.files {
            let data = output::size(file.data_bytes);
            line("file", Some(format!("{}  {} ({data} of data)", file.path, output::size(file.size))));
        }
        for layer in &snapshot.layers {
            let shared = if layer.used_by > 1 { format!(", shared by {}", layer.used_by) } else { String::new() };
            let name = output::short(&layer.digest);
            line(layer.kind, Some(format!("{name}  {}{shared}  {}", output::size(layer.size), layer.files.join(" "))));
        }
    }
    if let Some(bytes) = report.blob_bytes {
        text += &format!("\n{} in all blobs\n", output::size(bytes));
    }
    text
}
