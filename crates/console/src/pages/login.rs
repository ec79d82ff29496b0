//! The form that asks for a token.

use maud::html;

use super::layout::{Frame, Mode};
use crate::web::CSRF_FIELD;

/// The login page. `word` is repeated by the form; `problem` says why the last try failed.
#[must_use]
pub fn login(frame: &Frame, word: &str, problem: &str) -> String {
    let main = html! {
        div.narrow {
            h1 { "Log in" }
            @if !problem.is_empty() {
                p.alert role="alert" { span aria-hidden="true" { "✗ " } (problem) }
            }
            form.card.stack method="post" action="/login" {
                input type="hidden" name=(CSRF_FIELD) value=(word);
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
