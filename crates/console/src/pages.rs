//! The pages. Each is a function from what was found to a whole document.

mod confirm;
mod database;
mod decisions;
mod expected;
mod layout;
mod login;
mod member;
mod operations;
mod overview;
mod refused;
mod space;

#[cfg(test)]
mod tests;

pub use confirm::{Plan, confirm};
pub use database::{DatabaseView, database};
pub use decisions::{decision, decisions, events};
pub use expected::Expected;
pub use layout::{Frame, Viewer};
pub use login::login;
pub use member::{MemberView, member};
pub use operations::{operation, operations};
pub use overview::{Overview, overview};
pub use refused::{Refused, refused};
