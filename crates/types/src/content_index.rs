//! The content index of a copy (its catalog): what is wanted of it and how it is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most fields that a database may name.
pub const CONTENT_INDEX_FIELDS_MAX: usize = 64;
/// Longest name of a field, in bytes.
pub const CONTENT_INDEX_FIELD_BYTES_MAX: usize = 128;

/// What of a database is indexed. Every copy has an index of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContentIndexSettings {
    /// Whether there is an index.
    pub enabled: bool,
    /// Fields of the first level that are indexed; all if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

impl Default for ContentIndexSettings {
    fn default() -> Self {
        Self { enabled: true, fields: Vec::new() }
    }
}

impl ContentIndexSettings {
    /// Whether the fields can be told apart and are within bounds.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn validate(&self) -> Result<(), String> {
        if self.fields.len() > CONTENT_INDEX_FIELDS_MAX {
            return Err(format!("at most {CONTENT_INDEX_FIELDS_MAX} fields can be named"));
        }
        let mut sorted: Vec<_> = self.fields.iter().collect();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the field {:?} is named twice", twice[0]));
        }
        match self.fields.iter().find(|f| f.is_empty() || f.len() > CONTENT_INDEX_FIELD_BYTES_MAX) {
            Some(field) => Err(format!(
                "a field has a name of 1 to {CONTENT_INDEX_FIELD_BYTES_MAX} bytes, not {field:?}"
            )),
            None => Ok(()),
        }
    }
}

/// How the content index of a copy is (F51; the model's vocabulary).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub enum ContentIndexState {
    /// The database has none.
    Disabled,
    /// It follows the replay of its copy.
    Healthy,
    /// It is being made from what the store holds.
    Crawling,
    /// It is being fetched from another copy.
    Seeding,
    /// Its copy is suspended, or keys of it are in doubt.
    Suspended,
    /// Its copy lags on purpose.
    AutoSuspended,
    /// It cannot go on; retried.
    Failed,
    /// It failed again and again, and waits for its copy to be resumed or opened anew.
    FailedAndSuspended,
    /// Its member does not answer, or it was not looked at yet.
    #[default]
    Unknown,
}

impl ContentIndexState {
    /// All states, for those who read their names.
    pub const ALL: [Self; 9] = [
        Self::Disabled,
        Self::Healthy,
        Self::Crawling,
        Self::Seeding,
        Self::Suspended,
        Self::AutoSuspended,
        Self::Failed,
        Self::FailedAndSuspended,
        Self::Unknown,
    ];
}

impl fmt::Display for ContentIndexState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disabled => "Disabled",
            Self::Healthy => "Healthy",
            Self::Crawling => "Crawling",
            Self::Seeding => "Seeding",
            Self::Suspended => "Suspended",
            Self::AutoSuspended => "AutoSuspended",
            Self::Failed => "Failed",
            Self::FailedAndSuspended => "FailedAndSuspended",
            Self::Unknown => "Unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_bounds() {
        let fields = |fields: &[&str]| ContentIndexSettings {
            enabled: true,
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        assert!(fields(&[]).validate().is_ok());
        assert!(fields(&["name", "body"]).validate().is_ok());
        let long = "x".repeat(CONTENT_INDEX_FIELD_BYTES_MAX + 1);
        for wrong in [vec![""], vec!["a", "b", "a"], vec![long.as_str()], vec!["a"; 65]] {
            assert!(fields(&wrong).validate().is_err(), "{wrong:?}");
        }
    }
}
