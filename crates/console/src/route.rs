//! Which page or action an address means.

use std::borrow::Cow;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// All databases and members.
    Overview,
    /// One database.
    Database(String),
    /// One member.
    Member(String),
    /// All operations that are remembered.
    Operations,
    /// One of them.
    Operation(String),
    /// The newest events.
    Events,
    /// The newest decisions.
    Decisions,
    /// One of them, decided again.
    Decision(u64),
    /// The form of an action, or the action itself; its parts are read by [`crate::Action::of`].
    Action(Vec<String>),
    /// The form that asks for a token, or its answer.
    Login,
    /// Ends the session.
    Logout,
    /// Style, script or icon, by its name.
    Asset(String),
    /// Nothing.
    Unknown,
}

/// Reads a path.
#[must_use]
pub fn route(path: &str) -> Route {
    let parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| decoded(part).into_owned())
        .collect();
    let words: Vec<&str> = parts.iter().map(String::as_str).collect();
    match words[..] {
        [] => Route::Overview,
        ["login"] => Route::Login,
        ["logout"] => Route::Logout,
        ["assets", name] => Route::Asset(name.to_owned()),
        ["favicon.ico"] => Route::Asset("icon.svg".to_owned()),
        ["databases", name] => Route::Database(name.to_owned()),
        ["members", name] => Route::Member(name.to_owned()),
        ["operations"] => Route::Operations,
        ["operations", id] => Route::Operation(id.to_owned()),
        ["events"] => Route::Events,
        ["decisions"] => Route::Decisions,
        ["decisions", index] => index.parse().map_or(Route::Unknown, Route::Decision),
        ["databases" | "members" | "operations", _, _] | ["copies", _, _, _] | ["redistribute"] => {
            Route::Action(parts)
        }
        _ => Route::Unknown,
    }
}

/// Without the escapes of a path.
fn decoded(part: &str) -> Cow<'_, str> {
    // A plus is itself in a path, and a space in a form.
    let as_form = part.replace('+', "%2B");
    let decoded = form_urlencoded::parse(as_form.as_bytes()).next();
    decoded.map_or(Cow::Borrowed(part), |(name, value)| match value.is_empty() {
        true => Cow::Owned(name.into_owned()),
        false => Cow::Owned(format!("{name}={value}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_their_pages() {
        let cases = [
            ("/", Route::Overview),
            ("//databases/DB1/", Route::Database("DB1".into())),
            ("/databases/a%2Fb+c", Route::Database("a/b+c".into())),
            ("/members/m1", Route::Member("m1".into())),
            ("/operations/x", Route::Operation("x".into())),
            ("/decisions/7", Route::Decision(7)),
            ("/decisions/seven", Route::Unknown),
            ("/assets/style.css", Route::Asset("style.css".into())),
            ("/login", Route::Login),
            ("/etc/passwd", Route::Unknown),
            ("/assets/../x", Route::Unknown),
        ];
        for (path, expected) in cases {
            assert_eq!(route(path), expected, "{path}");
        }
        let Route::Action(parts) = route("/copies/DB1/m2/seed") else { panic!("an action") };
        assert_eq!(parts, ["copies", "DB1", "m2", "seed"]);
    }
}
