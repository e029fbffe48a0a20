//! Runs beside each other, and others who write to the same bucket meanwhile.

use crate::faults::noise;
use crate::master::{Master, counts, get, words};
use crate::proxy::Proxy;
use crate::servers::{BUCKET, Kind, Server, s5cmd, said};

#[test]
fn a_transfer_beside_a_synchronisation_leaves_its_upload_alone() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    master.publish("large/1.0", &[("noise", &noise())]);
    let held = proxy.hold_first(|asked| asked.contains("partNumber=3"));
    let running = master.start_sync();
    held.comes();
    // What the tag asks for goes another way, for this one waits.
    master.configure(&server.endpoint(), "");
    master.publish("core/1.0", &[]);
    let output = master.transfer("core/1.0");
    assert!(output.status.success(), "{}", words(&output));
    held.goes_on();
    assert_eq!(counts(&running.wait_with_output().expect("it ends")), (1, 0));
    let index = String::from_utf8(get(&server, "ci/packages.json")).expect("a text");
    assert!(index.contains("large-1.0.zip") && index.contains("core-1.0.zip"), "{index}");
    assert_eq!(master.sync(), (0, 0));
}

#[test]
fn what_came_into_a_links_place_meanwhile_stays() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    master.publish_link("core/current", "1.0");
    let held = proxy.hold_first(|asked| asked.starts_with("PUT") && asked.contains("core-1.0.zip"));
    let running = master.start_sync();
    held.comes();
    let file = master.path().join("file");
    std::fs::write(&file, "not blat's").expect("a file");
    let key = "ci/core/core-current.zip";
    said(&s5cmd(&server, &["cp", file.to_str().expect("a path"), &format!("s3://{BUCKET}/{key}")]));
    held.goes_on();
    let output = running.wait_with_output().expect("it ends");
    let text = words(&output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(
        text.contains("an object that blat did not put there stands at ci/core/core-current.zip"),
        "{text}"
    );
    assert_eq!(get(&server, key), b"not blat's");
}
