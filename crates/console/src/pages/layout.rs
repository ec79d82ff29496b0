//! What all pages share: head, navigation, the person who looks, foot.

use maud::{DOCTYPE, Markup, html};

use crate::show::moment;

/// Who looks at a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Viewer {
    /// Name of the token.
    pub name: String,
    /// What it is for.
    pub role: String,
    /// Repeated by every form.
    pub csrf: String,
}

/// Where and when a page is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Name of the member that serves it.
    pub member: String,
    /// The moment.
    pub now_ms: u64,
    /// Nobody before a login.
    pub viewer: Option<Viewer>,
    /// What was done just now, in the words of whoever did it.
    pub notice: String,
}

/// How a page behaves once it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Looks again by itself.
    Live,
    /// Is for reading or filling in.
    Still,
}

const PAGES: [(&str, &str); 4] = [
    ("/", "Overview"),
    ("/operations", "Operations"),
    ("/events", "Events"),
    ("/decisions", "Decisions"),
];

impl Frame {
    /// A whole document. `here` is the page of the navigation that it belongs to.
    pub(super) fn page(&self, title: &str, here: &str, mode: Mode, main: &Markup) -> String {
        let live = if mode == Mode::Live { "yes" } else { "no" };
        let document = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · Keelson" }
                    link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                    link rel="stylesheet" href="/assets/style.css";
                    script src="/assets/console.js" defer {}
                }
                body data-live=(live) {
                    a.skip href="#main" { "Skip to the content" }
                    (self.head(here))
                    main #main tabindex="-1" {
                        @if !self.notice.is_empty() {
                            p.notice role="status" {
                                span aria-hidden="true" { "✓ " } (self.notice)
                            }
                        }
                        (main)
                    }
                    (self.foot(mode))
                }
            }
        };
        document.into_string()
    }

    fn head(&self, here: &str) -> Markup {
        html! {
            header.top {
                a.brand href="/" {
                    img src="/assets/icon.svg" alt="" width="24" height="24";
                    "Keelson"
                }
                @if let Some(viewer) = &self.viewer {
                    nav aria-label="Pages" {
                        @for (path, name) in PAGES {
                            a href=(path) aria-current=[(path == here).then_some("page")] { (name) }
                        }
                    }
                    form.who method="post" action="/logout" {
                        (self.csrf())
                        span { (viewer.name) " " small { "(" (viewer.role) ")" } }
                        button.quiet { "Log out" }
                    }
                }
            }
        }
    }

    fn foot(&self, mode: Mode) -> Markup {
        html! {
            footer {
                span { "Served by " b { (self.member) } " at " (moment(self.now_ms)) }
                @if mode == Mode::Live {
                    span #live data-text="live" { "Reload the page to look again" }
                }
            }
        }
    }

    /// The word that every form repeats.
    pub(super) fn csrf_word(&self) -> &str {
        self.viewer.as_ref().map(|viewer| viewer.csrf.as_str()).unwrap_or_default()
    }

    /// The same as a field.
    pub(super) fn csrf(&self) -> Markup {
        html! { input type="hidden" name=(crate::web::CSRF_FIELD) value=(self.csrf_word()); }
    }
}

/// A table that scrolls within itself where it is too wide. Its cells carry the names of their
/// columns, so that it can be shown as a list where there is little room.
pub(super) fn table(id: &str, caption: &str, head: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll #(id) tabindex="0" role="region" aria-label=(caption) {
            table.list {
                caption { (caption) }
                thead { tr { @for name in head { th scope="col" { (name) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (at, cell) in row.iter().enumerate() {
                                @let name = head.get(at).copied().unwrap_or_default();
                                @if at == 0 {
                                    th scope="row" data-name=(name) { (cell) }
                                } @else {
                                    td data-name=(name) { (cell) }
                                }
                            }
                        }
                    }
                }
            }
            @if rows.is_empty() { p.empty { "Nothing here." } }
        }
    }
}

/// Names and values.
pub(super) fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in rows {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}
