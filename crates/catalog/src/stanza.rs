//! Stanzas of "Field: value" lines, as the package indexes of Debian have them (deb822).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What makes a stanza that of a package.
const NAME: &str = "package";
/// One of these stands beside it.
const BESIDE: [&str; 3] = ["version", "architecture", "source"];

/// The fields of a package: their names in lower case with `_` for `-`, the package also as `name`,
/// sizes as numbers. Nothing if the text is something else.
pub(crate) fn package(text: &str) -> Option<Map<String, Value>> {
    let fields = fields(text.trim_end())?;
    let name = fields.get(NAME)?.clone();
    if !BESIDE.iter().any(|beside| fields.contains_key(*beside)) {
        return None;
    }
    let mut fields: Map<_, _> =
        fields.into_iter().map(|(name, value)| (name.clone(), typed(&name, value))).collect();
    fields.insert("name".into(), name.into());
    Some(fields)
}

/// Nothing if a line is neither a field nor continued.
fn fields(text: &str) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in text.lines() {
        if let Some(more) = line.strip_prefix([' ', '\t']) {
            // A dot stands for an empty line.
            let more = if more.trim() == "." { "" } else { more };
            let value: &mut String = fields.get_mut(last.as_ref()?)?;
            value.push('\n');
            value.push_str(more);
            continue;
        }
        let (name, value) = line.split_once(':')?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let name = name.to_ascii_lowercase().replace('-', "_");
        fields.insert(name.clone(), value.trim().to_owned());
        last = Some(name);
    }
    Some(fields)
}

fn typed(name: &str, value: String) -> Value {
    match value.parse::<u64>() {
        Ok(number) if name.ends_with("size") => number.into(),
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_package_has_the_fields_of_its_stanza() {
        let stanza = "Package: curl\nVersion: 7.88.1-10\nInstalled-Size: 500\nMaintainer: Ada \
                      <ada@example.org>\nDepends: libc6 (>= 2.34), zlib1g\nDescription: command \
                      line tool\n It transfers data.\n .\n With URLs.\nSHA256: 12\n";
        let expected = json!({
            "name": "curl",
            "package": "curl",
            "version": "7.88.1-10",
            "installed_size": 500,
            "maintainer": "Ada <ada@example.org>",
            "depends": "libc6 (>= 2.34), zlib1g",
            "description": "command line tool\nIt transfers data.\n\nWith URLs.",
            "sha256": "12",
        });
        assert_eq!(package(stanza).map(Value::Object), Some(expected));
    }

    #[test]
    fn other_texts_are_no_package() {
        for text in [
            "Package: curl\n",
            "Version: 1\nArchitecture: all\n",
            "Package: curl\nVersion: 1\n\nand more",
            "Package: curl\nVersion: 1\nno field",
            " Package: curl\nVersion: 1",
            "",
        ] {
            assert_eq!(package(text), None, "{text:?}");
        }
    }
}
