//! The form that asks for a token.

use maud::html;

use super::layout::{Frame, Mode};
use crate::web::{CSRF_FIELD, NEXT_FIELD};

/// The login page. `word` and the page that comes `next` are repeated by the form; `problem` says
/// why the last try failed.
#[must_use]
pub fn login(frame: &Frame, word: &str, next: &str, problem: &str) -> String {
    let main = html! {
        div.narrow {
            h1 { "Log in" }
            @if !problem.is_empty() {
                p.alert role="alert" { span aria-hidden="true" { "✗ " } (problem) }
            }
            form.card.stack method="post" action="/login" {
                input type="hidden" name=(CSRF_FIELD) value=(word);
                input type="hidden" name=(NEXT_FIELD) value=(next);
                label for="token" { "Token of an operator or administrator" }
                input #token name="token" type="password" autocomplete="current-password"
                    required autofocus spellcheck="false" aria-describedby="token-help";
                p.help #token-help {
                    "An administrator issues one with " code { "keelson token issue operator NAME" }
                    "."
                }
                button.primary { "Log in" }
            }
        }
    };
    frame.page("Log in", "", Mode::Still, &main)
}
