//! `snapcask list`.

use std::collections::HashMap;

use snapcask::{
    Result,
    model::SnapshotIdentity,
    report::{ListReport, ListedSnapshot},
    snapshot::Snapshot,
    store::Store,
};

use super::{args::ListArgs, output};

/// Runs the verb.
pub fn run(args: &ListArgs) -> Result<()> {
    let store = Store::at(args.store.resolve()?);
    let (snapshots, unreadable) = store.all()?;
    let places: HashMap<SnapshotIdentity, usize> =
        snapshots.iter().enumerate().flat_map(|(i, s)| s.identities().into_iter().map(move |id| (id, i))).collect();
    let mut tree = Tree { snapshots: &snapshots, children: vec![Vec::new(); snapshots.len()], rows: Vec::new() };
    let mut roots = Vec::new();
    for (i, snapshot) in snapshots.iter().enumerate() {
        match snapshot.descriptor.parent.as_ref().and_then(|p| places.get(p)) {
            Some(parent) if *parent != i => tree.children[*parent].push(i),
            _ => roots.push(i),
        }
    }
    for root in &roots {
        tree.walk(*root);
    }
    if args.common.json {
        let listed = tree.rows.iter().map(|(i, _)| listed(&snapshots[*i], &places)).collect();
        output::json(&ListReport { store: store.root.clone(), snapshots: listed, unreadable });
    } else if !args.common.quiet {
        for (i, indent) in &tree.rows {
            println!("{}", row(&listed(&snapshots[*i], &places), indent));
        }
        for (path, reason) in &unreadable {
            println!("{}  unreadable: {reason}", path.display());
        }
        if tree.rows.is_empty() && unreadable.is_empty() {
            println!("no snapshots in {}", store.snapshots().display());
        }
    }
    Ok(())
}

struct Tree<'a> {
    snapshots: &'a [Snapshot],
    children: Vec<Vec<usize>>,
    rows: Vec<(usize, String)>,
}

impl Tree<'_> {
    /// Parents before children, each with the lines that lead to it.
    fn walk(&mut self, root: usize) {
        let mut stack = vec![(root, String::new(), String::new())];
        while let Some((at, own, below)) = stack.pop() {
            self.rows.push((at, own));
            if self.rows.len() > self.snapshots.len() {
                return;
            }
            let count = self.children[at].len();
            for (position, child) in self.children[at].iter().enumerate().rev() {
                let (branch, rest) = if position + 1 == count { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                stack.push((*child, format!("{below}{branch}"), format!("{below}{rest}")));
            }
        }
    }
}

fn listed(snapshot: &Snapshot, places: &HashMap<SnapshotIdentity, usize>) -> ListedSnapshot {
    let d = &snapshot.descriptor;
    let group = snapshot.group.as_ref().map(|g| format!("{g}:")).unwrap_or_default();
    ListedSnapshot {
        name: format!("{group}{}", snapshot.name),
        digest: d.digest,
        id: d.id.clone(),
        parent: d.parent.clone(),
        parent_present: d.parent.as_ref().is_some_and(|p| places.contains_key(p)),
        generation: d.generation,
        virtual_size: d.virtual_size,
        created_at: d.created_at.clone(),
        image: d.image.as_ref().map(|i| i.reference.clone()),
        path: snapshot.directory.clone(),
    }
}

fn row(snapshot: &ListedSnapshot, indent: &str) -> String {
    let missing = match &snapshot.parent {
        Some(parent) if !snapshot.parent_present => format!("  (parent {parent} is not in the store)"),
        _ => String::new(),
    };
    format!(
        "{indent}{}  {}  {}  {}  {}  {}{missing}",
        snapshot.name,
        output::short(&snapshot.digest),
        snapshot.generation.as_str(),
        output::size(snapshot.virtual_size),
        snapshot.created_at.as_deref().unwrap_or("-"),
        snapshot.image.as_deref().unwrap_or("-"),
    )
}
