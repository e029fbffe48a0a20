//! The web pages: in a real browser (headless Chromium, with axe), by promtool, and by hand.
//!
//! Run with `make browser`, which installs what the browser side needs into build/browser.

mod world;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use world::World;

const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// A server on a port of its own, for the files of a world.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(root: &Path) -> Self {
        Self::start_with(root, "0")
    }

    fn start_with(root: &Path, idle: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_blat-web"))
            .args(["--listen", "127.0.0.1:0", "--idle", idle, "--root"])
            .arg(root)
            .stdout(Stdio::piped())
            .spawn()
            .expect("blat-web starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().to_owned() }
    }

    fn host(&self) -> &str {
        self.address.trim_start_matches("http://").trim_end_matches('/')
    }

    /// The answer's head and body.
    fn get(&self, path: &str, accept: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.host()).expect("it listens");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn build() -> PathBuf {
    Path::new(SOURCE).join("build")
}

#[test]
fn the_pages_in_a_browser() {
    let modules = build().join("browser");
    assert!(modules.join("node_modules/axe-core").exists(), "not installed: run this by `make browser`");
    let pictures = build().join("screenshots");
    fs::create_dir_all(&pictures).unwrap();
    let worlds = [World::mixed(), World::empty(), World::many(), World::broken()];
    let servers = worlds.each_ref().map(|world| Server::start(world.root()));
    let output = Command::new("node")
        .arg(Path::new(SOURCE).join("tests/web/browser.mjs"))
        .args([&modules, &pictures])
        .args(servers.each_ref().map(|server| server.address.clone()))
        .output()
        .expect("this test needs node");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    println!("{said}");
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs promtool: install Debian's package `prometheus`");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {said}\n{input}");
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    let world = World::mixed();
    let server = Server::start(world.root());
    let (head, plain) = server.get("/metrics", "text/plain;version=0.0.4");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    promtool(&["check", "metrics"], &plain);
    let (head, open) = server.get("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE blat_sent_bytes counter\n"), "{open}");
    for line in [
        "blat_connected{target=\"up\"} 1",
        "blat_connected{target=\"down\"} 0",
        "blat_state{target=\"key\"} 2",
        "blat_sent_bytes_total{target=\"up\",run=\"sync\"} 123456789",
        "blat_members{target=\"up\"} 432",
    ] {
        assert!(open.lines().any(|found| found == line) && plain.contains(line), "{line} in:\n{open}");
    }
    // The dead man's figure.
    let good = |target: &str| {
        let start = format!("blat_last_good_sync_seconds{{target=\"{target}\"}} ");
        open.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
    };
    assert!(good("up").is_some_and(|ago| (3600..3700).contains(&ago)), "{open}");
    assert!(good("nodb").is_some_and(|ago| ago > 7000), "{open}");
}

#[test]
fn every_metric_of_the_rules_is_one_that_there_is() {
    let rules = fs::read_to_string(Path::new(SOURCE).join("config/prometheus/blat.rules.yml")).unwrap();
    let path = Path::new(SOURCE).join("config/prometheus/blat.rules.yml");
    promtool(&["check", "rules", &path.to_string_lossy()], "");
    let world = World::mixed();
    let (_, plain) = Server::start(world.root()).get("/metrics", "text/plain");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: Vec<&str> = rules.split(|c| !word(c)).filter(|word| word.starts_with("blat_")).collect();
    assert!(named.len() > 8, "{named:?}");
    for name in named {
        assert!(plain.contains(&format!("\n{name}{{")) || plain.contains(&format!("\n{name} ")), "{name}");
    }
}

#[test]
fn where_nothing_is_named_any_more_no_metric_is_of_an_old_synchronisation() {
    let world = World::mixed();
    let server = Server::start(world.root());
    let told = || {
        let (_, plain) = server.get("/metrics", "text/plain");
        let of = |name: &&str| plain.contains(&format!("blat_{name}{{target=\"shrunk\"}}"));
        ["members", "problem_packages", "excess_packages", "guarded", "state"].into_iter().filter(of).count()
    };
    assert_eq!(told(), 5);
    let file = world.root().join("etc/blat/targets/shrunk.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.split("[packages]").next().unwrap()).unwrap();
    assert_eq!(told(), 1, "its state alone");
}

#[test]
fn a_target_that_is_disabled_alerts_nobody() {
    let rules = Path::new(SOURCE).join("config/prometheus/blat.rules.yml");
    let mut test = format!("rule_files: [{rules:?}]\ntests:\n- interval: 1m\n  input_series:\n");
    let both = [
        ("state", 0),
        ("agent_running", 0),
        ("last_good_sync_seconds", 99_999),
        ("sync_period_seconds", 3600),
        ("lag_seconds", 99_999),
        ("guarded", 1),
        ("free_bytes", 1),
    ];
    for (target, enabled) in [("runs", 1), ("disabled", 0)] {
        for (name, value) in both.into_iter().chain([("enabled", enabled)]) {
            let series = format!("'blat_{name}{{target=\"{target}\"}}'");
            test += &format!("  - {{series: {series}, values: {value}x60}}\n");
        }
    }
    test += "  promql_expr_test:\n  - expr: count by (target) (ALERTS{alertstate=\"firing\"})\n    \
             eval_time: 1h\n    exp_samples: [{labels: '{target=\"runs\"}', value: 5}]\n";
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, test).unwrap();
    promtool(&["test", "rules", &file.path().to_string_lossy()], "");
}

#[test]
fn the_status_for_programs_is_that_of_the_command() {
    let world = World::mixed();
    let (_, body) = Server::start(world.root()).get("/api/status", "*/*");
    let mut web: serde_json::Value = serde_json::from_str(&body).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_blat"))
        .args(["status", "--json", "--root"])
        .arg(world.root())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "the worst of all is critical");
    let mut command: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // What grows by itself.
    for fleet in [&mut web, &mut command] {
        fleet["at"] = 0.into();
        for target in fleet["targets"].as_array_mut().unwrap() {
            target["lag"] = 0.into();
            target["remarks"] = 0.into();
        }
    }
    assert_eq!(web, command);
}

#[test]
fn it_ends_when_nobody_asks_even_if_a_connection_stays_open() {
    let world = World::empty();
    let mut server = Server::start_with(world.root(), "1s");
    let _silent = TcpStream::connect(server.host()).unwrap();
    assert!(server.get("/", "*/*").1.contains("There is no target yet"));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
}
