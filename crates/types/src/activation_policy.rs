//! Whether copies may become active by themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which automatic activations a member, or one copy of it, takes (F26). An activation that names
/// the copy is always possible.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationPolicy {
    /// Any.
    #[default]
    Unrestricted,
    /// Only of databases that were active in the same site.
    IntrasiteOnly,
    /// None.
    Blocked,
}

impl fmt::Display for ActivationPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unrestricted => "unrestricted",
            Self::IntrasiteOnly => "intrasite_only",
            Self::Blocked => "blocked",
        })
    }
}

impl FromStr for ActivationPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Unrestricted, Self::IntrasiteOnly, Self::Blocked];
        let found = all.into_iter().find(|policy| policy.to_string() == text);
        found.ok_or_else(|| {
            format!("{text:?} is no activation policy: unrestricted, intrasite_only or blocked")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_policy_is_the_greater_one() {
        use ActivationPolicy::{Blocked, IntrasiteOnly, Unrestricted};
        assert_eq!(Unrestricted.max(IntrasiteOnly).max(Blocked), Blocked);
        assert_eq!("intrasite_only".parse(), Ok(IntrasiteOnly));
        assert!("Blocked".parse::<ActivationPolicy>().is_err());
    }
}
