//! What operators and build machines meet: the socket for tags, the web pages on theirs, `blat status`,
//! and the notice that a person is needed.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::field::{Field, SOURCE};
use crate::machines::wait_until;

const SOON: Duration = Duration::from_secs(60);
const TAGS: &str = "/var/lib/blat/tags/off";

#[test]
fn sockets_serve_writers_of_tags_and_readers_of_pages() {
    let field = Field::with_target("operator");
    // A target that takes no tag away, so that they can be counted.
    field.write_target("off", SOURCE, "enabled = false\n");
    wait_until("its tag directory is there", SOON, || field.master.file(TAGS).exists());
    field.master.sh("systemctl start blat-tag.socket blat-web.socket");
    a_line_is_a_tag_and_is_sent(&field);
    twenty_writers_at_once(&field);
    bad_lines_and_a_writer_that_hangs(&field);
    the_pages(&field);
    status_without_an_agent(&field);
    field.assert_no_failed_unit();
}

fn tell(field: &Field, lines: &str) -> String {
    field.master.write("/run/lines", lines, 0o644);
    field.master.sh("nc -NU /run/blat/tag </run/lines")
}

fn a_line_is_a_tag_and_is_sent(field: &Field) {
    field.publish("core", "1.0");
    assert_eq!(tell(field, "core 1.0\n"), "ok core 1.0 site1");
    field.wait_for("site1", "core", "1.0", SOON);
    let group = field.master.sh("stat -c '%G %a' /run/blat/tag");
    assert_eq!(group, "blat-tags 660");
    let other = field.master.sh("runuser -u nobody -- nc -NU /run/blat/tag </run/lines 2>&1 || echo refused");
    assert!(other.contains("refused"), "{other}");
}

/// 20 writers, 500 lines each, one in ten of them no tag, beside one that hangs.
fn twenty_writers_at_once(field: &Field) {
    let script = r#"
        sleep 300 | nc -U /run/blat/tag >/run/hangs 2>&1 & hangs=$!
        mkdir -p /run/writers
        for writer in $(seq 20); do
            seq 500 | awk -v w=$writer '{ if ($1 % 10) print "p" w, $1 ".0", "off"; else print "bad line" w " ../x" }' \
                >/run/writers/in-$writer
        done
        writers=
        for writer in $(seq 20); do
            nc -NU /run/blat/tag </run/writers/in-$writer >/run/writers/out-$writer & writers="$writers $!"
        done
        wait $writers
        kill $hangs; pkill -x sleep || true
    "#;
    let begin = Instant::now();
    field.master.sh(script);
    let took = begin.elapsed();
    let mut accepted = BTreeSet::new();
    for writer in 1..=20 {
        let read = |kind: &str| {
            let path = format!("/run/writers/{kind}-{writer}");
            field.master.sh(&format!("cat {path}"))
        };
        let (lines, answers) = (read("in"), read("out"));
        assert_eq!(answers.lines().count(), 500, "writer {writer}:\n{answers}");
        for (line, answer) in lines.lines().zip(answers.lines()) {
            let mut words = line.split(' ');
            let (package, version) = (words.next().unwrap(), words.next().unwrap());
            if line.starts_with("bad") {
                assert!(answer.starts_with("error "), "{line}: {answer}");
            } else {
                assert_eq!(answer, format!("ok {package} {version} off"));
                accepted.insert(format!("{package}::{version}"));
            }
        }
    }
    let dropped: BTreeSet<String> = fs::read_dir(field.master.file(TAGS))
        .expect("the tag directory")
        .map(|item| item.expect("an entry").file_name().into_string().expect("plain names"))
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(accepted.len(), 9000);
    assert_eq!(dropped, accepted);
    println!("10,000 lines of 20 writers were answered after {took:?}; every accepted one is a tag");
}

fn bad_lines_and_a_writer_that_hangs(field: &Field) {
    let long = "x".repeat(5000);
    let answers = tell(field, &format!("core\n\n{long}\ncore 1 nowhere\ncore ..\ncore 1.0 off\ncore 2."));
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 7, "{answers:?}");
    assert_eq!(answers[5], "ok core 1.0 off");
    assert!(answers.iter().filter(|answer| answer.starts_with("error ")).count() == 6, "{answers:?}");
    let endless = field
        .master
        .sh("timeout 60 sh -c 'tr \"\\0\" x </dev/zero | nc -NU /run/blat/tag' | tail -n 1 || true");
    assert!(endless.contains("does not end"), "{endless:?}");
    // One that hangs has a process of its own; when it is gone, so is that.
    wait_until("no process of a writer is left", SOON, || {
        field.master.sh("systemctl list-units --plain --no-legend 'blat-tag@*'").is_empty()
    });
}

/// The whole answer to a request.
fn get(field: &Field, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n");
    field.master.sh(&format!("printf '{request}' | timeout 20 nc 127.0.0.1 8475"))
}

fn the_pages(field: &Field) {
    field.master.write(
        "/etc/systemd/system/blat-web.service.d/idle.conf",
        "[Service]\nExecStart=\nExecStart=/usr/lib/blat/blat-web --idle 2s\n",
        0o644,
    );
    field.master.sh("systemctl daemon-reload");
    assert_eq!(field.active("blat-web"), "inactive", "nobody has asked");
    let mut best = f64::MAX;
    for _ in 0..5 {
        wait_until("it has ended, for nobody asks", SOON, || field.active("blat-web") == "inactive");
        let begin = Instant::now();
        let page = get(field, "/");
        best = best.min(begin.elapsed().as_secs_f64());
        assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("site1"), "{page}");
    }
    println!("the first answer, with the start of the service: {best} s (best of 5)");
    // Other tests share the cores.
    assert!(best < 1.0, "{best} s");
    let page = get(field, "/target/site1");
    assert!(page.contains("up for") && page.contains("core"), "{page}");
    let package = get(field, "/package?name=core");
    // Only the journal and the records of the run have it: the service may read both.
    assert!(package.contains("1.0 on") && package.contains("for a tag"), "{package}");
    let metrics = get(field, "/metrics");
    assert!(metrics.contains("blat_connected{target=\"site1\"} 1"), "{metrics}");
    // The service may look at all that the state is told by: no target is unknown.
    assert!(metrics.contains("blat_state{target=\"site1\"} 0"), "{metrics}");
    assert!(metrics.contains("blat_state{target=\"off\"} 0"), "{metrics}");
    let user = field.master.sh("systemctl show -P User blat-web; systemctl show -P DynamicUser blat-web");
    assert!(user.contains("yes"), "{user}");
    wait_until("it has ended, for nobody asks", SOON, || field.active("blat-web") == "inactive");
}

fn status_without_an_agent(field: &Field) {
    let with = field.master.sh("blat status site1 --json");
    assert!(with.contains("\"state\":\"up\""), "{with}");
    assert!(field.master.sh("blat status site1 || echo code $?").contains("site1 (site1): ok"));
    field.master.sh("systemctl stop blat@site1");
    let without = field.master.sh("blat status || echo code $?");
    assert!(without.contains("the agent does not run") && without.ends_with("code 2"), "{without}");
    let refused = field.master.sh("runuser -u nobody -- blat status site1 || echo code $?");
    assert!(refused.contains("cannot read /var/lib/blat/site1") && refused.ends_with("code 3"), "{refused}");
    let refused = field.master.sh("runuser -u nobody -- blat explain core 1.0 2>&1 || echo code $?");
    assert!(refused.contains("cannot read /var/lib/blat/") && refused.ends_with("code 78"), "{refused}");
    let why = field.master.sh("blat explain core 1.0 site1");
    assert!(why.contains("for a tag") && why.contains("the agent does not run"), "{why}");
    println!("{without}\n{why}");
}
