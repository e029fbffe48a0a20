//! The index: what it saves, and that it is never in the way when it is wrong.

use std::sync::mpsc;
use std::time::Duration;

use crate::master::{Master, counts, get, keys, words};
use crate::proxy::{Fate, Proxy};
use crate::servers::{BUCKET, Kind, Server, s5cmd, said};

const INDEX: &str = "ci/packages.json";

fn put(server: &Server, key: &str, text: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, text).expect("a file");
    said(&s5cmd(server, &["cp", path.to_str().expect("a path"), &format!("s3://{BUCKET}/{key}")]));
}

fn remove(server: &Server, key: &str) {
    said(&s5cmd(server, &["rm", &format!("s3://{BUCKET}/{key}")]));
}

/// How many requests of each kind.
fn kinds(seen: &[String]) -> String {
    let count = |is: fn(&str) -> bool| seen.iter().filter(|asked| is(asked)).count();
    let lists = count(|asked| asked.contains("list-type=2"));
    let index = count(|asked| asked.starts_with("GET") && asked.contains(INDEX));
    format!("{lists} lists, {index} of the index, {} others", seen.len() - lists - index)
}

#[test]
fn a_repeat_over_2000_objects_takes_two_lists_and_one_get() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&server.endpoint(), "ci/", "uploads = 16");
    (0..1999).for_each(|number| master.publish(&format!("core/1.{number}"), &[]));
    assert_eq!(master.sync(), (1999, 0));
    assert_eq!(keys(&server).len(), 2000, "with the index");
    master.configure(&proxy.endpoint(), "");
    let (asked_of, (tell, is_early)) = (proxy.clone(), mpsc::channel());
    proxy.rule(move |asked| {
        if asked.contains(INDEX) {
            std::thread::sleep(Duration::from_millis(300));
            let early = asked_of.heads().iter().any(|head| head.contains("list-type=2"));
            tell.send(early).expect("somebody waits");
        }
        Fate::Forward
    });
    assert_eq!(master.sync(), (0, 0));
    let seen = proxy.seen();
    println!("{seen:#?}");
    assert_eq!(kinds(&seen), "2 lists, 1 of the index, 0 others");
    assert!(!is_early.recv().expect("the index was read"), "what came while it was listed counts as gone");
}

#[test]
fn an_index_that_is_lost_stale_or_broken_is_made_anew() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    (0..20).for_each(|number| master.publish(&format!("core/1.{number}"), &[]));
    master.publish_link("core/current", "1.3");
    assert_eq!(master.sync(), (20, 1));
    let good = get(&server, INDEX);
    remove(&server, INDEX);
    assert_eq!(master.sync(), (0, 0));
    assert!(get(&server, INDEX) == good, "it is as it was");
    put(&server, INDEX, "{\"format\":1,\"pack");
    assert_eq!(master.sync(), (0, 0));
    assert!(get(&server, INDEX) == good, "it is as it was");
    let stale = String::from_utf8(good.clone()).expect("a text");
    let stale: Vec<&str> = stale.lines().filter(|line| !line.contains("\"1.7\"")).collect();
    put(&server, INDEX, &stale.join("\n"));
    proxy.seen();
    assert_eq!(master.sync(), (0, 0));
    assert_eq!(kinds(&proxy.seen()), "1 lists, 1 of the index, 2 others", "a look at one, and the new index");
    assert!(get(&server, INDEX) == good, "it is as it was");
    remove(&server, &master.key("core/1.9"));
    assert_eq!(master.sync(), (1, 0), "what was taken away comes back");
    put(&server, INDEX, "{\"format\":2,\"packages\":[]}");
    let (code, text) = master.fails();
    assert!(code == 78 && text.contains("which a later blat wrote; update blat here"), "{code}: {text}");
}

#[test]
fn a_tag_makes_a_lost_or_broken_index_anew_of_all_objects() {
    let server = Server::start(Kind::Seaweed);
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    (0..5).for_each(|number| master.publish(&format!("core/1.{number}"), &[]));
    master.publish_link("core/current", "1.3");
    assert_eq!(master.sync(), (5, 1));
    let good = get(&server, INDEX);
    let spoil: [fn(&Server); 2] =
        [|server| remove(server, INDEX), |server| put(server, INDEX, "{\"format\":1,\"pack")];
    for spoil in spoil {
        spoil(&server);
        let output = master.transfer("core/1.0");
        assert!(output.status.success(), "{}", words(&output));
        assert!(get(&server, INDEX) == good, "it is as it was");
    }
}

#[test]
fn two_masters_do_not_overwrite_each_others_index() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut one = Master::new(&proxy.endpoint(), "ci/", "");
    let mut other = Master::new(&server.endpoint(), "ci/", "");
    one.publish("core/1.0", &[]);
    other.publish("core/2.0", &[]);
    // The other master runs from beginning to end when this one is about to write the index.
    let held = proxy.hold_first(|asked| asked.starts_with("PUT") && asked.contains(INDEX));
    let running = one.start_sync();
    held.comes();
    assert_eq!(other.sync(), (1, 0));
    held.goes_on();
    assert_eq!(counts(&running.wait_with_output().expect("it ends")), (1, 0));
    let index = String::from_utf8(get(&server, INDEX)).expect("a text");
    assert!(index.contains("core-1.0.zip") && index.contains("core-2.0.zip"), "{index}");
    let refused =
        proxy.seen().iter().filter(|asked| asked.starts_with("PUT") && asked.contains(INDEX)).count();
    assert_eq!(refused, 2, "the first was refused");
}
