//! A headless Chromium, driven over the DevTools protocol
//! (<https://chromedevtools.github.io/devtools-protocol/>) as a user's hands would.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// Starting a browser and waiting for the page, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one tab.
pub struct Browser {
    process: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    next: u64,
    _profile: tempfile::TempDir,
    /// Requests that left this machine, and errors of the page.
    pub complaints: Vec<String>,
}

/// Chromium's program; `CHROMIUM` names another one.
fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

impl Browser {
    /// Start it with a window of this size; `None`, said aloud, where there is no Chromium.
    pub fn start(width: u32, height: u32) -> Option<Self> {
        let Some(program) = program() else {
            // Written past the test harness, which keeps what a passing test says to itself.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: there is no chromium, so the search page was not tested in a browser"
            );
            return None;
        };
        let profile = tempfile::tempdir().expect("profile");
        let mut process = Command::new(program)
            .args(["--headless", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu"])
            // Root, as in containers, cannot have the sandbox; the page is ours.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                "--force-device-scale-factor=1",
            ])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chromium starts");
        let address = devtools_address(&mut process);
        let host = address.trim_start_matches("ws://").split('/').next().expect("host");
        let stream = TcpStream::connect(host).expect("DevTools");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let (socket, _) = tungstenite::client(address.as_str(), stream).expect("DevTools");
        let complaints = Vec::new();
        let mut browser =
            Self { process, socket, session: String::new(), next: 0, _profile: profile, complaints };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().expect("session").to_owned();
        for domain in ["Page", "Runtime", "Network", "Log", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(width, height);
        Some(browser)
    }

    /// Send a command and wait for its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).expect("DevTools listens");
        loop {
            let Message::Text(text) = self.socket.read().expect("DevTools answers") else { continue };
            let message: Value = serde_json::from_str(&text).expect("json");
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                let url = params["request"]["url"].as_str().unwrap_or_default();
                if !url.starts_with("http://127.0.0.1:")
                    && !url.starts_with("blob:")
                    && !url.starts_with("about:")
                {
                    self.complaints.push(format!("asks for {url}"));
                }
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            // Answers with an error status are told here too; those are what some tests ask for.
            Some("Log.entryAdded") if params["entry"]["source"] != "network" => {
                self.complaints.push(params["entry"].to_string());
            }
            _ => {}
        }
    }

    pub fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({"url": address}));
        self.wait_for(
            "document.readyState === 'complete' && document.querySelector('#form')?.onsubmit !== null",
        );
    }

    /// The value of an expression in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Wait until an expression is true.
    pub fn wait_for(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(expression) != json!(true) {
            if start.elapsed() > PATIENCE {
                let page = self.eval("document.body.innerText");
                panic!("still not {expression}; complaints {:?}; the page says {page}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Type a text where the focus is.
    pub fn type_text(&mut self, text: &str) {
        for character in text.chars() {
            self.call("Input.dispatchKeyEvent", json!({"type": "char", "text": character.to_string()}));
        }
    }

    /// Press and let go a key, by its DOM name.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            "/" => 191,
            other => panic!("no key code of {other}"),
        };
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if let Some(text) = match key {
            "Enter" => Some("\r"),
            "/" => Some("/"),
            _ => None,
        } {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up);
    }

    /// Click in the middle of the first element of a selector.
    pub fn click(&mut self, selector: &str) {
        let [x, y] = self.middle(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Drag a file from elsewhere over an element, and drop it.
    pub fn drop_file(&mut self, file: &Path, selector: &str) {
        let [x, y] = self.middle(selector);
        let data = json!({"items": [], "files": [file], "dragOperationsMask": 1});
        for kind in ["dragEnter", "dragOver", "drop"] {
            self.call("Input.dispatchDragEvent", json!({"type": kind, "x": x, "y": y, "data": data}));
        }
    }

    /// Choose a file in a file input.
    pub fn choose_file(&mut self, file: &Path, selector: &str) {
        let document = self.call("DOM.getDocument", json!({}));
        let find = json!({"nodeId": document["root"]["nodeId"], "selector": selector});
        let node = self.call("DOM.querySelector", find);
        self.call("DOM.setFileInputFiles", json!({"files": [file], "nodeId": node["nodeId"]}));
    }

    fn middle(&mut self, selector: &str) -> [f64; 2] {
        let at = self.eval(&format!(
            "(() => {{ const e = document.querySelector({}); e.scrollIntoView({{block: 'nearest'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        ));
        [0, 1].map(|axis| at[axis].as_f64().unwrap_or_else(|| panic!("{selector} has no place: {at}")))
    }

    /// Show the page in a window of another size.
    pub fn resize(&mut self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", params);
    }

    /// Ask for the light or the dark page.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Write what is seen as a PNG.
    pub fn screenshot(&mut self, file: &Path) {
        self.wait_for(
            "[...document.images].every((i) => !i.getAttribute('src') || i.complete || i.loading === 'lazy')",
        );
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        std::fs::write(file, from_base64(shot["data"].as_str().expect("data"))).expect("screenshot");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Chromium tells it on its error output; the rest of that is thrown away on a thread.
fn devtools_address(process: &mut Child) -> String {
    let mut lines = BufReader::new(process.stderr.take().expect("stderr")).lines();
    let mut said = Vec::new();
    let address = loop {
        let Some(Ok(line)) = lines.next() else { panic!("chromium ended: {said:?}") };
        match line.strip_prefix("DevTools listening on ") {
            Some(address) => break address.trim().to_owned(),
            None => said.push(line),
        }
    };
    std::thread::spawn(move || lines.for_each(drop));
    address
}

/// RFC 4648.
fn from_base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|four| {
        let bits = four.iter().fold(0_u32, |bits, &d| bits << 6 | u32::from(d)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    });
    bytes.collect()
}
