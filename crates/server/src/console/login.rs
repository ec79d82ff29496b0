//! Logging in with a token, and out.

use std::sync::Arc;

use http::StatusCode;
use keelson_client::Client;
use keelson_console::{pages, web};
use keelson_net::{AccessSecret, PeerIdentity, SiteRequest, SiteResponse, line_of};
use keelson_types::{AuditKind, AuditLine, RefusalReason};

use super::answer::{forgetful, page, redirect, with_cookie};
use super::{Console, Owner, cookie, is_own_form, lock, now_ms};

impl Console {
    /// The form, which repeats a word of its own: nobody logs somebody else in. It leads to the
    /// page `next`.
    pub(super) fn login_form(&self, next: &str, problem: &str) -> SiteResponse {
        let status = if problem.is_empty() { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        let Ok(word) = AccessSecret::generate() else {
            return super::text(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers\n");
        };
        let form = pages::login(&self.frame(None), word.reveal(), web::safe_next(next), problem);
        with_cookie(page(status, form), &self.0.cookies.set_login(word.reveal()))
    }

    pub(super) fn login(&self, request: &SiteRequest) -> SiteResponse {
        let (address, now) = (request.peer.ip(), now_ms());
        let form = web::fields(&request.body);
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let next = field(web::NEXT_FIELD);
        if let Err(seconds) = lock(&self.0.attempts).may_try(address, now) {
            let mut response =
                self.login_form(next, &format!("Too many tries failed; try again in {seconds} s."));
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            return response;
        }
        let word = AccessSecret::parse(field(web::CSRF_FIELD)).ok();
        let sent =
            cookie(request, &self.0.cookies.login).and_then(|it| AccessSecret::parse(it).ok());
        if word.is_none() || word != sent || !is_own_form(request) {
            return self.login_form(next, "The form was too old. Please try again.");
        }
        let secret = AccessSecret::parse(field("token")).ok();
        let holder = secret.map(|secret| (self.0.tokens.holder(&secret), secret));
        match holder {
            Some((Ok(identity), secret)) => {
                tracing::info!(%identity, peer = %request.peer, "logged in to the console");
                self.note_login(request, &identity, "done");
                let client = self.client(&secret);
                let owner = Owner { identity, secret, client, notice: Arc::default() };
                self.begin(owner, next, now)
            }
            Some((Err(refusal), _)) => {
                tracing::info!(%refusal, peer = %request.peer, "a login to the console failed");
                self.login_failed(request, refusal.reason, now);
                self.login_form(next, &format!("That did not work: {}.", refusal.message))
            }
            None => {
                self.login_failed(request, RefusalReason::Unauthenticated, now);
                self.login_form(
                    next,
                    "That is no token: it begins with keelson_ and has 72 characters.",
                )
            }
        }
    }

    fn login_failed(&self, request: &SiteRequest, reason: RefusalReason, now: u64) {
        lock(&self.0.attempts).failed(request.peer.ip(), now);
        self.note_login(request, &PeerIdentity::default(), reason.code().0);
    }

    /// Tells the audit. What was typed is not told: it may be a token with a slip.
    fn note_login(&self, request: &SiteRequest, who: &PeerIdentity, outcome: &str) {
        let caller = PeerIdentity { address: Some(request.peer), ..who.clone() };
        self.0.logins.note(AuditLine {
            kind: AuditKind::Login,
            call: "console login".into(),
            outcome: outcome.into(),
            ..line_of(&caller)
        });
    }

    fn begin(&self, owner: Owner, next: &str, now: u64) -> SiteResponse {
        let (Ok(session), Ok(csrf)) = (AccessSecret::generate(), AccessSecret::generate()) else {
            return super::text(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers\n");
        };
        warm(&owner.client);
        let csrf = csrf.reveal().to_owned();
        let holder = owner.identity.name.clone();
        lock(&self.0.sessions).begin(session.digest(), (&holder, owner), csrf, now);
        let cookies = &self.0.cookies;
        let response = redirect(web::safe_next(next));
        let response = with_cookie(response, &cookies.set_session(session.reveal()));
        forgetful(response, &cookies.login)
    }

    pub(super) fn logout(&self, request: &SiteRequest) -> SiteResponse {
        let secret = cookie(request, &self.0.cookies.session);
        if let Some(secret) = secret.and_then(|secret| AccessSecret::parse(secret).ok()) {
            lock(&self.0.sessions).end(secret.digest());
        }
        forgetful(redirect("/login"), &self.0.cookies.session)
    }
}

/// Finds the other members, so that pages come from them when this one cannot answer.
fn warm(client: &Client) {
    let client = client.clone();
    // Without an answer this member alone is asked.
    tokio::spawn(async move { drop(client.refresh_topology().await) });
}
