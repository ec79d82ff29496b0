//! `keelson-console-shots`: the web console in a real browser. Logs in, looks at every page on a
//! desk and on a phone, by day and by night, keeps an image of each, and checks what only a browser
//! knows: that nothing is refused by the policy of the pages, that nothing sticks out at the side,
//! that keys lead through, that pages look again by themselves.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{
    Cluster, ClusterOptions, Screen, WebDriver, Writer, WriterOptions, eventually,
};

const TAB: char = '\u{e004}';
const ENTER: char = '\u{e007}';

const DESK: Screen = Screen { width: 1280, height: 900, mobile: false, dark: false };
const PHONE: Screen = Screen { width: 390, height: 844, mobile: true, dark: false };

const SCREENS: [(&str, Screen); 4] = [
    ("desk", DESK),
    ("desk-dark", Screen { dark: true, ..DESK }),
    ("phone", PHONE),
    ("phone-dark", Screen { dark: true, ..PHONE }),
];

#[tokio::main]
async fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: keelson-console-shots DIRECTORY");
        return ExitCode::from(2);
    };
    match run(&directory).await {
        Ok(count) => {
            println!("console: {count} images in {}, nothing to complain of", directory.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("console FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(directory: &std::path::Path) -> Result<usize> {
    std::fs::create_dir_all(directory)?;
    let options = ClusterOptions {
        sites: ["north", "north", "south"].map(str::to_owned).to_vec(),
        console: true,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start_with(options).await?;
    let site = format!("https://{}", cluster.console_address(1)?);
    prepare(&cluster).await?;
    let browser = WebDriver::start().await?;
    browser.look_as(DESK)?;
    browser.go(&format!("{site}/login"))?;
    let mut shots = Shots { browser: &browser, directory, site: &site, count: 0 };
    shots.all("login", "/login")?;
    log_in(&cluster, &browser, &site).await?;
    keys_lead_through(&browser, &site)?;
    pages_look_again(&cluster, &browser, &site).await?;
    let decision = cluster.cli().json(["decision", "list", "DB1"]).await?;
    let index = decision.as_array().and_then(|all| all.last()).map(|one| one["index"].clone());
    let operations = cluster.cli().json(["operation", "list"]).await?;
    let operation = operations[0]["operation"].as_str().context("an operation")?.to_owned();
    for (name, path) in [
        ("overview", "/".to_owned()),
        ("database", "/databases/DB1".to_owned()),
        ("member", "/members/m2".to_owned()),
        ("operations", "/operations".to_owned()),
        ("operation", format!("/operations/{operation}")),
        ("events", "/events".to_owned()),
        ("decisions", "/decisions".to_owned()),
        ("decision", format!("/decisions/{}", index.context("a decision")?)),
        ("switchover", "/databases/DB1/switchover?to=m2".to_owned()),
        ("maintenance", "/members/m1/maintenance".to_owned()),
        ("suspend", "/copies/DB1/m2/suspend".to_owned()),
        ("seed", "/copies/DB2/m1/seed".to_owned()),
        ("refused", "/databases/DB9".to_owned()),
    ] {
        shots.all(name, &path)?;
    }
    switch_over(&cluster, &browser, &site).await?;
    Ok(shots.count)
}

/// A cluster in which there is something to see.
async fn prepare(cluster: &Cluster) -> Result<()> {
    for (name, members) in [
        ("DB1", ["m1", "m2", "m3"]),
        ("DB2", ["m2", "m3", "m1"]),
        ("Orders-2026", ["m3", "m1", "m2"]),
    ] {
        cluster.create_database(name, &members).await?;
        cluster.wait_until_counting(name).await?;
    }
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    cluster
        .cli()
        .succeed(["switchover", "DB1", "--to", "m3", "--comment", "new disk in m1"])
        .await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    drop(writer.stop().await);
    let comment = ["--comment", "waits for a new disk"];
    let suspend = ["copy", "suspend", "DB2@m1"];
    cluster.cli().succeed(suspend.iter().chain(&comment)).await?;
    Ok(())
}

async fn log_in(cluster: &Cluster, browser: &WebDriver, site: &str) -> Result<()> {
    let token = cluster.cli().succeed(["token", "issue", "operator", "pat"]).await?;
    browser.look_as(DESK)?;
    browser.go(&format!("{site}/"))?;
    browser.type_into("#token", token.trim())?;
    browser.click("button.primary")?;
    eventually("it is logged in", || {
        let title = browser.run("return document.title");
        std::future::ready(title.and_then(|title| {
            ensure!(title == "Overview · Keelson", "{title}");
            Ok(())
        }))
    })
    .await?;
    // The login page is answered with 401 to whoever is not logged in; that is no complaint.
    browser.complaints().map(drop)
}

/// The first key leads past the navigation.
fn keys_lead_through(browser: &WebDriver, site: &str) -> Result<()> {
    browser.go(&format!("{site}/"))?;
    browser.press(TAB)?;
    let skip = browser.run("return document.activeElement.className")?;
    ensure!(skip == "skip", "the first stop is {skip}");
    let seen = browser.run("return document.activeElement.getBoundingClientRect().left >= 0")?;
    ensure!(seen == true, "it is not seen");
    browser.press(ENTER)?;
    browser.press(TAB)?;
    let inside =
        browser.run("return document.getElementById('main').contains(document.activeElement)")?;
    ensure!(inside == true, "it does not lead to the content");
    Ok(())
}

/// What changes is seen without a reload, and what was opened stays so.
async fn pages_look_again(cluster: &Cluster, browser: &WebDriver, site: &str) -> Result<()> {
    browser.go(&format!("{site}/members/m2"))?;
    browser.click("#health-tests summary")?;
    browser.run("window.before = true")?;
    cluster.cli().succeed(["member", "maintenance", "start", "m2", "--comment", "fans"]).await?;
    eventually("the page shows it", || {
        let shown = browser.run(
            "return [window.before === true, document.getElementById('health-tests').open, \
             document.getElementById('main').innerText.includes('fans')]",
        );
        std::future::ready(shown.and_then(|shown| {
            ensure!(shown == serde_json::json!([true, true, true]), "{shown}");
            Ok(())
        }))
    })
    .await?;
    cluster.cli().succeed(["member", "maintenance", "stop", "m2"]).await?;
    Ok(())
}

/// A switchover from the page of the database, with nothing but clicks.
async fn switch_over(cluster: &Cluster, browser: &WebDriver, site: &str) -> Result<()> {
    browser.look_as(PHONE)?;
    browser.go(&format!("{site}/databases/DB1"))?;
    browser.run("document.getElementById('to').value = 'm2'")?;
    browser.click("form[action$='/switchover'] button")?;
    // The checks ask every member, so the page takes a moment.
    let confirm = "form[method='post'][action$='/switchover'] button.primary";
    eventually("the plan is shown", || std::future::ready(browser.click(confirm))).await?;
    eventually("it moved", || async {
        let active = cluster.active_of("DB1").await?;
        ensure!(active == "m2", "active on {active}");
        Ok(())
    })
    .await
}

struct Shots<'a> {
    browser: &'a WebDriver,
    directory: &'a std::path::Path,
    site: &'a str,
    count: usize,
}

impl Shots<'_> {
    /// A page on every screen.
    fn all(&mut self, name: &str, path: &str) -> Result<()> {
        for (screen_name, screen) in SCREENS {
            self.browser.look_as(screen)?;
            self.browser.go(&format!("{}{path}", self.site))?;
            self.browser.shoot(&self.directory.join(format!("{name}-{screen_name}.png")))?;
            self.count += 1;
            let wide = self.browser.run(
                "const page = document.documentElement; return page.scrollWidth - \
                 page.clientWidth",
            )?;
            ensure!(wide == 0, "{name} sticks out by {wide} on {screen_name}");
            let script = "return [document.querySelectorAll('h1').length, document.title]";
            let found = self.browser.run(script)?;
            ensure!(found[0] == 1, "{name} has {} headings", found[0]);
            let complaints = self.browser.complaints()?;
            let expected = |line: &String| name == "refused" && line.contains("404");
            let grave: Vec<_> = complaints.into_iter().filter(|line| !expected(line)).collect();
            ensure!(grave.is_empty(), "{name} on {screen_name}: {grave:?}");
        }
        Ok(())
    }
}
