//! Answers with all the headers that protect them.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::Full;
use keelson_console::web;
use keelson_net::SiteResponse;
use keelson_types::RefusalReason;

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> SiteResponse {
    let mut response = SiteResponse::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in web::SECURITY_HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

pub(super) fn page(status: StatusCode, document: String) -> SiteResponse {
    respond(status, "text/html; charset=utf-8", document)
}

pub(super) fn text(status: StatusCode, line: &'static str) -> SiteResponse {
    respond(status, "text/plain; charset=utf-8", line)
}

pub(super) fn asset(content_type: &'static str, body: &'static str) -> SiteResponse {
    let mut response = respond(StatusCode::OK, content_type, body);
    let minutes = HeaderValue::from_static("max-age=300");
    response.headers_mut().insert(CACHE_CONTROL, minutes);
    response
}

/// To another page of the console, to be fetched by GET.
pub(super) fn redirect(to: &str) -> SiteResponse {
    let mut response = text(StatusCode::SEE_OTHER, "");
    // Paths are made of escaped parts; what is none is no place to go to.
    let to = HeaderValue::try_from(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(LOCATION, to);
    response
}

/// Sets a cookie.
pub(super) fn with_cookie(mut response: SiteResponse, cookie: &str) -> SiteResponse {
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// Takes a cookie away.
pub(super) fn forgetful(response: SiteResponse, name: &str) -> SiteResponse {
    with_cookie(response, &web::forget(name))
}

/// The status of a refusal.
pub(super) fn status_of(reason: RefusalReason) -> StatusCode {
    use RefusalReason as R;
    match reason {
        R::Forbidden => StatusCode::FORBIDDEN,
        R::Unauthenticated => StatusCode::UNAUTHORIZED,
        R::UnknownDatabase | R::UnknownMember | R::UnknownCopy | R::UnknownOperation => {
            StatusCode::NOT_FOUND
        }
        R::BadArgument | R::BadName => StatusCode::BAD_REQUEST,
        R::NoLeader | R::Unreachable | R::ConnectionLost | R::DeadlineExceeded | R::Overloaded => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        R::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_protected_and_only_files_are_kept() {
        let cases = [
            page(StatusCode::OK, String::new()),
            text(StatusCode::NOT_FOUND, "x"),
            redirect("/login"),
            asset("text/css", ""),
        ];
        for response in &cases {
            for (name, value) in web::SECURITY_HEADERS {
                assert_eq!(response.headers().get(*name).unwrap(), value);
            }
        }
        let kept = |response: &SiteResponse| response.headers()[CACHE_CONTROL] != "no-store";
        assert_eq!(cases.iter().map(kept).collect::<Vec<_>>(), [false, false, false, true]);
        assert_eq!(redirect("/a\nb: c").headers()[LOCATION], "/");
    }

    #[test]
    fn refusals_have_their_status() {
        for (reason, status) in [
            (RefusalReason::Forbidden, 403),
            (RefusalReason::NotSuspended, 409),
            (RefusalReason::UnknownCopy, 404),
            (RefusalReason::NoLeader, 503),
        ] {
            assert_eq!(status_of(reason).as_u16(), status);
        }
    }
}
