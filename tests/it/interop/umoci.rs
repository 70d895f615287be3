//! umoci works on layout directories; it shows, tags and sweeps ours, and says that they are no container images.

use snapcask::export::Form;
use snapcask::model::Generation;

use super::tools::{have, message, tool, tool_command};
use crate::fixture::*;

#[test]
fn umoci_lists_tags_and_sweeps_a_layout() {
    if !have("umoci_lists_tags_and_sweeps_a_layout", &["umoci"]) {
        return;
    }
    let fixture = Fixture::sized(Generation::Flat, 16 << 20);
    let bundle = fixture.path("bundle");
    fixture.export_chain(Form::Dir, &bundle);
    let layout = bundle.to_str().unwrap();
    let listed = tool("umoci", &["ls", "--layout", layout]);
    assert_eq!(listed.lines().collect::<Vec<_>>(), ["head", "middle", "base"]);
    let before = blobs(&bundle);
    tool("umoci", &["tag", "--image", &format!("{layout}:head"), "latest"]);
    tool("umoci", &["gc", "--layout", layout]);
    assert_eq!(blobs(&bundle), before, "a sweep leaves every blob of a chain");
    succeeds(&run(["verify", layout, "--deep"]));
    let store = fixture.path("target");
    succeeds(&run(["import", layout, "--tag", "latest", "--store", store.to_str().unwrap()]));
    for made in &fixture.snapshots {
        assert_same_snapshot(made, &store.join("snapshots").join(&made.name));
    }
    let unpack = ["unpack", "--rootless", "--image", &format!("{layout}:base"), fixture.path("out").to_str().unwrap()]
        .map(str::to_owned);
    let output = tool_command("umoci", fixture.dir.path()).args(unpack).output().unwrap();
    assert!(!output.status.success());
    assert!(message(&output).contains("config blob is not correct mediatype"), "{}", message(&output));
}
