//! Which field of a JSON document an error is about.

/// Decodes `bytes`; an error names the field.
pub(super) fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let field = at(bytes, offset(bytes, error.line(), error.column()));
        if field.is_empty() { error.to_string() } else { format!("{field}: {error}") }
    })
}

/// serde_json counts lines from 1 and columns in bytes.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let mut starts =
        std::iter::once(0).chain(bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1));
    starts.nth(line.saturating_sub(1)).unwrap_or(0).saturating_add(column).min(bytes.len())
}

/// The path of the member that holds the byte before `end` in a well-formed document, such as `state.upper.file`.
fn at(bytes: &[u8], end: usize) -> String {
    // One entry per open container: the key of the member that is being read.
    let mut stack: Vec<String> = Vec::new();
    let mut position = 0;
    let mut string = None;
    while position < end {
        match bytes[position] {
            b'"' => {
                let start = position + 1;
                position = start;
                while position < bytes.len() && bytes[position] != b'"' {
                    position += if bytes[position] == b'\\' { 2 } else { 1 };
                }
                string = bytes.get(start..position);
            }
            b':' => {
                if let (Some(top), Some(key)) = (stack.last_mut(), string.take()) {
                    *top = String::from_utf8_lossy(key).chars().take(100).collect();
                }
            }
            b'{' | b'[' => stack.push(String::new()),
            b'}' | b']' => {
                stack.pop();
            }
            b',' => {
                string = None;
                // An error about a missing or unknown field names that field itself.
                if let Some(top) = stack.last_mut() {
                    top.clear();
                }
            }
            _ => {}
        }
        position += 1;
    }
    stack.retain(|key| !key.is_empty());
    stack.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_before_an_offset_is_found() {
        let text = br#"{"a":1,"b":{"c\"":"x,}","d":[1,{"e":2}]},"f":3}"#;
        let path = |needle: &str| {
            let at_needle = std::str::from_utf8(text).unwrap().find(needle).unwrap();
            at(text, at_needle + needle.len())
        };
        assert_eq!(path("1,{\"e\":2"), "b.d.e");
        assert_eq!(path("\"a\":1"), "a");
        assert_eq!(path("}]}"), "b");
        assert_eq!(path("\"f\":3"), "f");
        assert_eq!(offset(b"ab\ncd\nef", 3, 1), 7);
    }
}
