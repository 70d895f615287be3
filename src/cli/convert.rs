//! `snapcask convert`.

use std::io::IsTerminal;

use snapcask::{
    Error, Result,
    convert::{ConvertOptions, convert},
    export::{Destination, Form},
    reference::{Host, Version},
};

use super::{args::ConvertArgs, destination, export, import, output, progress, registry};

/// Runs the verb. The report goes to standard error when the bundle goes to standard output.
pub fn run(args: ConvertArgs) -> Result<()> {
    let options = |host: &Host| args.registry.options_for(host);
    let (destination, form) = match registry::destination(&args.output, &options)? {
        Some(_) if args.plain_tar || args.format.is_some() => {
            return Err(Error::Usage("a registry has one form; leave --format and --plain-tar out".into()));
        }
        Some((destination, form)) => (destination, form),
        None => {
            let asked: Option<Form> = args.format.map(Into::into);
            destination::resolve(&args.output, asked, args.plain_tar, std::io::stdout().is_terminal())?
        }
    };
    let named = match &destination {
        Destination::Registry(reference, _) => match &reference.version {
            Some(Version::Tag(tag)) => Some(tag.to_string()),
            Some(Version::Digest(_) | Version::Checked(..)) => {
                return Err(Error::Usage(format!("{reference} names a digest; a conversion names a tag, or none")));
            }
            None => None,
        },
        _ => None,
    };
    let locate = |arguments: &[std::ffi::OsString]| -> Result<Vec<_>> {
        arguments.iter().map(|argument| import::location(argument, args.window.max_window, &options)).collect()
    };
    let report = convert(&ConvertOptions {
        sources: locate(&args.sources)?,
        bases: locate(&args.base)?,
        destination: destination.clone(),
        form,
        head_only: args.head_only,
        delta: !args.no_delta,
        compression: args.compression,
        tag: registry::one_tag(named, args.tag)?,
        force: args.force,
        max_bytes: args.max_bytes,
        max_files: args.max_files,
        jobs: args.jobs.resolve(),
        progress: progress::for_output(&args.common),
    })?;
    match (args.common.json, args.common.quiet, destination == Destination::Stdout) {
        (true, _, false) => output::json(&report),
        (true, _, true) => {
            output::print_error(&output::to_json(&report)?);
            Ok(())
        }
        (false, true, _) => Ok(()),
        (false, false, false) => output::print(&export::text(&report)),
        (false, false, true) => {
            output::print_error(&export::text(&report));
            Ok(())
        }
    }
}
