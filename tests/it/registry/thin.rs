//! Thin bundles over what a registry has, and into one that has the rest.

use snapcask::{Error, model::Generation, since::Since};

use super::{server::Server, *};

const SMALL: u64 = 16 << 20;

fn export_since(fixture: &Fixture, snapshot: &str, base: Since, to: &Path) -> ExportReport {
    let options = export_options(&fixture.store, snapshot, Form::Tar, to);
    export(&ExportOptions { with_image: true, since: vec![base], ..options }).unwrap()
}

#[test]
fn a_thin_bundle_over_a_repository_is_completed_from_it() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (server, options) = (Server::start(), options(None));
    push_snapshot(&fixture, "middle", &server.reference("vm"), &options).unwrap();
    let base = at(&server.reference("vm:middle"), &options);
    let (thin, store) = (fixture.path("thin.tar"), fixture.path("target"));
    let report = export_since(&fixture, "head", Since::Bundle(base.clone()), &thin);
    assert_eq!(report.left_out.len(), 5, "two stacks' layers and three EROFS files");
    let alone = import(&import_options(&thin, &store)).unwrap_err();
    assert!(matches!(alone, Error::BaseMissing { .. }), "{alone}");
    let completed = import(&ImportOptions { bases: vec![base], ..import_options(&thin, &store) }).unwrap();
    assert_same_snapshot(fixture.head(), completed.snapshots[0].path.as_ref().unwrap());
}

#[test]
fn a_thin_bundle_goes_into_a_repository_that_has_the_rest() {
    let fixture = Fixture::sized(Generation::Flat, SMALL);
    let (server, options) = (Server::start(), options(None));
    let (thin, store) = (fixture.path("thin.tar"), fixture.path("target"));
    export_since(&fixture, "head", Since::Snapshot("middle".into()), &thin);
    let place = server.reference("vm");
    let error = push(&thin, &place, &options).unwrap_err();
    assert!(matches!(&error, Error::BaseMissing { layers, .. } if layers.len() == 5), "{error}");
    push_snapshot(&fixture, "middle", &place, &options).unwrap();
    push(&thin, &place, &options).unwrap();
    import_from(&server.reference("vm:head"), &options, &store).unwrap();
    assert_same_snapshot(fixture.head(), &store.join("snapshots/head"));
}
