//! What becomes of objects that nothing asks for any more, in each mode.

use crate::master::{Master, counts, get, keys, words};
use crate::proxy::{Fate, Proxy};
use crate::servers::{BUCKET, Kind, Server, s5cmd, said};

const INDEX: &str = "ci/packages.json";

/// Ten packages and a link, all there.
fn filled(server: &Server, aging: &str) -> Master {
    let mut master = Master::new(&server.endpoint(), "ci/", aging);
    (0..10).for_each(|number| master.publish(&format!("core/1.{number}"), &[]));
    master.publish_link("core/current", "1.3");
    master.sync();
    master
}

fn has(server: &Server, id: &str) -> bool {
    keys(server).iter().any(|key| key.ends_with(&format!("/core-{id}.zip")))
}

/// The marks of the index.
fn marked(server: &Server) -> Vec<String> {
    let index: serde_json::Value = serde_json::from_slice(&get(server, INDEX)).expect("JSON");
    let entries = index["packages"].as_array().expect("a list").iter();
    let marked = entries.filter(|entry| entry["excess_since"].is_i64());
    marked.map(|entry| entry["version"].as_str().expect("a text").to_owned()).collect()
}

/// Makes all marks older than they are.
fn make_older(server: &Server) {
    let text = String::from_utf8(get(server, INDEX)).expect("a text");
    let old = text.split("\"excess_since\":").enumerate().map(|(place, part)| match place {
        0 => part.to_owned(),
        _ => format!("\"excess_since\":1000000000{}", part.trim_start_matches(|c: char| c.is_ascii_digit())),
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index");
    std::fs::write(&path, old.collect::<String>()).expect("a file");
    said(&s5cmd(server, &["cp", path.to_str().expect("a path"), &format!("s3://{BUCKET}/{INDEX}")]));
}

#[test]
fn excess_goes_as_the_mode_says() {
    let server = Server::start(Kind::Seaweed);
    let mut master = filled(&server, "");
    master.want_no_more("core/1.0");
    assert_eq!(master.sync(), (0, 0));
    assert!(has(&server, "1.0") && marked(&server).is_empty(), "by itself nothing is marked or deleted");
    master.configure(&server.endpoint(), "[aging]\nmode = \"master\"");
    assert_eq!(master.sync(), (0, 0));
    assert!(has(&server, "1.0"));
    assert_eq!(marked(&server), ["1.0"]);
    master.want("core/1.0");
    assert_eq!(master.sync(), (0, 0));
    assert!(marked(&server).is_empty(), "what is needed again loses its mark");
    master.want_no_more("core/1.0");
    assert_eq!(master.sync(), (0, 0));
    make_older(&server);
    assert_eq!(master.sync(), (0, 0));
    assert!(!has(&server, "1.0"), "its mark was old enough");
    master.configure(&server.endpoint(), "[aging]\nmode = \"immediate\"\nmax_shrink = \"50%\"");
    master.want_no_more("core/1.1");
    master.want_no_more("core/1.3");
    assert_eq!(master.sync(), (0, 0));
    assert!(!has(&server, "1.1") && has(&server, "1.3"), "a link of the set leads to one");
    master.want_no_more("core/current");
    assert_eq!(master.sync(), (0, 0));
    assert!(!has(&server, "current") && !has(&server, "1.3"));
    assert_eq!(keys(&server).len(), 8, "seven packages and the index");
}

#[test]
fn a_tag_for_what_stands_there_takes_its_mark_away() {
    let server = Server::start(Kind::Seaweed);
    let mut master = filled(&server, "[aging]\nmode = \"master\"\nmax_shrink = \"90%\"");
    ["core/1.0", "core/1.3", "core/current"].iter().for_each(|id| master.want_no_more(id));
    assert_eq!(master.sync(), (0, 0));
    make_older(&server);
    for id in ["core/1.0", "core/current"] {
        let output = master.transfer(id);
        assert!(output.status.success(), "{}", words(&output));
    }
    assert!(marked(&server).is_empty());
    assert_eq!(master.sync(), (0, 0));
    assert_eq!(keys(&server).len(), 12, "each is marked anew");
    // The same while a synchronisation runs that found the marks old enough.
    make_older(&server);
    let proxy = Proxy::to(&server.endpoint());
    let held = proxy.hold_first(|asked| asked.starts_with("PUT") && asked.contains("core-2.0.zip"));
    master.publish("core/2.0", &[]);
    let aging = "[aging]\nmode = \"master\"\nmax_shrink = \"90%\"";
    master.configure(&proxy.endpoint(), aging);
    let running = master.start_sync();
    held.comes();
    master.configure(&server.endpoint(), aging);
    let output = master.transfer("core/1.0");
    assert!(output.status.success(), "{}", words(&output));
    held.goes_on();
    assert_eq!(counts(&running.wait_with_output().expect("it ends")), (1, 0));
    assert!(has(&server, "1.0") && !has(&server, "1.3") && !has(&server, "current"));
    assert!(String::from_utf8_lossy(&get(&server, INDEX)).contains("core-1.0.zip"));
}

#[test]
fn a_set_that_shrank_deletes_nothing() {
    let server = Server::start(Kind::Seaweed);
    let mut master = filled(&server, "[aging]\nmode = \"immediate\"");
    (4..10).for_each(|number| master.want_no_more(&format!("core/1.{number}")));
    let (code, text) = master.fails();
    assert!(code == 78 && text.contains("blat sync --accept-shrink bucket1"), "{code}: {text}");
    assert_eq!(keys(&server).len(), 12);
}

#[test]
fn a_hold_stops_a_synchronisation_that_deletes() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = filled(&server, "");
    master.configure(&proxy.endpoint(), "[aging]\nmode = \"immediate\"\nmax_shrink = \"90%\"");
    (4..10).for_each(|number| master.want_no_more(&format!("core/1.{number}")));
    let hold = master.path().join("var/lib/blat/bucket1/hold");
    let held = hold.clone();
    proxy.rule(move |asked| {
        if asked.starts_with("DELETE") {
            std::fs::write(&held, "a person looks\n").expect("a file");
        }
        Fate::Forward
    });
    assert_eq!(master.sync(), (0, 0));
    assert_eq!(keys(&server).len(), 11, "one was under way");
    let seen = proxy.seen();
    let first = |kind: &str, key: &str| {
        seen.iter().position(|asked| asked.starts_with(kind) && asked.contains(key)).expect("it was asked")
    };
    assert!(first("PUT", INDEX) < first("DELETE", "core-"), "the index is without what goes: {seen:?}");
    let index = get(&server, INDEX);
    assert_eq!(String::from_utf8_lossy(&index).matches(".zip").count(), 10, "what stays is in it again");
    assert_eq!(master.sync(), (0, 0));
    assert_eq!(keys(&server).len(), 11);
    std::fs::remove_file(hold).expect("a file");
    proxy.rule(|_| Fate::Forward);
    assert_eq!(master.sync(), (0, 0));
    assert_eq!(keys(&server).len(), 6, "four packages, a link and the index");
}
