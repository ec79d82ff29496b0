//! Cookies, forms and headers: read with care, written with every protection that browsers offer.

use std::collections::BTreeMap;

use crate::sessions::SESSION_MS;

/// Names of the cookies of one console. The prefix makes browsers insist on TLS, on this host, on
/// the whole site; cookies know no ports, so consoles at one host tell theirs apart by themselves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cookies {
    /// Of a session.
    pub session: String,
    /// That a login form must repeat: nobody logs somebody else in.
    pub login: String,
}

impl Cookies {
    /// Those of the console of `member` at `address`.
    #[must_use]
    pub fn of(member: &str, address: &str) -> Self {
        let port = address.rsplit(':').next().unwrap_or_default();
        let named = |what: &str| format!("__Host-keelson-{what}-{member}-{port}");
        Self { session: named("session"), login: named("login") }
    }

    /// The header `set-cookie` of a new session.
    #[must_use]
    pub fn set_session(&self, secret: &str) -> String {
        set(&self.session, secret, SESSION_MS / 1000)
    }

    /// The header `set-cookie` of a login form.
    #[must_use]
    pub fn set_login(&self, word: &str) -> String {
        set(&self.login, word, 600)
    }
}

/// Field of a login form: the page that was asked for.
pub const NEXT_FIELD: &str = "next";

/// Field of a form that repeats the word of its session.
pub const CSRF_FIELD: &str = "csrf";

/// Fields of one form.
const FIELDS_MAX: usize = 64;

/// Headers of every answer. Nothing inline, nothing from elsewhere, in no frame.
pub const SECURITY_HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src \
         'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Not "no-referrer": browsers then send forms from nowhere (`Origin: null`).
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

/// The fields of a form, or of a query. Of a field that is there twice the last one counts.
#[must_use]
pub fn fields(text: &[u8]) -> BTreeMap<String, String> {
    let pairs = form_urlencoded::parse(text).take(FIELDS_MAX);
    pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// The value of a cookie in the header `cookie`.
#[must_use]
pub fn cookie<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let pairs = header.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The header `set-cookie` that takes a cookie away.
#[must_use]
pub fn forget(name: &str) -> String {
    set(name, "", 0)
}

fn set(name: &str, value: &str, seconds: u64) -> String {
    format!("{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict")
}

/// Whether a form may come from this page. Browsers say where a form was sent from; who says
/// nothing is no browser, and has no cookie that it did not take by itself.
#[must_use]
pub fn is_own_origin(origin: Option<&str>, fetch_site: Option<&str>, host: &str) -> bool {
    let own_site = fetch_site.is_none_or(|site| matches!(site, "same-origin" | "none"));
    let own_origin = origin.is_none_or(|origin| origin.strip_prefix("https://") == Some(host));
    own_site && own_origin
}

/// Whether a script looks again for a page that is shown: it reads no notices.
#[must_use]
pub fn is_look(fetch_dest: Option<&str>) -> bool {
    fetch_dest == Some("empty")
}

/// Where a login leads to: a page of this console and nothing else, because links to the login may
/// come from anywhere.
#[must_use]
pub fn safe_next(wanted: &str) -> &str {
    let plain = wanted.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    match wanted.strip_prefix('/') {
        Some(rest) if plain && !rest.starts_with('/') && !is_entrance(wanted) => wanted,
        _ => "/",
    }
}

fn is_entrance(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    matches!(path.trim_matches('/'), "login" | "logout")
}

/// Text as a part of a path.
#[must_use]
pub fn path_part(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A query of these fields, with its question mark; those without a value are left out.
#[must_use]
pub fn query(fields: &[(&str, &str)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(fields.iter().filter(|(_, value)| !value.is_empty()));
    match text.finish() {
        query if query.is_empty() => query,
        query => format!("?{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let header = "a=1; __Host-keelson-session-m1-7404=abc;__Host-keelson-login-m1-7404=x=y ; b";
        let (own, other) = (Cookies::of("m1", "[::1]:7404"), Cookies::of("m2", "[::1]:7404"));
        assert_eq!(cookie(header, &own.session), Some("abc"));
        assert_eq!(cookie(header, &own.login), Some("x=y"));
        assert_eq!(cookie(header, &other.session), None, "another console of this host");
        assert_eq!(cookie(header, "b"), None);
        assert_eq!(cookie("", &own.session), None);
    }

    #[test]
    fn a_session_cookie_is_for_this_host_over_tls_and_no_script() {
        let cookies = Cookies::of("m1", "h:1");
        let header = cookies.set_session("s");
        for word in ["__Host-", "; Path=/;", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
            assert!(header.contains(word), "{header} lacks {word}");
        }
        assert!(forget(&cookies.session).contains("Max-Age=0"));
    }

    #[test]
    fn forms_are_read_and_bounded() {
        let read = fields(b"to=m2&comment=new+disk%21&x&to=m3&%ff=1");
        assert_eq!((read["to"].as_str(), read["comment"].as_str()), ("m3", "new disk!"));
        let many = (0..1_000).map(|n| format!("f{n}=1")).collect::<Vec<_>>().join("&");
        assert_eq!(fields(many.as_bytes()).len(), FIELDS_MAX);
        assert_eq!(query(&[("to", "m 2"), ("from", "")]), "?to=m+2");
        assert_eq!(query(&[("from", "")]), "");
    }

    #[test]
    fn a_login_leads_to_pages_of_this_console_only() {
        for path in ["/", "/databases/DB1", "/databases/DB1/switchover?to=m2", "/loginx"] {
            assert_eq!(safe_next(path), path);
        }
        for path in [
            "",
            "databases",
            "//elsewhere.example/",
            "/\\elsewhere.example/",
            "https://elsewhere.example/",
            "/a\r\nset-cookie: x",
            "/a b",
            "/login?next=/",
            "/logout",
            "javascript:alert(1)",
        ] {
            assert_eq!(safe_next(path), "/", "{path}");
        }
    }

    #[test]
    fn forms_of_other_pages_are_told() {
        assert!(is_own_origin(None, None, "h:1"));
        assert!(is_own_origin(Some("https://h:1"), Some("same-origin"), "h:1"));
        assert!(!is_own_origin(Some("https://h:2"), None, "h:1"));
        assert!(!is_own_origin(Some("null"), None, "h:1"));
        assert!(!is_own_origin(None, Some("cross-site"), "h:1"));
        assert!(!is_own_origin(None, Some("same-site"), "h:1"));
    }

    #[test]
    fn nothing_inline_is_allowed_anywhere() {
        let (_, policy) = SECURITY_HEADERS[0];
        assert!(!policy.contains("unsafe") && policy.contains("default-src 'none'"));
    }
}
