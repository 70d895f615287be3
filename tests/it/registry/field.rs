//! How registries behave in the field: a row for each behaviour, with its source. Every row runs a push of 40 MiB, straight
//! from the store and of a bundle, the push of a child, a pull, an import, and all of them cut at 30 % and 80 %.
//!
//! `docs/registries.md` has the table. `SNAPCASK_WRITE_DOCS=1` writes it.

use std::{fs, path::Path, sync::OnceLock};

use snapcask::{
    export::{ExportOptions, Form, export},
    model::Generation,
    registry::{ChunkSize, Options},
    report::ExportReport,
};

use super::{
    import_from, options, pull, push, registry,
    server::{Behaviour, Digests, Heads, Locations, Parts, Ranges, Server},
};
use crate::fixture::*;

const MIB: u64 = 1 << 20;

/// A behaviour.
struct Row {
    what: &'static str,
    /// Who does it, and where that is told.
    source: &'static str,
    behaviour: Behaviour,
}

fn row(what: &'static str, source: &'static str, behaviour: Behaviour) -> Row {
    Row { what, source, behaviour }
}

fn uploads() -> Vec<Row> {
    let none = Behaviour::default;
    let ecr = "ECR: aws/containers-roadmap#2831, dotnet/sdk#33019";
    let google = "Google Artifact Registry: skopeo#1101, kitops#777";
    let aliyun = "Aliyun, zot before mid-2025: regclient#627, #961";
    vec![
        row("as the specification has it", "distribution-spec 1.1", none()),
        row("a chunk is taken, `Range` stays at the first", ecr, Behaviour { ranges: Ranges::Stuck, ..none() }),
        row("a chunk is taken with 201", ecr, Behaviour { chunk_status: Some(201), ..none() }),
        row("parts under 5 MiB are refused at the end", ecr, Behaviour { min_part: Some(5 * MIB), ..none() }),
        row(
            "a stuck `Range`, 201, and no part under 5 MiB",
            ecr,
            Behaviour { ranges: Ranges::Stuck, chunk_status: Some(201), min_part: Some(5 * MIB), ..none() },
        ),
        row(
            "requests over 4 MiB are answered 416",
            "GHCR: rust-oci-client#35",
            Behaviour { max_request: Some((4 * MIB, 416)), ..none() },
        ),
        row(
            "requests over 4 MiB are answered 413",
            "proxies: rust-oci-client#35",
            Behaviour { max_request: Some((4 * MIB, 413)), ..none() },
        ),
        row("chunks are answered 400", google, Behaviour { refuse_chunks: Some(400), ..none() }),
        row("chunks are answered 403", google, Behaviour { refuse_chunks: Some(403), ..none() }),
        row("chunks are answered 404", google, Behaviour { refuse_chunks: Some(404), ..none() }),
        row("chunks are answered 405", google, Behaviour { refuse_chunks: Some(405), ..none() }),
        row("chunks are answered 416", google, Behaviour { refuse_chunks: Some(416), ..none() }),
        row("chunks are answered 500, for ever", google, Behaviour { refuse_chunks: Some(500), ..none() }),
        row("the second chunk is answered 400", google, Behaviour { one_chunk: Some(400), ..none() }),
        row("the second chunk is answered 404", google, Behaviour { one_chunk: Some(404), ..none() }),
        row("the second chunk is answered 416", google, Behaviour { one_chunk: Some(416), ..none() }),
        row(
            "chunks of less than 200 MiB are not wanted",
            "distribution-spec 1.1, OCI-Chunk-Min-Length",
            Behaviour { min_chunk: Some(200 * MIB), ..none() },
        ),
        row("`Range` covers the last chunk only", aliyun, Behaviour { ranges: Ranges::LastChunk, ..none() }),
        row("`Range` is one too far", aliyun, Behaviour { ranges: Ranges::OffByOne, ..none() }),
        row("`Range` begins with `bytes=`", aliyun, Behaviour { ranges: Ranges::WithUnit, ..none() }),
        row("`Range` begins at the last chunk", aliyun, Behaviour { ranges: Ranges::StartToEnd, ..none() }),
        row("`Range` is always 0-0", aliyun, Behaviour { ranges: Ranges::Zero, ..none() }),
        row("no `Range`", aliyun, Behaviour { ranges: Ranges::Absent, ..none() }),
        row(
            "nobody may ask how far an upload is",
            "registries behind proxies",
            Behaviour { no_status: true, ..none() },
        ),
        row("two chunks meet a reset connection", "load balancers", Behaviour { resets: 2, ..none() }),
    ]
}

fn answers() -> Vec<Row> {
    let none = Behaviour::default;
    let spec = "distribution-spec 1.1";
    vec![
        row("the upload's Location is absolute", spec, Behaviour { locations: Locations::Absolute, ..none() }),
        row("the Location has no scheme", "RFC 3986", Behaviour { locations: Locations::WithoutScheme, ..none() }),
        row("the Location has a query", "distribution", Behaviour { locations: Locations::WithState, ..none() }),
        row("a blob is taken with 202", "Artifactory", Behaviour { blob_status: Some(202), ..none() }),
        row("no Docker-Content-Digest", spec, Behaviour { digests: Digests::Absent, ..none() }),
        row("the digest in quotes", "proxies", Behaviour { digests: Digests::Quoted, ..none() }),
        row("the digest as SHA-512", "distribution-spec 1.1", Behaviour { digests: Digests::Sha512, ..none() }),
        row(
            "blobs are unknown for 400 ms",
            "ECR: clowdhaus/ocync#104; openshift/image-registry#220",
            Behaviour { lag: 400, ..none() },
        ),
        row("403 that means a rate limit", "GHCR: kubeswift#452", Behaviour { limited: 4, ..none() }),
        row("429", "Docker Hub", Behaviour { too_many: 3, retry_after: "0", ..none() }),
        row(
            "HEAD of an absent blob is answered 403",
            "Artifactory: go-containerregistry#1691",
            Behaviour { head_of_absent: Some(403), ..none() },
        ),
        row(
            "HEAD of an absent blob is answered 401",
            "Artifactory: go-containerregistry#1691",
            Behaviour { head_of_absent: Some(401), ..none() },
        ),
        row("HEAD of a blob is answered 405", "CDNs", Behaviour { head_of_blob: Some(405), ..none() }),
        row("HEAD of a blob is answered 500", "CDNs", Behaviour { head_of_blob: Some(500), ..none() }),
        row("HEAD of a blob says 0 bytes", "proxies", Behaviour { empty_heads: true, ..none() }),
        row("HEAD of a manifest is answered 403", "Artifactory", Behaviour { heads: Heads::Refused(403), ..none() }),
        row("no referrers API", "distribution 2", Behaviour { no_referrers: true, ..none() }),
        row(
            "no referrers API, and no indexes",
            "GHCR once",
            Behaviour { no_referrers: true, no_indexes: true, ..none() },
        ),
        row(
            "tags cannot be moved, the one of referrers neither",
            "Harbor, ECR: harbor#17332",
            Behaviour { no_referrers: true, immutable: Some(400), ..none() },
        ),
        row(
            "the same with 409",
            "Harbor: harbor#17332",
            Behaviour { no_referrers: true, immutable: Some(409), ..none() },
        ),
        row(
            "a token that has expired is answered 403",
            "ECR",
            Behaviour { realm: Some(String::new()), expires: 1, ..none() },
        ),
        row("the connection breaks now and then", "networks", Behaviour { fail_every: Some(7), ..none() }),
    ]
}

fn downloads() -> Vec<Row> {
    let none = Behaviour::default;
    let star = "Artifactory: oras-go#368";
    vec![
        row(
            "a range without an end is answered 416",
            "go-containerregistry (`crane registry serve`)",
            Behaviour { parts: Parts::EndWanted, ..none() },
        ),
        row("ranges are answered 416", "registries behind CDNs", Behaviour { parts: Parts::Refused(416), ..none() }),
        row("ranges are answered 400", "registries behind CDNs", Behaviour { parts: Parts::Refused(400), ..none() }),
        row("ranges are answered 403", "signed URLs", Behaviour { parts: Parts::Refused(403), ..none() }),
        row("ranges are answered 501", "registries behind CDNs", Behaviour { parts: Parts::Refused(501), ..none() }),
        row("ranges are ignored", "RFC 9110", Behaviour { no_ranges: true, ..none() }),
        row("another range comes", "proxies", Behaviour { wrong_range: true, ..none() }),
        row("206 without Content-Range", star, Behaviour { parts: Parts::WithoutRange, ..none() }),
        row("Content-Range with `*` for the size", star, Behaviour { parts: Parts::StarSize, ..none() }),
        row("Content-Range without a size", star, Behaviour { parts: Parts::NoSize, ..none() }),
        row("`Bytes 0-1/2`", "RFC 9110: units have no case", Behaviour { parts: Parts::UpperCase, ..none() }),
        row("`bytes=0-1/2`", "proxies", Behaviour { parts: Parts::WithEquals, ..none() }),
        row("a range goes on to the end", "proxies", Behaviour { parts: Parts::ToTheEnd, ..none() }),
        row(
            "URLs that are good once and take no HEAD",
            "CDNs of Docker Hub, Quay and GHCR",
            Behaviour { one_use_urls: true, ..none() },
        ),
        row("blobs come compressed", "proxies", Behaviour { gzip: true, ..none() }),
        row("blobs come without a length", "proxies", Behaviour { chunked: true, ..none() }),
    ]
}

/// A snapshot with a layer of 40 MiB and its child, each in a bundle.
struct Field {
    fixture: Fixture,
    base: std::path::PathBuf,
    child: std::path::PathBuf,
    report: ExportReport,
    pulled: Identity,
}

impl Field {
    fn get() -> &'static Self {
        static FIELD: OnceLock<Field> = OnceLock::new();
        FIELD.get_or_init(|| {
            let mut fixture = Fixture::empty(Generation::Flat);
            let big = (0, random(40 << 20, 5));
            fixture.add("base", 0, 64 * MIB, std::slice::from_ref(&big), serde_json::Value::Null);
            fixture.add("child", 1, 64 * MIB, &[big, (48 << 20, random(1 << 20, 6))], serde_json::Value::Null);
            let [base, child] = ["base", "child"].map(|name| fixture.path(&format!("{name}-bundle")));
            export(&export_options(&fixture.store, "base", Form::Dir, &base)).unwrap();
            let options = export_options(&fixture.store, "child", Form::Dir, &child);
            let report = export(&ExportOptions { with_parents: true, ..options }).unwrap();
            let server = Server::start();
            push(&child, &server.reference("vm"), &as_people_do()).unwrap();
            let file = fixture.path("expected.tar");
            pull(&server.reference("vm:child"), &as_people_do(), &file, Form::Tar).unwrap();
            let pulled = identity(&file);
            Self { fixture, base, child, report, pulled }
        })
    }
}

fn as_people_do() -> Options {
    Options { chunk: ChunkSize::Automatic, ..options(None) }
}

fn run(row: &Row) {
    let (field, options, what) = (Field::get(), as_people_do(), row.what);
    let scratch = tempfile::tempdir().unwrap();
    let fresh = || {
        let server = Server::start();
        server.behave(row.behaviour.clone());
        server
    };
    let is_complete = |server: &Server| {
        assert_eq!(server.tag("vm", "child"), field.report.snapshots[0].manifest, "{what}");
        server.check_blobs();
    };
    let file = scratch.path().join("pulled.tar");
    let pull_and_import = |server: &Server, name: &str| {
        pull(&server.reference("vm:child"), &options, &file, Form::Tar).unwrap_or_else(|e| panic!("{what}: pull: {e}"));
        assert_eq!(identity(&file), field.pulled, "{what}");
        let store = scratch.path().join(name);
        let report = import_from(&server.reference("vm:child"), &options, &store);
        let report = report.unwrap_or_else(|e| panic!("{what}: import: {e}"));
        assert_same_snapshot(field.fixture.head(), report.snapshots[0].path.as_ref().unwrap());
        fs::remove_dir_all(&store).unwrap();
    };
    // A bundle: the base, then the child over it.
    let server = fresh();
    push(&field.base, &server.reference("vm"), &options).unwrap_or_else(|e| panic!("{what}: push: {e}"));
    push(&field.child, &server.reference("vm"), &options).unwrap_or_else(|e| panic!("{what}: push of a child: {e}"));
    is_complete(&server);
    pull_and_import(&server, "store");
    // Straight from the store, cut.
    let whole = field.report.blob_bytes;
    for percent in [30, 80] {
        let server = Server::start();
        server.behave(Behaviour { cut_received: vec![whole * percent / 100], ..row.behaviour.clone() });
        export(&ExportOptions {
            destination: registry(&server.reference("vm"), &options),
            with_parents: true,
            ..export_options(&field.fixture.store, "child", Form::Registry, Path::new("unused"))
        })
        .unwrap_or_else(|e| panic!("{what}: push cut at {percent} %: {e}"));
        is_complete(&server);
        server.behave(Behaviour { cut_sent: vec![whole * percent / 100], ..row.behaviour.clone() });
        pull_and_import(&server, &format!("store-{percent}"));
    }
}

#[test]
fn uploads_reach_every_registry() {
    uploads().iter().for_each(run);
}

#[test]
fn answers_of_every_registry_are_understood() {
    answers().iter().for_each(run);
}

#[test]
fn downloads_come_from_every_registry() {
    downloads().iter().for_each(run);
}

#[test]
fn documentation_lists_every_behaviour() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/registries.md");
    let mut table = String::from("| behaviour | source |\n|---|---|\n");
    for (title, rows) in [("Uploads", uploads()), ("Answers", answers()), ("Downloads", downloads())] {
        table += &format!("| **{title}** | |\n");
        rows.iter().for_each(|row| table += &format!("| {} | {} |\n", row.what, row.source));
    }
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- behaviours -->\n").unwrap();
    let (found, after) = rest.split_once("<!-- end of behaviours -->").unwrap();
    if std::env::var_os("SNAPCASK_WRITE_DOCS").is_some() {
        let text = format!("{before}<!-- behaviours -->\n{table}<!-- end of behaviours -->{after}");
        fs::write(&path, text).unwrap();
    } else {
        assert_eq!(found, table, "SNAPCASK_WRITE_DOCS=1 writes the table");
    }
}
