//! What must hold in every run: one small file per property.
//!
//! Checkers see what happened in true time and know nothing of the cores' insides. The first
//! violation ends the run.

mod acknowledged;
mod binding;
mod content;
mod epochs;
mod explained;
mod given_up;
mod prefix;
mod reads;

pub use acknowledged::Acknowledged;
pub(crate) use acknowledged::Write;
pub use binding::Bindings;
pub use content::Contents;
pub use epochs::Serving;
pub use explained::Explanations;
pub use given_up::GivenUp;
pub use prefix::Prefixes;
pub use reads::Registers;

/// A property that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Short name of the property.
    pub property: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(crate) fn new(property: &'static str, what: impl Into<String>) -> Self {
        Self { property, what: what.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.property, self.what)
    }
}

/// What a check says.
pub type Verdict = Result<(), Violation>;

#[cfg(test)]
mod tests;
