//! The web console of a member, served by its control process.
//!
//! It decides nothing and knows nothing by itself: whoever is logged in is a client with a token,
//! and every question and every action is a call of `Admin` or `Operations` with that token, sent
//! as any client sends it. So roles, audit, refusals and revocation are those of the services. What
//! is here: sessions, forms, and who is asked for which page.

mod act;
mod answer;
mod collect;
mod login;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use keelson_client::{Client, ClientError, ClientOptions};
use keelson_console::pages::{self, Frame, Refused, Viewer};
use keelson_console::{Action, Attempts, Route, Session, Sessions, assets, route, web};
use keelson_net::{
    AccessSecret, Credentials, PeerIdentity, RefusedCalls, SiteRequest, SiteResponse, TlsStore,
    TokenBook, serve_site,
};
use keelson_types::RefusalReason;
use tokio::net::TcpListener;

use crate::Config;
use answer::{page, redirect, text};

/// A page and an action are answered within this time, or with a refusal.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// Who is logged in, and what they act with.
#[derive(Clone)]
struct Owner {
    identity: PeerIdentity,
    secret: AccessSecret,
    client: Client,
    /// Shown on the next page.
    notice: Arc<Mutex<String>>,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.identity)
    }
}

/// The console of one member. Clones are the same.
#[derive(Clone)]
pub(crate) struct Console(Arc<Shared>);

struct Shared {
    member: String,
    cookies: web::Cookies,
    endpoint: String,
    tls: Arc<TlsStore>,
    tokens: TokenBook,
    /// Hears who logged in, or tried to.
    logins: RefusedCalls,
    sessions: Mutex<Sessions<Owner>>,
    attempts: Mutex<Attempts>,
}

/// Serves it until it is dropped.
pub(crate) async fn serve(listener: TcpListener, tls: Arc<TlsStore>, console: Console) {
    serve_site(listener, tls, move |request| {
        let console = console.clone();
        async move { console.answer(request).await }
    })
    .await;
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of a header, if it is text.
fn header<'a>(request: &'a SiteRequest, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

fn cookie<'a>(request: &'a SiteRequest, name: &str) -> Option<&'a str> {
    web::cookie(header(request, "cookie")?, name)
}

/// The form comes from a page of this console, as far as the browser says.
fn is_own_form(request: &SiteRequest) -> bool {
    let host = header(request, "host").unwrap_or_default();
    web::is_own_origin(header(request, "origin"), header(request, "sec-fetch-site"), host)
}

impl Console {
    pub(crate) fn new(
        config: &Config,
        tls: Arc<TlsStore>,
        tokens: TokenBook,
        logins: RefusedCalls,
    ) -> Self {
        Self(Arc::new(Shared {
            member: config.name().to_string(),
            cookies: web::Cookies::of(
                config.name().as_str(),
                config.console_address().unwrap_or_default(),
            ),
            endpoint: config.advertise_control().to_owned(),
            tls,
            tokens,
            logins,
            sessions: Mutex::default(),
            attempts: Mutex::default(),
        }))
    }

    async fn answer(&self, request: SiteRequest) -> SiteResponse {
        let asked = route(&request.path);
        let answering = async {
            match (&request.method, asked) {
                (&Method::GET | &Method::HEAD, Route::Asset(name)) => asset(&name),
                (&Method::GET, Route::Login) => {
                    let query = web::fields(request.query.as_bytes());
                    let next = query.get(web::NEXT_FIELD).map(String::as_str);
                    self.login_form(next.unwrap_or_default(), "")
                }
                (&Method::POST, Route::Login) => self.login(&request),
                (&Method::GET | &Method::HEAD | &Method::POST, asked) => {
                    self.for_session(&request, asked).await
                }
                _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n"),
            }
        };
        let limited = tokio::time::timeout(ANSWER_LIMIT, answering).await;
        limited.unwrap_or_else(|_| text(StatusCode::GATEWAY_TIMEOUT, "it took too long\n"))
    }

    /// Everything that takes a login.
    async fn for_session(&self, request: &SiteRequest, asked: Route) -> SiteResponse {
        let Some(mut session) = self.session(request) else {
            return redirect(&login_for(request));
        };
        if web::is_look(header(request, "sec-fetch-dest")) {
            // The notice is for the page that whoever acted is led to.
            session.owner.notice = Arc::default();
        }
        if request.method == Method::POST {
            let form = web::fields(&request.body);
            let word = form.get(web::CSRF_FIELD).map(String::as_str).unwrap_or_default();
            if !session.is_form(word) || !is_own_form(request) {
                let what = "the form was not filled in on a page of this session";
                let error = ClientError::new(RefusalReason::Forbidden, what);
                return self.refuse(&session, "", "/", &error);
            }
            return match asked {
                Route::Logout => self.logout(request),
                Route::Action(parts) => match action(&parts, &form) {
                    Some(action) => self.act(&session, &action).await,
                    None => self.unknown(&session),
                },
                _ => text(StatusCode::METHOD_NOT_ALLOWED, "this page takes no forms\n"),
            };
        }
        match asked {
            Route::Action(parts) => {
                let query = web::fields(request.query.as_bytes());
                match action(&parts, &query) {
                    Some(action) => self.plan(&session, &action).await,
                    None => self.unknown(&session),
                }
            }
            asked => self.show(&session, asked, &request.query).await,
        }
    }

    /// The session of a request, as long as its token counts.
    fn session(&self, request: &SiteRequest) -> Option<Session<Owner>> {
        let secret = AccessSecret::parse(cookie(request, &self.0.cookies.session)?).ok()?;
        let session = lock(&self.0.sessions).find(secret.digest(), now_ms())?;
        match self.0.tokens.holder(&session.owner.secret) {
            Ok(_) => Some(session),
            Err(refusal) => {
                tracing::info!(owner = ?session.owner, %refusal, "a session ended");
                lock(&self.0.sessions).end(secret.digest());
                None
            }
        }
    }

    /// What all pages show; a notice is shown once.
    fn frame(&self, session: Option<&Session<Owner>>) -> Frame {
        let viewer = session.map(|session| Viewer {
            name: session.owner.identity.name.clone(),
            role: session.owner.identity.role.to_string(),
            csrf: session.csrf.clone(),
        });
        let notice = session.map(|session| std::mem::take(&mut *lock(&session.owner.notice)));
        Frame {
            member: self.0.member.clone(),
            now_ms: now_ms(),
            viewer,
            notice: notice.unwrap_or_default(),
        }
    }

    fn client(&self, secret: &AccessSecret) -> Client {
        let credentials = Credentials::bearer(self.0.tls.clone(), secret.clone());
        let options = ClientOptions { channels_per_member: 1, ..ClientOptions::default() };
        Client::with_credentials(vec![self.0.endpoint.clone()], credentials, options)
    }

    /// Shows a refusal as commands show it.
    fn refuse(
        &self,
        session: &Session<Owner>,
        what: &str,
        back: &str,
        error: &ClientError,
    ) -> SiteResponse {
        let refused = Refused {
            code: error.code().into(),
            message: error.message.clone(),
            hint: error.hint().into(),
            what: what.into(),
            back: back.into(),
        };
        let status = answer::status_of(error.reason);
        page(status, pages::refused(&self.frame(Some(session)), &refused))
    }

    fn unknown(&self, session: &Session<Owner>) -> SiteResponse {
        let refused = Refused {
            code: "unknown_page".into(),
            message: "there is no such page".into(),
            what: "Not found".into(),
            back: "/".into(),
            ..Refused::default()
        };
        page(StatusCode::NOT_FOUND, pages::refused(&self.frame(Some(session)), &refused))
    }
}

/// The login that leads to the page that was asked for.
fn login_for(request: &SiteRequest) -> String {
    if request.method == Method::POST {
        return "/login".into();
    }
    let mark = if request.query.is_empty() { "" } else { "?" };
    let wanted = format!("{}{mark}{}", request.path, request.query);
    match web::safe_next(&wanted) {
        "/" => "/login".into(),
        next => format!("/login{}", web::query(&[(web::NEXT_FIELD, next)])),
    }
}

fn action(parts: &[String], fields: &std::collections::BTreeMap<String, String>) -> Option<Action> {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Action::of(&parts, fields)
}

fn asset(name: &str) -> SiteResponse {
    match assets::asset(name) {
        Some(asset) => answer::asset(asset.content_type, asset.text),
        None => text(StatusCode::NOT_FOUND, "no such file\n"),
    }
}
