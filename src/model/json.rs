//! JSON from outside: bounded in size and depth, duplicate keys refused.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// Largest document that is read: the limit of a manifest in oras-go, containers/image and distribution.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Parses a document of at most [`MAX_DOCUMENT`] bytes.
///
/// # Errors
/// [`Error::InvalidBundle`] that names `context`: not JSON, a duplicate key at any depth, or not the type's shape.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], context: &str) -> Result<T> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::Limit {
            what: format!("the size of {context}"),
            value: bytes.len() as u64,
            limit: MAX_DOCUMENT,
            hint: "",
        });
    }
    reject_duplicate_keys(bytes).map_err(|reason| Error::bundle(context, reason))?;
    serde_json::from_slice(bytes).map_err(|e| Error::bundle(context, e.to_string()))
}

/// An error's text if any object of the document, at any depth, has a key twice (or it is not JSON).
pub fn reject_duplicate_keys(bytes: &[u8]) -> std::result::Result<(), String> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Unique.deserialize(&mut deserializer).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())
}

struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        while seq.next_element_seed(Unique)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(serde::de::Error::custom(format!("duplicate key {key:?}")));
            }
            map.next_value_seed(Unique)?;
            keys.insert(key);
        }
        Ok(())
    }
}

/// Any JSON value, its keys sorted: how documents with annotations are encoded canonically.
pub fn canonical<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("documents have string keys");
    serde_json::to_vec(&value).expect("a value encodes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        assert!(reject_duplicate_keys(br#"{"a":{"b":[1,{"c":null}]},"b":1.5}"#).is_ok());
        let error = reject_duplicate_keys(br#"{"a":[{"b":1,"b":2}]}"#).unwrap_err();
        assert!(error.contains("duplicate key \"b\""), "{error}");
        assert!(reject_duplicate_keys(b"{} {}").is_err());
        let deep = "[".repeat(100_000);
        assert!(reject_duplicate_keys(deep.as_bytes()).is_err());
    }
}
