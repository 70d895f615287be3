//! `head`, and the group and head of each snapshot in `list`.

use serde_json::{Value, json};
use snapcask::model::Generation;

use crate::{fixture::*, layout_checks::validate};

const SMALL: u64 = 16 << 20;

fn report(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeeds(&run(arguments))).unwrap()
}

#[test]
fn head_is_read_and_selected_by_name_and_by_id() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let store = fixture.store.to_str().unwrap();
    let file = fixture.store.join("snapshots").join(GROUP).join("group.json");
    let [base, middle, head] = [0, 1, 2].map(|n| fixture.snapshots[n].identity.as_str());
    write_group(file.parent().unwrap(), Some(head));
    let read = report(&["head", GROUP, "--store", store, "--json"]);
    validate("head-report", &read);
    assert_eq!((&read["head"], &read["name"], &read["changed"]), (&json!(head), &json!("head"), &json!(false)));
    for (member, id, previous, changed) in
        [("middle", middle, head, true), ("middle", middle, middle, false), (base, base, middle, true)]
    {
        let selected = report(&["head", &format!("{GROUP}:{member}"), "--store", store, "--json"]);
        validate("head-report", &selected);
        assert_eq!((&selected["previous"], &selected["head"]), (&json!(previous), &json!(id)));
        assert_eq!(selected["changed"], changed);
        assert_eq!(json_file(&file)["head"], id);
    }
    let text = succeeds(&run(["head", GROUP, "--store", store]));
    assert_eq!(text, format!("{GROUP}  head: {base}  base\n"));
}

#[test]
fn head_of_no_group_or_no_member_is_not_found() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let store = fixture.store.to_str().unwrap();
    let folder = fixture.store.join("snapshots").join(GROUP);
    write_group(&folder, None);
    let before = whole_tree(&fixture.store);
    assert!(succeeds(&run(["head", GROUP, "--store", store])).contains("head: none"));
    assert!(fails(&run(["head", "nobody", "--store", store]), 4).contains("group not found"));
    assert!(fails(&run(["head", "web:nobody", "--store", store]), 4).contains("no member \"nobody\""));
    fails(&run(["head", "../web", "--store", store]), 2);
    // A head that is gone is said, and can be replaced.
    write_group(&folder, Some(&format!("snap_{}", "9".repeat(32))));
    assert!(fails(&run(["head", GROUP, "--store", store]), 1).contains("is not a member"));
    assert_eq!(whole_tree(&fixture.store).len(), before.len());
    succeeds(&run(["head", "web:head", "--store", store]));
    assert_eq!(json_file(&folder.join("group.json"))["head"], fixture.head().identity);
}

#[test]
fn list_marks_heads_and_shows_one_group() {
    let fixture = Fixture::sized(Generation::Final, SMALL);
    let store = fixture.store.to_str().unwrap();
    let snapshots = fixture.store.join("snapshots");
    write_group(&snapshots.join(GROUP), Some(&fixture.head().identity));
    write_group(&snapshots.join("other"), None);
    let moved = &fixture.head();
    std::fs::rename(&moved.directory, snapshots.join("other").join(&moved.identity)).unwrap();
    write_group(&snapshots.join(GROUP), Some(&fixture.snapshots[1].identity));
    let all = report(&["list", "--store", store, "--json"]);
    validate("list-report", &all);
    let rows: Vec<_> =
        all["snapshots"].as_array().unwrap().iter().map(|s| (s["group"].clone(), s["isHead"].clone())).collect();
    assert_eq!(rows, [(json!(GROUP), json!(false)), (json!(GROUP), json!(true)), (json!("other"), json!(false))]);
    let text = succeeds(&run(["list", "--store", store, "--group", GROUP]));
    assert!(text.contains("web:middle *") && !text.contains("other"), "{text}");
    // The parent of what is shown is in the store, in another group.
    let other = report(&["list", "--store", store, "--group", "other", "--json"]);
    assert_eq!(
        (other["snapshots"].as_array().unwrap().len(), &other["snapshots"][0]["parentPresent"]),
        (1, &json!(true))
    );
    fails(&run(["list", "--store", store, "--group", "nobody"]), 4);
}
