//! The web console as a browser meets it: login, pages, what-if, actions, and who may not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Browser, Cluster, ClusterOptions, Visit, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn cluster() -> Result<Cluster> {
    let options = ClusterOptions { console: true, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_counting("DB1").await?;
    Ok(cluster)
}

fn visitor(cluster: &Cluster, member: usize) -> Result<Browser> {
    let ca = cluster.path().join("certs/ca.pem");
    Browser::new(&cluster.console_address(member)?, &ca)
}

async fn token(cluster: &Cluster, role: &str, name: &str) -> Result<String> {
    let secret = cluster.cli().succeed(["token", "issue", role, name]).await?;
    Ok(secret.trim().to_owned())
}

/// A visitor who is logged in at a member.
async fn logged_in(cluster: &Cluster, member: usize, role: &str) -> Result<Browser> {
    let name = format!("{role}-{member}");
    let secret = token(cluster, role, &name).await?;
    let mut browser = visitor(cluster, member)?;
    let answer = browser.log_in(&secret).await?;
    ensure!((answer.status, answer.location()) == (303, "/"), "{answer:?}");
    Ok(browser)
}

/// Confirms what a page of an action shows.
async fn confirm(browser: &mut Browser, path: &str, fields: &[(&str, &str)]) -> Result<Visit> {
    let page = browser.get(path).await?;
    ensure!(page.status == 200, "{page:?}");
    let word = page.field("csrf").context("the page has no word")?.to_owned();
    let mut all = vec![("csrf", word.as_str())];
    all.extend(fields);
    let path = path.split('?').next().unwrap_or_default();
    browser.post(path, &all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_opens_the_console_and_only_for_a_while() -> Result<()> {
    let cluster = cluster().await?;
    let mut browser = visitor(&cluster, 1)?;
    let away = browser.get("/").await?;
    assert_eq!((away.status, away.location()), (303, "/login"));
    let form = browser.get("/login").await?;
    for (header, word) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        ensure!(form.headers.get(header).is_some_and(|it| it.contains(word)), "{header}: {form:?}");
    }
    let wrong = browser.log_in(&format!("keelson_{}", "0".repeat(64))).await?;
    ensure!(wrong.status == 401 && wrong.body.contains("the token is unknown"), "{wrong:?}");
    let nonsense = browser.log_in("hunter2").await?;
    ensure!(nonsense.status == 401 && !nonsense.body.contains("hunter2"), "{nonsense:?}");
    // A form of another page, and one without the word, log nobody in.
    let secret = token(&cluster, "operator", "ann").await?;
    let fields = [("csrf", "x"), ("token", secret.as_str())];
    assert_eq!(browser.post("/login", &fields).await?.status, 401);
    let answer = browser.log_in(&secret).await?;
    let cookie = &answer.headers["set-cookie"];
    for word in ["__Host-keelson-session-m1-", "Secure", "HttpOnly", "SameSite=Strict"] {
        ensure!(cookie.contains(word), "{cookie}");
    }
    ensure!(!cookie.contains(&secret), "the cookie is not the token");
    let page = browser.get("/").await?;
    ensure!(page.status == 200 && page.body.contains("ann"), "{page:?}");
    cluster.cli().succeed(["token", "revoke", "ann", "--yes"]).await?;
    let away = browser.get("/").await?;
    assert_eq!(
        (away.status, away.location()),
        (303, "/login"),
        "a revoked token ends its sessions"
    );
    ensure!(!browser.cookies().is_empty(), "a session that is unknown may be another console's");
    let audit = cluster.cli().json(["audit", "m1", "--access"]).await?;
    let login = |by: &str, outcome: &str| {
        let fields = [("call", "console login"), ("by", by), ("outcome", outcome)];
        let lines = audit.as_array().into_iter().flatten();
        lines.filter(|line| fields.iter().all(|(field, value)| line[*field] == *value)).count()
    };
    assert_eq!((login("ann", "done"), login("", "unauthenticated")), (1, 1), "{audit}");
    ensure!(!audit.to_string().contains("hunter2"), "{audit}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_leads_to_the_page_that_was_asked_for_and_nowhere_else() -> Result<()> {
    let cluster = cluster().await?;
    let secret = token(&cluster, "operator", "ann").await?;
    let mut browser = visitor(&cluster, 1)?;
    let away = browser.get("/databases/DB1/switchover?to=m2").await?;
    assert_eq!(away.location(), "/login?next=%2Fdatabases%2FDB1%2Fswitchover%3Fto%3Dm2");
    for (asked, next) in [
        (away.location().to_owned(), "/databases/DB1/switchover?to=m2"),
        ("/login?next=//elsewhere.example/".into(), "/"),
    ] {
        let form = browser.get(&asked).await?;
        let field = |name| form.field(name).map(str::to_owned).context("the form lacks a field");
        let (word, kept) = (field("csrf")?, field("next")?);
        let fields = [("csrf", word.as_str()), ("next", &kept), ("token", &secret)];
        assert_eq!(browser.post("/login", &fields).await?.location(), next);
        // Whoever changes the form gets no further.
        let fields = [("csrf", word.as_str()), ("next", "https://elsewhere.example"), fields[2]];
        let led = browser.post("/login", &fields).await?;
        ensure!(led.status == 401 || led.location() == "/", "{led:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_are_limited() -> Result<()> {
    let cluster = cluster().await?;
    let mut browser = visitor(&cluster, 1)?;
    let mut statuses = Vec::new();
    for _ in 0..24 {
        statuses.push(browser.log_in("wrong").await?.status);
    }
    // The window may have turned once.
    ensure!(statuses.contains(&429) && statuses[0] == 401, "{statuses:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_shows_what_the_commands_show() -> Result<()> {
    let cluster = cluster().await?;
    let mut browser = logged_in(&cluster, 2, "operator").await?;
    for (path, words) in [
        ("/", &["All is well", "DB1", "m3", "Mounted", "Healthy"][..]),
        ("/databases/DB1", &["Who holds back the log", "Redundancy", "Activations"]),
        ("/members/m2", &["Space", "Activation policy", "Certificate", "Health", "Processes"]),
        ("/operations", &["Operations"]),
        ("/events", &["token issued", "database created"]),
        ("/decisions", &["DB1", "m1"]),
        ("/assets/style.css", &["prefers-color-scheme"]),
        ("/assets/console.js", &["fetch("]),
    ] {
        let page = browser.get(path).await?;
        ensure!(page.status == 200, "{path}: {page:?}");
        for word in words {
            ensure!(page.body.contains(word), "{path} lacks {word}: {}", page.body);
        }
    }
    let listed = cluster.cli().json(["decision", "list", "DB1"]).await?;
    let index = listed[0]["index"].as_u64().context("a decision")?;
    let page = browser.get(&format!("/decisions/{index}")).await?;
    ensure!(page.body.contains("Decided again from its inputs it is the same."), "{page:?}");
    for path in ["/nothing", "/databases/DB9", "/members/m9", "/operations/x", "/decisions/0"] {
        let page = browser.get(path).await?;
        ensure!((400..500).contains(&page.status), "{path}: {page:?}");
    }
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_shows_its_checks_first_and_is_audited() -> Result<()> {
    let cluster = cluster().await?;
    eventually("m2 passes the checks", || async {
        let rows = cluster.cli().json(["copy", "status", "DB1@m2"]).await?;
        ensure!(rows[0]["content_index_state"] == "Healthy", "{rows}");
        Ok(())
    })
    .await?;
    // Every member's console sends changes to the leader.
    let mut browser = logged_in(&cluster, 3, "operator").await?;
    let plan = browser.get("/databases/DB1/switchover?to=m2").await?;
    for word in ["DB1</b> would move from m1 to <b>m2", "copy queue", "passed", "Switch over"] {
        ensure!(plan.body.contains(word), "{word}: {}", plan.body);
    }
    assert_eq!(cluster.active_of("DB1").await?, "m1", "nothing was moved yet");
    let fields = [("to", "m2"), ("comment", "night shift")];
    let moved = confirm(&mut browser, "/databases/DB1/switchover?to=m2", &fields).await?;
    ensure!(moved.status == 303 && moved.location().starts_with("/operations/"), "{moved:?}");
    let operation = browser.get(moved.location()).await?;
    ensure!(operation.body.contains("night shift"), "{operation:?}");
    eventually("it moved", || async {
        let active = cluster.active_of("DB1").await?;
        ensure!(active == "m2", "active on {active}");
        Ok(())
    })
    .await?;
    eventually("it is in the audit", || async {
        let events = cluster.cli().succeed(["event", "list"]).await?;
        let asked = events.lines().filter(|line| line.contains("operator-3 (operator, token)"));
        ensure!(asked.clone().any(|line| line.contains("night shift")), "{events}");
        Ok(())
    })
    .await?;
    // What would be refused is said before, with its code.
    let plan = browser.get("/databases/DB1/switchover?to=m9").await?;
    ensure!(plan.status == 404 && plan.body.contains("unknown_member"), "{plan:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_suspended_seeded_and_resumed_with_the_refusals_of_the_commands() -> Result<()> {
    let cluster = cluster().await?;
    let mut browser = logged_in(&cluster, 1, "operator").await?;
    let early = browser.get("/copies/DB1/m3/seed").await?;
    ensure!(
        early.body.contains("not_suspended") && !early.body.contains(">Seed</button>"),
        "{early:?}"
    );
    let fields = [("comment", "a new disk")];
    let done = confirm(&mut browser, "/copies/DB1/m3/suspend", &fields).await?;
    assert_eq!((done.status, done.location()), (303, "/databases/DB1"));
    let page = browser.get("/databases/DB1").await?;
    ensure!(
        page.body.contains("DB1@m3 is suspended.") && page.body.contains("a new disk"),
        "{page:?}"
    );
    ensure!(!browser.get("/databases/DB1").await?.body.contains("is suspended."), "told once");
    let seeding = confirm(&mut browser, "/copies/DB1/m3/seed", &[]).await?;
    ensure!(seeding.location().starts_with("/operations/"), "{seeding:?}");
    cluster.wait_until_counting("DB1").await?;
    // The what-if says so before.
    let active = browser.get("/copies/DB1/m1/suspend").await?;
    ensure!(active.status == 409 && active.body.contains("What to do next"), "{active:?}");
    // What has no what-if is said in words.
    for (path, words) in [
        ("/databases/DB1/dismount", &["DB1 is open on", "would be closed there"][..]),
        ("/copies/DB1/m2/scrub", &["Its log and its store would be read"]),
        ("/members/m2/end-maintenance", &["is not under maintenance"]),
    ] {
        let page = browser.get(path).await?;
        for word in words {
            ensure!(page.status == 200 && page.body.contains(word), "{path}: {word}: {page:?}");
        }
    }
    let nowhere = browser.get("/copies/DB9/m2/scrub").await?;
    ensure!(nowhere.status == 404 && nowhere.body.contains("unknown_database"), "{nowhere:?}");
    confirm(&mut browser, "/databases/DB1/dismount", &[]).await?;
    eventually("it is dismounted", || async {
        let info = cluster.client().admin().show_database("DB1").await?;
        ensure!(info.mount_intent.eq_ignore_ascii_case("dismounted"), "{info:?}");
        Ok(())
    })
    .await?;
    let plan = browser.get("/databases/DB1/mount").await?;
    ensure!(plan.body.contains("It would be opened on"), "{plan:?}");
    confirm(&mut browser, "/databases/DB1/mount", &[]).await?;
    cluster.active_of("DB1").await?;
    let done = confirm(&mut browser, "/members/m2/maintenance", &fields).await?;
    assert_eq!((done.status, done.location()), (303, "/members/m2"));
    ensure!(browser.get("/members/m2").await?.body.contains("End maintenance"), "it began");
    confirm(&mut browser, "/members/m2/end-maintenance", &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_and_does_nothing_and_forged_forms_do_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let mut reader = logged_in(&cluster, 1, "reader").await?;
    for path in ["/", "/databases/DB1", "/events", "/databases/DB1/switchover?to=m2"] {
        let page = reader.get(path).await?;
        ensure!(page.status == 403 && page.body.contains("forbidden"), "{path}: {page:?}");
    }
    let page = reader.get("/").await?;
    let word = page.field("csrf").context("a word")?.to_owned();
    let fields = [("csrf", word.as_str())];
    let refused = reader.post("/databases/DB1/dismount", &fields).await?;
    ensure!(refused.status == 403 && refused.body.contains("may not call Admin"), "{refused:?}");
    let mut operator = logged_in(&cluster, 2, "operator").await?;
    let page = operator.get("/databases/DB1/dismount").await?;
    let word = page.field("csrf").context("a word")?.to_owned();
    let own = [("csrf", word.as_str())];
    let foreign = [("origin", "https://elsewhere.example")];
    let cross = [("sec-fetch-site", "cross-site")];
    for (fields, headers) in [
        (&[][..], &[][..]),
        (&[("csrf", "wrong")][..], &[][..]),
        (&own[..], &foreign[..]),
        (&own[..], &cross[..]),
    ] {
        let refused = operator.post_from("/databases/DB1/dismount", fields, headers).await?;
        ensure!(refused.status == 403, "{fields:?} {headers:?}: {refused:?}");
    }
    let info = cluster.client().admin().show_database("DB1").await?;
    ensure!(info.mount_intent.eq_ignore_ascii_case("mounted"), "nothing was done: {info:?}");
    let out = operator.post("/logout", &own).await?;
    assert_eq!((out.status, out.location()), (303, "/login"));
    ensure!(operator.cookies().is_empty(), "{operator:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_greedy_visitors_cost_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let address = cluster.console_address(1)?;
    // They open connections and say nothing, no TLS either.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(&address).await?);
    }
    for stream in silent.iter_mut().take(20) {
        // It may be closed already.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n").await;
    }
    cluster.cli().succeed(["kv", "put", "DB1", "k", "v"]).await?;
    let begun = Instant::now();
    cluster.cli().succeed(["cluster", "status"]).await?;
    ensure!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut byte = [0];
    for stream in &mut silent {
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut byte)).await;
        // An error of the stream is an end, too.
        ended.context("a silent connection is not closed")?.ok();
    }
    drop(silent);
    let mut browser = eventually("there is room again", || async {
        let mut browser = visitor(&cluster, 1)?;
        browser.get("/login").await?;
        Ok(browser)
    })
    .await?;
    let large = "x".repeat(100_000);
    let refused = browser.post("/login", &[("token", large.as_str())]).await;
    ensure!(
        refused.is_err() || refused.is_ok_and(|it| it.status == 413),
        "a large form is refused"
    );
    cluster.assert_clean_logs(&[])
}
