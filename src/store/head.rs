//! Which member of a group becomes its head when snapshots arrive: the table of msb 0.7.
//!
//! Source: `head_update`, `batch_head_update` and `validate_ancestry` in `group.rs` of microsandbox 0.7.13.

use std::collections::{BTreeSet, HashSet};

use super::group::Members;
use crate::{
    error::{Error, Result},
    model::GroupName,
    report::{HeadCase, HeadUpdate},
};

/// Longest chain of parents that is followed.
const MAX_DEPTH: usize = 65_536;

/// How snapshots that arrive change the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadRule {
    /// By msb's table.
    Automatic,
    /// The new snapshot becomes the head (`--set-head`).
    Select,
}

/// Decides on the head of `group` after `candidates` have become members. `members` has all of them.
///
/// # Errors
/// [`Error::Usage`] for [`HeadRule::Select`] with several candidates of which none descends from all others;
/// [`Error::InvalidBundle`] for a chain of parents that is a circle.
pub fn decide(
    group: &GroupName,
    head: Option<&str>,
    candidates: &BTreeSet<String>,
    members: &Members,
    rule: HeadRule,
) -> Result<HeadUpdate> {
    let update = |case: HeadCase, new: Option<&str>| HeadUpdate {
        group: group.clone(),
        previous: head.map(str::to_owned),
        head: new.map(str::to_owned),
        case,
    };
    let tips = tips(candidates, members);
    if let (true, Some(first)) = (tips.is_empty(), candidates.first()) {
        return Err(circle(first));
    }
    let [tip] = tips[..] else {
        return match rule {
            HeadRule::Select => Err(Error::Usage(format!(
                "--set-head cannot choose between {}; leave it out, then use `snapcask head {group}:MEMBER`",
                tips.join(", ")
            ))),
            HeadRule::Automatic => Ok(update(HeadCase::Ambiguous, head)),
        };
    };
    Ok(match (head, rule) {
        (Some(head), _) if head == tip => update(HeadCase::Unchanged, Some(head)),
        (_, HeadRule::Select) => update(HeadCase::Selected, Some(tip)),
        (None, HeadRule::Automatic) => update(HeadCase::Initialized, Some(tip)),
        (Some(head), HeadRule::Automatic) => match relation(tip, head, members)? {
            case @ HeadCase::FastForwarded => update(case, Some(tip)),
            case => update(case, Some(head)),
        },
    })
}

/// The candidates that are no other candidate's ancestor.
fn tips<'a>(candidates: &'a BTreeSet<String>, members: &'a Members) -> Vec<&'a str> {
    let (mut ancestors, mut visited) = (HashSet::new(), HashSet::new());
    for candidate in candidates {
        let mut current = members.get(candidate).and_then(|member| member.parent.as_deref());
        // A path that was followed once has marked all its ancestors.
        while let Some(parent) = current.filter(|parent| visited.insert(*parent)) {
            ancestors.insert(parent);
            current = members.get(parent).and_then(|member| member.parent.as_deref());
        }
    }
    candidates.iter().map(String::as_str).filter(|candidate| !ancestors.contains(candidate)).collect()
}

fn relation(candidate: &str, head: &str, members: &Members) -> Result<HeadCase> {
    let (mut current, mut visited) = (candidate, HashSet::new());
    while visited.len() < MAX_DEPTH && visited.insert(current) {
        let Some(member) = members.get(current) else { return Ok(HeadCase::UnknownAncestry) };
        match member.parent.as_deref() {
            None => return Ok(HeadCase::Diverged),
            Some(parent) if parent == head => return Ok(HeadCase::FastForwarded),
            Some(parent) => current = parent,
        }
    }
    Err(circle(candidate))
}

/// That no chain of parents is a circle, or too long for msb.
///
/// # Errors
/// [`Error::InvalidBundle`].
pub fn check_ancestry(members: &Members) -> Result<()> {
    let mut checked: HashSet<&str> = HashSet::new();
    for id in members.keys() {
        let mut chain = HashSet::new();
        let mut current = Some(id.as_str());
        while let Some(at) = current.filter(|at| !checked.contains(at)) {
            if !chain.insert(at) || chain.len() > MAX_DEPTH {
                return Err(circle(id));
            }
            current = members.get(at).and_then(|member| member.parent.as_deref());
        }
        checked.extend(chain);
    }
    Ok(())
}

fn circle(id: &str) -> Error {
    Error::bundle(format!("snapshot {id}"), "its chain of parents is a circle or too long")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, store::group::Member};

    /// Members 1, 2, ... by their parents.
    fn members(parents: &[Option<u32>]) -> Members {
        let member = |(n, parent): (usize, &Option<u32>)| {
            let id = id(u32::try_from(n).unwrap() + 1);
            let member = Member {
                id: id.clone(),
                digest: Digest::of(id.as_bytes()),
                parent: parent.map(super::tests::id),
                name: None,
            };
            (id, member)
        };
        parents.iter().enumerate().map(member).collect()
    }

    fn id(n: u32) -> String {
        format!("snap_{n:032x}")
    }

    fn case(
        head: Option<u32>,
        candidates: &[u32],
        parents: &[Option<u32>],
        rule: HeadRule,
    ) -> (HeadCase, Option<String>) {
        let candidates = candidates.iter().map(|n| id(*n)).collect();
        let head = head.map(id);
        let update = decide(&"web".parse().unwrap(), head.as_deref(), &candidates, &members(parents), rule).unwrap();
        assert_eq!(update.previous, head);
        (update.case, update.head)
    }

    #[test]
    fn head_follows_the_table_of_msb() {
        use HeadCase::*;
        let chain = [None, Some(1), Some(2), Some(1), None, Some(9)];
        for (head, candidates, expected, new) in [
            (None, &[3][..], Initialized, Some(3)),
            (Some(3), &[3], Unchanged, Some(3)),
            (Some(1), &[3], FastForwarded, Some(3)),
            (Some(3), &[4], Diverged, Some(3)),
            (Some(3), &[5], Diverged, Some(3)),
            (Some(3), &[6], UnknownAncestry, Some(3)),
            (Some(1), &[3, 4], Ambiguous, Some(1)),
            (None, &[3, 4], Ambiguous, None),
            (Some(1), &[2, 3], FastForwarded, Some(3)),
            (Some(3), &[1], Diverged, Some(3)),
        ] {
            let found = case(head, candidates, &chain, HeadRule::Automatic);
            assert_eq!(found, (expected, new.map(id)), "{head:?} {candidates:?}");
        }
    }

    #[test]
    fn set_head_selects_one_candidate_and_refuses_several() {
        let chain = [None, Some(1), Some(1)];
        assert_eq!(case(Some(2), &[3], &chain, HeadRule::Select), (HeadCase::Selected, Some(id(3))));
        assert_eq!(case(Some(3), &[3], &chain, HeadRule::Select), (HeadCase::Unchanged, Some(id(3))));
        let both = [2, 3].map(id).into_iter().collect();
        let error = decide(&"web".parse().unwrap(), None, &both, &members(&chain), HeadRule::Select).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
    }

    #[test]
    fn circles_of_parents_are_refused() {
        assert!(check_ancestry(&members(&[None, Some(1), Some(9)])).is_ok());
        assert!(check_ancestry(&members(&[Some(2), Some(1)])).is_err());
        let circle = members(&[Some(2), Some(1), None]);
        let candidates = BTreeSet::from([id(1)]);
        let decided = decide(&"web".parse().unwrap(), Some(&id(3)), &candidates, &circle, HeadRule::Automatic);
        assert!(decided.is_err());
    }
}
