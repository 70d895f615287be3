//! The tags of a repository, page by page, within bounds.

use std::collections::HashSet;

use reqwest::{Method, StatusCode, Url, header};
use serde::Deserialize;

use super::repository::Repo;
use crate::{
    digest::parse_hex32,
    error::{Error, Result},
    model::json::{self, MAX_DOCUMENT},
};

/// Most tags that are listed.
const MAX_TAGS: u64 = 100_000;
/// Most pages that are asked for.
const MAX_PAGES: usize = 1000;

#[derive(Deserialize)]
struct Page {
    /// Some registries say null for none.
    tags: Option<Vec<String>>,
}

/// Whether it is the list of a manifest's referrers, kept by clients (`referrers`), or a signature and such that is found
/// by a tag (`sha256-HEX.sig`): no snapshot has it.
fn is_of_referrers(tag: &str) -> bool {
    let hex = |rest: &str| parse_hex32(rest.split_once('.').map_or(rest, |(hex, _)| hex)).is_some();
    tag.strip_prefix("sha256-").is_some_and(hex)
}

/// Every tag of a snapshot, in the registry's order.
///
/// # Errors
/// [`Error::RemoteNotFound`]; [`Error::Limit`] on a list without end; [`Error::Protocol`] on one that leads elsewhere.
pub(super) fn list(repo: &Repo) -> Result<Vec<String>> {
    let operation = format!("list the tags of {}", repo.display());
    let broken = |reason: String| Error::Protocol { registry: repo.client.registry(), reason };
    let mut url = repo.url("tags/list");
    url.set_query(Some("n=1000"));
    let mut seen: HashSet<Url> = HashSet::new();
    let mut found: Vec<String> = Vec::new();
    for _ in 0..MAX_PAGES {
        if !seen.insert(url.clone()) {
            return Err(broken("the pages of its list of tags lead in a circle".into()));
        }
        let response = repo.client.send(&repo.request(Method::GET, url.clone(), &operation))?;
        if response.status() != StatusCode::OK {
            return Err(repo.refusal(response, &operation));
        }
        let next = match response.headers(header::LINK).find_map(next_of) {
            None => None,
            Some(link) => {
                let next = repo.client.resolve(response.url(), link)?;
                if !repo.client.is_own(&next) {
                    return Err(broken("the next page of its list of tags is on another host".into()));
                }
                Some(next)
            }
        };
        let bytes = response.read_all(MAX_DOCUMENT).map_err(|e| broken(format!("its list of tags: {e}")))?;
        let page: Page = json::parse(&bytes, "the list of tags")
            .map_err(|_| broken("its list of tags is none: is it a registry?".into()))?;
        // What is no tag cannot be asked for; it is not shown either.
        let shown = |tag: &String| tag.parse::<crate::model::Tag>().is_ok() && !is_of_referrers(tag);
        found.extend(page.tags.unwrap_or_default().into_iter().filter(shown));
        if found.len() as u64 > MAX_TAGS {
            return Err(too_many(repo, found.len() as u64, MAX_TAGS, "number of tags"));
        }
        match next {
            Some(next) => url = next,
            None => return Ok(found),
        }
    }
    Err(too_many(repo, MAX_PAGES as u64 + 1, MAX_PAGES as u64, "number of pages in the list of tags"))
}

fn too_many(repo: &Repo, value: u64, limit: u64, what: &str) -> Error {
    Error::Limit { what: format!("the {what} of {}", repo.display()), value, limit, hint: "" }
}

/// The target of `<URL>; rel="next"`.
fn next_of(link: &str) -> Option<&str> {
    let mut rest = link;
    loop {
        // A target may hold commas itself.
        let Some((target, after)) = rest.trim_start().strip_prefix('<').and_then(|rest| rest.split_once('>')) else {
            rest = rest.split_once(',')?.1;
            continue;
        };
        let (parameters, others) = after.split_once(',').unwrap_or((after, ""));
        let is_next =
            |value: &str| value.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"));
        let named = |parameter: &str| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("rel").then(|| is_next(value.trim().trim_matches('"')))
        };
        if parameters.split(';').filter_map(named).any(|is_next| is_next) {
            return Some(target);
        }
        rest = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_parse() {
        assert_eq!(next_of("</v2/a/tags/list?n=1&last=b>; rel=\"next\""), Some("/v2/a/tags/list?n=1&last=b"));
        assert_eq!(next_of("<x>; rel=prev, <y>; type=a; rel=next"), Some("y"));
        assert_eq!(next_of("<x,1>; rel=prev, </l?last=a,b&n=2>; rel=next"), Some("/l?last=a,b&n=2"));
        assert_eq!(next_of("<x>; title=\"a,b\", , <y>; Rel=\"last Next\""), Some("y"));
        for none in ["", "x; rel=next", "<x>", "<x>; rel=last", "<x; rel=next"] {
            assert_eq!(next_of(none), None, "{none}");
        }
    }
}
