//! What is shown instead of a page or after an action that was refused: the reason, its stable code
//! and what to do next, as commands show them.

use maud::html;

use super::layout::{Frame, Mode};

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// Stable code.
    pub code: String,
    /// With names and values.
    pub message: String,
    /// What to do next.
    pub hint: String,
    /// What was asked for.
    pub what: String,
    /// Where to go back to.
    pub back: String,
}

/// The page of a refusal.
#[must_use]
pub fn refused(frame: &Frame, refused: &Refused) -> String {
    let title = if refused.what.is_empty() { "This was refused" } else { &refused.what };
    let main = html! {
        div.narrow {
            h1 { (title) }
            div.alert role="alert" {
                p { span aria-hidden="true" { "✗ " } strong { "Refused: " } (refused.message) }
                p { code { (refused.code) } }
                @if !refused.hint.is_empty() { p { "What to do next: " (refused.hint) } }
            }
            @if !refused.back.is_empty() { p { a href=(refused.back) { "Go back" } } }
        }
    };
    frame.page(title, "", Mode::Still, &main)
}
