//! A Synapse on loopback: installed once, started and stopped by a test, used by its clients.

use std::{
    collections::BTreeSet,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use gibbous::{OwnedServerName, ServerName};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

const REQUIREMENTS: &str = include_str!("../requirements.txt");

/// Starts Synapse, and ends it with the test, however that ends: the test holds the other end of its input.
const MAIN: &str = "
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from synapse.app.homeserver import main
main()
";

/// Returns a Python that has Synapse. It is that of a virtual environment next to what cargo builds, made the first
/// time.
pub(crate) fn python() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("the target directory has no name")?;
    let environment = target.join("synapse-venv");
    let python = environment.join("bin/python");
    // Written last: it tells that the environment is whole, and of these versions.
    let installed = environment.join("requirements.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == REQUIREMENTS) {
        return Ok(python);
    }
    let is_new_enough = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    run("no Python of 3.10 or later with venv", Command::new("python3").args(["-c", is_new_enough]))?;
    run("no virtual environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let wanted = environment.join("wanted.txt");
    let write = |path: &Path| fs::write(path, REQUIREMENTS).map_err(|error| format!("{}: {error}", path.display()));
    write(&wanted)?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    run("Synapse cannot be installed", pip.args(["--retries", "1", "--requirement"]).arg(&wanted))?;
    write(&installed)?;
    Ok(python)
}

fn run(failed: &str, command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{failed}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{failed}: {}", said.trim().lines().last().unwrap_or_default()))
}

/// A Synapse that runs. It is killed when this is dropped.
pub(crate) struct Synapse {
    pub(crate) name: OwnedServerName,
    process: Child,
    log: PathBuf,
    http: Client,
}

impl Synapse {
    /// Starts one in a directory, where the certificate of `localhost` and its key are, and waits for it.
    pub(crate) async fn start(python: &Path, dir: &Path, http: Client) -> Self {
        // Somebody else may take the port before Synapse does, which then says so and ends.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let name = format!("localhost:{port}");
        let config = dir.join("homeserver.yaml");
        // Whatever is JSON is YAML.
        fs::write(&config, config_of(&name, port, dir).to_string()).expect("the directory can be used");
        fs::write(dir.join("signing.key"), format!("ed25519 a_1 {}\n", "synapse".repeat(6) + "s")).expect("as above");
        let log = dir.join("synapse.log");
        let output = fs::File::create(&log).expect("the directory can be used");
        let process = Command::new(python)
            .args(["-c", MAIN, "--config-path"])
            .arg(&config)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a file can be written by two"))
            .stderr(output)
            .spawn()
            .expect("Python starts");
        let mut synapse =
            Self { name: name.try_into().expect("a host and port are a server name"), process, log, http };
        for _ in 0..600 {
            if synapse.call("GET", "/_matrix/client/versions", None, None).await.is_ok() {
                return synapse;
            }
            if let Some(status) = synapse.process.try_wait().expect("it is our process") {
                panic!("Synapse ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Synapse has not started within a minute");
    }

    /// Makes a user.
    pub(crate) async fn user(&self, name: &str) -> User<'_> {
        let request = json!({ "username": name, "password": "secret", "auth": { "type": "m.login.dummy" } });
        let answer = self.call("POST", "/_matrix/client/v3/register", None, Some(&request)).await;
        let answer = answer.unwrap_or_else(|error| panic!("registering {name}: {error}"));
        let text = |key: &str| answer[key].as_str().expect("users have an ID and a token").to_owned();
        User { synapse: self, id: text("user_id"), token: text("access_token") }
    }

    /// Returns the answer to a client's request, or the status of a refusal.
    async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        content: Option<&Value>,
    ) -> Result<Value, String> {
        let method = Method::from_bytes(method.as_bytes()).expect("tests use the methods that there are");
        let mut request = self.http.request(method, format!("https://{}{path}", self.name));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(content) = content {
            request = request.body(content.to_string());
        }
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| error.to_string())?;
        match status {
            StatusCode::OK => Ok(serde_json::from_slice(&body).expect("Synapse answers in JSON")),
            _ => Err(format!("{} {}", status.as_u16(), String::from_utf8_lossy(&body))),
        }
    }

    /// Tells whether Synapse has logged this.
    pub(crate) fn has_logged(&self, what: &str) -> bool {
        fs::read_to_string(&self.log).expect("Synapse logs").contains(what)
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
            let lines: Vec<&str> = log.lines().collect();
            println!("\nThe end of what Synapse logged:\n{}", lines[lines.len().saturating_sub(100)..].join("\n"));
        }
    }
}

/// A user of Synapse.
pub(crate) struct User<'a> {
    synapse: &'a Synapse,
    pub(crate) id: String,
    token: String,
}

impl User<'_> {
    /// Makes a room that anybody may join, with an alias that is named after its version. Returns its ID.
    pub(crate) async fn create_room(&self, version: &str) -> String {
        let alias = format!("live{version}");
        let room = json!({
            "room_version": version, "preset": "public_chat", "name": "Live", "room_alias_name": alias,
        });
        self.call("POST", "createRoom", &room, "room_id").await
    }

    /// Does something to a room that makes no event whose ID is told: `join`, `leave`, `ban`.
    pub(crate) async fn act(&self, room: &str, act: &str, content: Value) {
        let path = format!("/_matrix/client/v3/rooms/{room}/{act}");
        let answer = self.synapse.call("POST", &path, Some(&self.token), Some(&content)).await;
        answer.unwrap_or_else(|error| panic!("{} {act}: {error}", self.id));
    }

    /// Sends a message. Returns the event's ID.
    pub(crate) async fn say(&self, room: &str, body: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": body });
        let transaction: String = body.chars().filter(char::is_ascii_alphanumeric).collect();
        self.call("PUT", &format!("rooms/{room}/send/m.room.message/{transaction}"), &content, "event_id").await
    }

    /// Reads a message, as soon as it is there.
    pub(crate) async fn reads(&self, room: &str, event_id: &str) -> String {
        let event = self.eventually(&format!("rooms/{room}/event/{event_id}"), |_| true).await;
        event["content"]["body"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the room says so of a user.
    pub(crate) async fn sees(&self, room: &str, user: &str, membership: &str) {
        let path = format!("rooms/{room}/state/m.room.member/{user}");
        self.eventually(&path, |content| content["membership"] == membership).await;
    }

    /// Returns the joined members. While the room is partial Synapse lets this wait until it is not.
    pub(crate) async fn joined_members(&self, room: &str) -> BTreeSet<String> {
        let answer = self.eventually(&format!("rooms/{room}/joined_members"), |_| true).await;
        answer["joined"].as_object().expect("members").keys().cloned().collect()
    }

    /// Joins a room by a server that is in it.
    pub(crate) async fn join(&self, room: &str, via: &ServerName) {
        self.call("POST", &format!("join/{room}?server_name={via}&via={via}"), &json!({}), "room_id").await;
    }

    async fn eventually(&self, path: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/_matrix/client/v3/{path}");
        let mut last = String::new();
        for _ in 0..100 {
            match self.synapse.call("GET", &path, Some(&self.token), None).await {
                Ok(answer) if is_it(&answer) => return answer,
                Ok(answer) => last = answer.to_string(),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path}: not within 10 s, but {last}");
    }

    /// Sets some state. Returns the event's ID.
    pub(crate) async fn set(&self, room: &str, event_type: &str, state_key: &str, content: &Value) -> String {
        self.call("PUT", &format!("rooms/{room}/state/{event_type}/{state_key}"), content, "event_id").await
    }

    async fn call(&self, method: &str, path: &str, content: &Value, key: &str) -> String {
        let path = format!("/_matrix/client/v3/{path}");
        let answer = self.synapse.call(method, &path, Some(&self.token), Some(content)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{} {method} {path}: {error}", self.id));
        answer[key].as_str().unwrap_or_else(|| panic!("{path}: expected {key}, found {answer}")).to_owned()
    }
}

fn config_of(name: &str, port: u16, dir: &Path) -> Value {
    let file = |name: &str| dir.join(name).display().to_string();
    let unlimited = json!({ "per_second": 100_000, "burst_count": 100_000 });
    json!({
        "server_name": name,
        "listeners": [{
            "port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": true,
            "resources": [{ "names": ["client", "federation"] }],
        }],
        "tls_certificate_path": file("certificate.pem"),
        "tls_private_key_path": file("key.pem"),
        "signing_key_path": file("signing.key"),
        "database": { "name": "sqlite3", "args": { "database": file("homeserver.db") } },
        "media_store_path": file("media"),
        "report_stats": false,
        "macaroon_secret_key": "secret",
        "form_secret": "secret",
        // Federation stays on this machine: our certificate is the only one believed.
        "federation_custom_ca_list": [file("certificate.pem")],
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "bcrypt_rounds": 4,
        "presence": { "enabled": false },
        "rc_message": unlimited,
        "rc_registration": unlimited,
        "rc_joins": { "local": unlimited, "remote": unlimited },
        "rc_joins_per_room": unlimited,
        "rc_login": { "address": unlimited, "account": unlimited },
        "rc_federation": {
            "window_size": 1000, "sleep_limit": 100_000, "sleep_delay": 1, "reject_limit": 100_000, "concurrent": 100,
        },
    })
}
