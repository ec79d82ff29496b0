//! A real browser without a window, steered over the W3C WebDriver protocol: what it shows, what it
//! complains of, what keys do.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;

use crate::eventually;

/// The key in an element reference, fixed by the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A call that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The size of a window and its style.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// A phone: touch, and a dense screen.
    pub mobile: bool,
    /// The dark style is preferred.
    pub dark: bool,
}

/// A browser and its driver; both end when it is dropped.
#[derive(Debug)]
pub struct WebDriver {
    driver: Child,
    agent: Agent,
    session: String,
}

impl WebDriver {
    /// Starts `chromedriver` and a browser that takes any certificate.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start chromedriver")?;
        let config =
            Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let base = format!("http://127.0.0.1:{port}");
        let mut browser =
            Self { driver, agent: config.build().into(), session: format!("{base}/session") };
        eventually("chromedriver is ready", || {
            let ready = browser.request("GET", &format!("{base}/status"), None);
            std::future::ready(ready.and_then(|status| {
                ensure!(status["ready"] == true, "{status}");
                Ok(())
            }))
        })
        .await?;
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let opened = browser.request("POST", &browser.session, Some(&capabilities))?;
        let id = opened["sessionId"].as_str().context("no session")?;
        browser.session = format!("{}/{id}", browser.session);
        Ok(browser)
    }

    fn request(&self, method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())?;
        let mut answer = self.agent.run(request)?;
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string()?;
        let mut answer: Value = serde_json::from_str(&text).context("no JSON")?;
        let value = answer["value"].take();
        if let Some(error) = value["error"].as_str() {
            bail!("{url}: {error}: {}", value["message"]);
        }
        Ok(value)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request("POST", &format!("{}{path}", self.session), Some(body))
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// There is no page.
    pub fn go(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({ "url": url })).map(drop)
    }

    /// Runs a script in the page; what it returns.
    ///
    /// # Errors
    /// It throws.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn find(&self, selector: &str) -> Result<String> {
        let found =
            self.post("/element", &json!({ "using": "css selector", "value": selector }))?;
        Ok(found[ELEMENT].as_str().context("no element")?.to_owned())
    }

    /// Clicks the first element that a selector finds.
    ///
    /// # Errors
    /// There is none, or it is covered.
    pub fn click(&self, selector: &str) -> Result<()> {
        let element = self.find(selector).with_context(|| format!("find {selector}"))?;
        self.post(&format!("/element/{element}/click"), &json!({})).map(drop)
    }

    /// Types into the first element that a selector finds.
    ///
    /// # Errors
    /// There is none, or it takes no text.
    pub fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.find(selector).with_context(|| format!("find {selector}"))?;
        self.post(&format!("/element/{element}/value"), &json!({ "text": text })).map(drop)
    }

    /// Presses a key, given by its code of the protocol, on the page as a whole.
    ///
    /// # Errors
    /// The browser refuses.
    pub fn press(&self, key: char) -> Result<()> {
        let key = key.to_string();
        let strokes =
            [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] });
        self.post("/actions", &actions).map(drop)
    }

    /// Shows pages as on this screen from now on.
    ///
    /// # Errors
    /// The browser refuses.
    pub fn look_as(&self, screen: Screen) -> Result<()> {
        let Screen { width, height, mobile, dark } = screen;
        let scale = if mobile { 2 } else { 1 };
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics)?;
        self.devtools("Emulation.setScrollbarsHidden", &json!({ "hidden": true }))?;
        let value = if dark { "dark" } else { "light" };
        let feature = json!({ "name": "prefers-color-scheme", "value": value });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] })).map(drop)
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("/goog/cdp/execute", &body)
    }

    /// Writes the whole page as an image.
    ///
    /// # Errors
    /// There is no image, or no place for it.
    pub fn shoot(&self, file: &Path) -> Result<()> {
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.devtools("Page.captureScreenshot", &parameters)?;
        let image = STANDARD.decode(shot["data"].as_str().context("no image")?)?;
        std::fs::write(file, image).with_context(|| format!("write {}", file.display()))
    }

    /// What the browser complained of since the last call.
    ///
    /// # Errors
    /// It does not say.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.post("/se/log", &json!({ "type": "browser" }))?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let grave = entries
            .iter()
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        Ok(grave.map(|entry| entry["message"].to_string()).collect())
    }
}

impl Drop for WebDriver {
    fn drop(&mut self) {
        // The driver ends its browser; if it cannot, it is gone itself.
        let _ = self.request("DELETE", &self.session, None);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
