//! `snapcask list`.

use std::collections::{HashMap, HashSet};

use snapcask::{
    Error, Result,
    model::SnapshotIdentity,
    report::{ListReport, ListedSnapshot},
    snapshot::{Snapshot, size::FullSize},
    store::{
        Store,
        group::{GroupFile, is_group_at},
        image_cache::image_files,
        root,
    },
};

use super::{args::ListArgs, output};

/// Runs the verb.
pub fn run(args: &ListArgs) -> Result<()> {
    let store = Store::at(args.store.resolve()?);
    root::existing(&store.root)?;
    let (mut found, mut unreadable) = store.all()?;
    let known: HashSet<SnapshotIdentity> = found.iter().flat_map(Snapshot::identities).collect();
    if let Some(group) = &args.group {
        let folder = store.snapshots().join(group.as_str());
        if !is_group_at(&folder)? {
            let hint = "; `snapcask list` shows the groups of the store".into();
            return Err(Error::NotFound { what: "group", path: folder, hint });
        }
        found.retain(|snapshot| snapshot.group.as_deref() == Some(group.as_str()));
        unreadable.retain(|(directory, _)| directory.starts_with(&folder));
    }
    let places: HashMap<SnapshotIdentity, usize> =
        found.iter().enumerate().flat_map(|(i, s)| s.identities().into_iter().map(move |id| (id, i))).collect();
    let parents: Vec<Option<usize>> =
        found.iter().map(|s| s.descriptor.parent.as_ref().and_then(|p| places.get(p)).copied()).collect();
    let rows = tree(&parents);
    let is_present = |snapshot: &Snapshot| snapshot.descriptor.parent.as_ref().is_some_and(|p| known.contains(p));
    let listed = rows.iter().map(|(i, _)| listed(&found[*i], is_present(&found[*i])));
    let snapshots = listed.collect::<Result<_>>()?;
    let denied: Vec<&Error> = unreadable.iter().map(|(_, error)| error).filter(|error| error.is_denied()).collect();
    let count = denied.len();
    let first = denied.first().map(|error| error.to_string());
    let unreadable = unreadable.into_iter().map(|(path, error)| (path, error.to_string())).collect();
    let cache_files = args.image_files.then(|| image_files(&store.cache())).transpose()?;
    let cache_files = cache_files.map(|files| files.iter().map(ToString::to_string).collect());
    let report = ListReport { store: store.root, snapshots, unreadable, cache_files };
    if args.common.json {
        output::json(&report)?;
    } else {
        let lines: Vec<&str> = rows.iter().map(|(_, lines)| lines.as_str()).collect();
        output::print(&text(&report, &lines, first.is_some()))?;
    }
    // What a right would show is no broken snapshot: a script must not take the list for all of it.
    match first {
        Some(first) => Err(Error::NotAllRead { count, first }),
        None => Ok(()),
    }
}

/// Parents before children, roots first, each with the lines that lead to it. Every snapshot is there once: one that
/// a circle of parents hides from the roots is shown as a root.
fn tree(parents: &[Option<usize>]) -> Vec<(usize, String)> {
    let mut children = vec![Vec::new(); parents.len()];
    for (child, parent) in parents.iter().enumerate() {
        if let Some(parent) = parent {
            children[*parent].push(child);
        }
    }
    let mut rows = Vec::with_capacity(parents.len());
    let mut shown = vec![false; parents.len()];
    let roots = (0..parents.len()).filter(|i| parents[*i].is_none());
    for root in roots.chain(0..parents.len()) {
        let mut stack = vec![(root, String::new(), String::new())];
        while let Some((at, own, below)) = stack.pop() {
            if std::mem::replace(&mut shown[at], true) {
                continue;
            }
            rows.push((at, own));
            let count = children[at].len();
            for (position, child) in children[at].iter().enumerate().rev() {
                let (branch, rest) = if position + 1 == count { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                stack.push((*child, format!("{below}{branch}"), format!("{below}{rest}")));
            }
        }
    }
    rows
}

fn listed(snapshot: &Snapshot, parent_present: bool) -> Result<ListedSnapshot> {
    let d = &snapshot.descriptor;
    let full = FullSize::of(&snapshot.directory, d)?;
    let group = snapshot.group.as_ref().map(|g| format!("{g}:")).unwrap_or_default();
    let head = match (&snapshot.group, snapshot.directory.parent()) {
        // One that cannot be read is `check`'s to tell.
        (Some(_), Some(folder)) => GroupFile::read(folder).ok(),
        _ => None,
    };
    Ok(ListedSnapshot {
        name: format!("{group}{}", snapshot.name),
        group: snapshot.group.clone(),
        is_head: matches!(head, Some(GroupFile::Head(head)) if Some(&head) == d.id.as_ref()),
        digest: d.digest,
        id: d.id.clone(),
        parent: d.parent.clone(),
        parent_present,
        generation: d.generation,
        virtual_size: full.map_or(d.virtual_size, |full| full.root_disk),
        allocated_bytes: full.map(|full| full.allocated),
        created_at: d.created_at.clone(),
        image: d.image.as_ref().map(|i| i.reference.clone()),
        path: snapshot.directory.clone(),
    })
}

/// A table; `lines` are the tree's lines before each name. Where something is `hidden`, a parent may be it.
fn text(report: &ListReport, lines: &[&str], hidden: bool) -> String {
    let mut rows: Vec<[String; 6]> = Vec::new();
    if !report.snapshots.is_empty() {
        rows.push(["NAME", "DIGEST", "GENERATION", "SIZE", "CREATED", "IMAGE"].map(Into::into));
    }
    for (snapshot, lines) in report.snapshots.iter().zip(lines) {
        let mut last = output::clean(snapshot.image.as_deref().unwrap_or("-"));
        if let Some(bytes) = snapshot.allocated_bytes {
            last += &format!("  (full, {} on disk)", output::size(bytes));
        }
        if let Some(parent) = snapshot.parent.as_ref().filter(|_| !snapshot.parent_present) {
            let is = if hidden { "may be one that cannot be read" } else { "not in the store" };
            last += &format!("  (parent {} {is})", output::short_identity(parent));
        }
        rows.push([
            format!("{lines}{}{}", output::clean(&snapshot.name), if snapshot.is_head { " *" } else { "" }),
            output::short(&snapshot.digest),
            snapshot.generation.as_str().into(),
            output::size(snapshot.virtual_size),
            output::clean(snapshot.created_at.as_deref().unwrap_or("-")),
            last,
        ]);
    }
    let widths: [usize; 5] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for [name, digest, generation, size, created, last] in &rows {
        let [a, b, c, d, e] = widths;
        text += &format!("{name:a$}  {digest:b$}  {generation:c$}  {size:>d$}  {created:e$}  {last}\n");
    }
    for (path, reason) in &report.unreadable {
        let path = output::clean(&path.display().to_string());
        text += &format!("{path}: not readable: {}\n", output::clean(reason));
    }
    if text.is_empty() {
        text = format!("no snapshots in {}\n", output::clean(&report.store.display().to_string()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapcask::{Digest, model::Generation};

    fn drawn(parents: &[Option<usize>]) -> Vec<String> {
        tree(parents).into_iter().map(|(i, lines)| format!("{lines}{i}")).collect()
    }

    #[test]
    fn children_stand_under_their_parents() {
        assert_eq!(
            drawn(&[Some(3), Some(0), Some(3), None, None, Some(0)]),
            ["3", "├─ 0", "│  ├─ 1", "│  └─ 5", "└─ 2", "4"]
        );
    }

    #[test]
    fn circles_lose_nothing() {
        assert_eq!(drawn(&[Some(1), Some(0), None, Some(3)]), ["2", "0", "└─ 1", "3"]);
    }

    #[test]
    fn columns_line_up_and_a_missing_parent_is_said() {
        let snapshot = |name: &str, parent: Option<Digest>, image: &str| ListedSnapshot {
            name: name.into(),
            group: None,
            is_head: name == "a",
            digest: Digest::of(name.as_bytes()),
            id: None,
            parent: parent.map(SnapshotIdentity::Digest),
            parent_present: false,
            generation: Generation::V066,
            virtual_size: 1 << 30,
            allocated_bytes: (name == "a").then_some(3 << 20),
            created_at: None,
            image: Some(image.into()),
            path: name.into(),
        };
        let report = ListReport {
            cache_files: None,
            store: "s".into(),
            snapshots: vec![snapshot("a", None, "alpine"), snapshot("bb", Some(Digest::of(b"x")), "al\x1bpine")],
            unreadable: vec![("s/junk".into(), "no descriptor".into())],
        };
        assert_eq!(
            text(&report, &["", "└─ "], false),
            "NAME   DIGEST               GENERATION     SIZE  CREATED  IMAGE\n\
             a *    sha256:ca978112ca1b  v066        1.0 GiB  -        alpine  (full, 3.0 MiB on disk)\n\
             └─ bb  sha256:3b64db95cb55  v066        1.0 GiB  -        al\\u{1b}pine  \
             (parent sha256:2d711642b726 not in the store)\n\
             s/junk: not readable: no descriptor\n"
        );
    }
}
