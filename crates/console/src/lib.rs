//! The web console: what a page shows, what a form asks for, who is logged in. Pure: a page is made
//! of messages that the services of a member answered with, and of a moment; nothing here asks
//! anybody, waits, draws a random number or knows a socket.
//!
//! | need | use |
//! | --- | --- |
//! | which page, which action | [`route()`], [`Route`], [`Action`] |
//! | the pages | [`pages`] |
//! | who is logged in, how often somebody may try | [`Sessions`], [`Attempts`] |
//! | cookies, forms, headers | [`web`] |
//! | style and script | [`assets`] |

mod action;
mod attempts;
mod route;
mod sessions;
mod show;

pub mod assets;
pub mod pages;
pub mod web;

pub use action::{Action, MoveSkips};
pub use attempts::Attempts;
pub use route::{Route, route};
pub use sessions::{SESSION_IDLE_MS, SESSION_MS, SESSIONS_MAX, Session, Sessions};
