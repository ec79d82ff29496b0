//! Instants of a database, and forks: read-only views of a copy at an instant.

use std::fmt;
use std::str::FromStr;

use crate::{DatabaseName, ForkName, MemberName, Position};

/// An instant in the life of a database, as an operator names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instant {
    /// Behind the last frame that ends here or before.
    At(Position),
    /// Behind the last frame written at this time or before, in Unix milliseconds.
    Time(u64),
    /// The same so many milliseconds before now, by the clock of whoever has the copy; 0 is behind
    /// the newest frame, whatever time that has.
    Ago(u64),
}

/// A fork as clients name it: `DB1@m2~before`. No database has such a name, so the two are never
/// mixed up, and the member in it says where to ask.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ForkAddress {
    /// The database.
    pub database: DatabaseName,
    /// The member whose copy was forked.
    pub member: MemberName,
    /// Unique among the forks of the copy.
    pub fork: ForkName,
}

/// The text is no name of a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoForkAddress;

impl fmt::Display for NoForkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fork is named DATABASE@MEMBER~FORK")
    }
}

impl std::error::Error for NoForkAddress {}

impl FromStr for ForkAddress {
    type Err = NoForkAddress;

    fn from_str(text: &str) -> Result<Self, NoForkAddress> {
        let (copy, fork) = text.split_once('~').ok_or(NoForkAddress)?;
        let (database, member) = copy.split_once('@').ok_or(NoForkAddress)?;
        Ok(Self {
            database: database.parse().map_err(|_| NoForkAddress)?,
            member: member.parse().map_err(|_| NoForkAddress)?,
            fork: fork.parse().map_err(|_| NoForkAddress)?,
        })
    }
}

impl fmt::Display for ForkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}~{}", self.database, self.member, self.fork)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_is_named_after_its_copy_and_never_like_a_database() {
        let fork: ForkAddress = "DB1@m2~before".parse().expect("a fork");
        assert_eq!(fork.to_string(), "DB1@m2~before");
        assert_eq!((fork.database.as_str(), fork.member.as_str()), ("DB1", "m2"));
        for text in ["DB1", "DB1@m2", "DB1~x", "@m2~x", "DB1@m2~", "DB1@m2~a~b"] {
            assert_eq!(text.parse::<ForkAddress>(), Err(NoForkAddress), "{text}");
        }
        assert!(DatabaseName::new("DB1@m2~before").is_err());
    }
}
