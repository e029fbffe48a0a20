//! What goes wrong, and what a person is told of it.

use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use crate::master::{Master, get, keys};
use crate::proxy::{Fate, Proxy};
use crate::servers::{BUCKET, KEY, Kind, READER, SECRET, STRANGER, Server, aws, s5cmd, said};

/// 30 MB that nobody can make smaller: four parts.
pub(crate) fn noise() -> Vec<u8> {
    let mut noise = vec![0; 30_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

fn open_uploads(server: &Server) -> String {
    said(&aws(server, &["s3api", "list-multipart-uploads", "--bucket", BUCKET]))
}

fn kill(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn an_upload_that_was_cut_is_ended_by_the_next_run() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    master.publish("large/1.0", &[("noise", &noise())]);
    let (go, wait) = mpsc::channel::<()>();
    proxy.rule(move |asked| {
        if asked.contains("partNumber=3") {
            let _ = go.send(());
            std::thread::sleep(Duration::from_secs(3));
        }
        Fate::Forward
    });
    let running = master.start_sync();
    wait.recv().expect("it comes to the third part");
    kill(running);
    assert!(open_uploads(&server).contains("ci/large/large-1.0.zip"), "the upload is open");
    assert!(keys(&server).is_empty(), "and nothing is visible");
    proxy.rule(|_| Fate::Forward);
    assert_eq!(master.sync(), (1, 0));
    assert!(!open_uploads(&server).contains("UploadId"), "{}", open_uploads(&server));
    assert_eq!(master.sync(), (0, 0));
    let zip = master.path().join("large.zip");
    std::fs::write(&zip, get(&server, "ci/large/large-1.0.zip")).expect("a file");
    said(&std::process::Command::new("unzip").arg("-tq").arg(&zip).output().expect("unzip runs"));
    // Its digest was not known when it was begun: the index has it from the bytes, when it is made anew.
    let good = get(&server, "ci/packages.json");
    said(&s5cmd(&server, &["rm", &format!("s3://{BUCKET}/ci/packages.json")]));
    assert_eq!(master.sync(), (0, 0));
    assert!(get(&server, "ci/packages.json") == good);
}

#[test]
fn an_old_upload_that_may_not_be_ended_is_in_nobodys_way() {
    let server = Server::start(Kind::Moto);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    let note = master.path().join("var/lib/blat/bucket1/uploads.sync");
    std::fs::write(&note, "some-id ci/core/core-0.9.zip\n").expect("a note");
    let cases = [
        ("403 Forbidden", "AccessDenied", "allow s3:AbortMultipartUpload"),
        ("500 Internal Server Error", "InternalError", "the server says InternalError"),
        ("409 Conflict", "OperationAborted", "the server says OperationAborted"),
        ("409 Conflict", "ConditionalRequestConflict", "somebody else changed it"),
    ];
    for (place, (status, code, said)) in cases.into_iter().enumerate() {
        proxy.rule(move |asked| match asked.starts_with("DELETE") {
            true => Fate::Answer(status, "", code),
            false => Fate::Forward,
        });
        let output = master.try_sync();
        let (text, sent) = (crate::master::words(&output), u8::from(place == 0));
        assert!(output.status.success() && text.contains(&format!("{sent} packages sent")), "{text}");
        assert!(
            text.contains("cannot abort the upload of ci/core/core-0.9.zip in the bucket ci-packages")
                && text.contains(said),
            "{text}"
        );
        assert!(std::fs::read_to_string(&note).expect("a note").contains("some-id"), "it is tried again");
    }
    proxy.rule(|_| Fate::Forward);
    assert_eq!(master.sync(), (0, 0));
}

#[test]
fn what_may_not_be_deleted_is_told_and_stays() {
    let server = Server::start(Kind::Moto);
    let proxy = Proxy::to(&server.endpoint());
    let mut master =
        Master::new(&proxy.endpoint(), "ci/", "[aging]\nmode = \"immediate\"\nmax_shrink = \"90%\"");
    master.publish("core/1.0", &[]);
    master.publish("core/2.0", &[]);
    assert_eq!(master.sync(), (2, 0));
    master.want_no_more("core/1.0");
    proxy.rule(|asked| match asked.starts_with("DELETE") {
        true => Fate::Answer("403 Forbidden", "", "AccessDenied"),
        false => Fate::Forward,
    });
    let (code, text) = master.fails();
    assert_eq!(code, 78, "{text}");
    assert!(
        text.contains("cannot delete ci/core/core-1.0.zip in the bucket ci-packages")
            && text.contains("allow s3:DeleteObject on ci-packages/ci/*"),
        "{text}"
    );
    assert!(keys(&server).contains(&"ci/core/core-1.0.zip".to_owned()));
    proxy.rule(|_| Fate::Forward);
    assert_eq!(master.sync(), (0, 0));
    assert!(!keys(&server).contains(&"ci/core/core-1.0.zip".to_owned()));
}

#[test]
fn what_blat_did_not_put_there_is_left() {
    let server = Server::start(Kind::Seaweed);
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    master.publish("core/2.0", &[]);
    let foreign = [
        "ci/core/core-2.0.zip",
        "ci/other/other-1.0.zip",
        "ci/notes.txt",
        "core/core-1.0.zip",
        "cj/core/core-1.0.zip",
    ];
    let file = master.path().join("file");
    std::fs::write(&file, "not blat's").expect("a file");
    for key in foreign {
        said(&s5cmd(&server, &["cp", file.to_str().expect("a path"), &format!("s3://{BUCKET}/{key}")]));
    }
    let (code, text) = master.fails();
    assert_eq!(code, 78, "{text}");
    assert!(
        text.contains(
            "core/2.0 was not sent: an object that blat did not put there stands at ci/core/core-2.0.zip"
        ),
        "{text}"
    );
    assert!(text.contains("1 packages sent"), "the other is sent: {text}");
    for key in foreign {
        assert_eq!(get(&server, key), b"not blat's", "{key}");
    }
}

#[test]
fn what_another_put_over_an_object_of_ours_is_not_taken_for_it() {
    let server = Server::start(Kind::Seaweed);
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    let ids = ["core/1.0", "core/2.0", "core/3.0"];
    ids.iter().for_each(|id| master.publish(id, &[]));
    assert_eq!(master.sync(), (3, 0));
    let file = master.path().join("file");
    std::fs::write(&file, "not blat's").expect("a file");
    let file = file.to_str().expect("a path");
    let named = || String::from_utf8(get(&server, "ci/packages.json")).expect("text");
    let stands = |id: &str| format!("an object that blat did not put there stands at {}", master.key(id));
    let [tagged, synchronised, ours] = ids;
    said(&s5cmd(&server, &["cp", file, &format!("s3://{BUCKET}/{}", master.key(tagged))]));
    let text = crate::master::words(&master.transfer(tagged));
    assert!(text.contains(&stands(tagged)), "{text}");
    assert!(!named().contains(&master.key(tagged)) && named().contains(&master.key(synchronised)));
    said(&s5cmd(&server, &["cp", file, &format!("s3://{BUCKET}/{}", master.key(synchronised))]));
    let (code, text) = master.fails();
    assert!(code == 78 && text.contains(&stands(synchronised)), "{text}");
    assert!(!named().contains(&master.key(synchronised)) && named().contains(&master.key(ours)));
    for id in [tagged, synchronised] {
        assert_eq!(get(&server, &master.key(id)), b"not blat's");
    }
}

#[test]
fn a_key_that_may_not_is_told_what_it_lacks() {
    let server = Server::start(Kind::Seaweed);
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    let told = |key: &str, secret: &str, parts: &[&str]| {
        master.put_key(key, secret);
        let (code, text) = master.fails();
        assert_eq!(code, 78, "{text}");
        parts.iter().chain(&[BUCKET]).for_each(|part| assert!(text.contains(part), "{part:?}: {text}"));
    };
    told("blat-key", "not-the-secret", &["SignatureDoesNotMatch", "put the right key into", "/key"]);
    told("no-such-key", SECRET, &["InvalidAccessKeyId", "put the right key into"]);
    told(STRANGER, SECRET, &["AccessDenied", "allow s3:"]);
    told(
        READER,
        SECRET,
        &["cannot put ci/core/core-1.0.zip", "AccessDenied", "allow s3:PutObject on ci-packages/ci/*"],
    );
    std::fs::write(master.path().join("key"), "nonsense").expect("a file");
    let (code, text) = master.fails();
    assert!(code == 78 && text.contains("is no credentials file of AWS: put a file there"), "{text}");
    std::fs::remove_file(master.path().join("key")).expect("a file");
    let (code, text) = master.fails();
    assert!(code == 78 && text.contains("there are no credentials at"), "{text}");
}

#[test]
fn a_server_that_is_away_or_fails_is_asked_again() {
    let mut server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    let mut left = 2;
    proxy.rule(move |asked| {
        if asked.starts_with("PUT") && left > 0 {
            left -= 1;
            return Fate::Answer("503 Slow Down", "", "SlowDown");
        }
        Fate::Forward
    });
    assert_eq!(master.sync(), (1, 0), "a server that is asked too fast is given time");
    let puts = proxy.seen().iter().filter(|asked| asked.starts_with("PUT")).count();
    assert_eq!(puts, 4, "two were refused, and the index is one");
    server.stop();
    master.configure(&server.endpoint(), "");
    let (code, text) = master.fails();
    assert!(code == 75 && text.contains("cannot be reached"), "{code}: {text}");
    assert!(text.contains(BUCKET) && text.contains(&server.endpoint()), "{text}");
    server.run();
    let begin = std::time::Instant::now();
    while !master.try_sync().status.success() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not come up: {}", server.log());
    }
    assert_eq!(master.sync(), (0, 0));
}

#[test]
fn each_refusal_of_a_server_names_bucket_operation_and_mend() {
    let server = Server::start(Kind::Moto);
    let proxy = Proxy::to(&server.endpoint());
    let mut master = Master::new(&proxy.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    let cases: [(&str, &'static str, &'static str, &'static str, i32, &str); 12] = [
        (
            "list-type",
            "404 Not Found",
            "",
            "NoSuchBucket",
            78,
            "cannot list the bucket ci-packages: the server says NoSuchBucket: made up by the test; make the bucket, or mend s3.bucket",
        ),
        (
            "list-type",
            "301 Moved",
            "x-amz-bucket-region: eu-north-1\r\n",
            "PermanentRedirect",
            78,
            "the bucket is in another region: set s3.region = \"eu-north-1\"",
        ),
        (
            "list-type",
            "403 Forbidden",
            "",
            "RequestTimeTooSkewed",
            78,
            "the clock of this machine, or of the server, is wrong",
        ),
        ("list-type", "403 Forbidden", "", "AccessDenied", 78, "allow s3:ListBucket on ci-packages/ci/*"),
        (
            "list-type",
            "403 Forbidden",
            "x-amz-bucket-region: us-east-1\r\n",
            "SignatureDoesNotMatch",
            78,
            "SignatureDoesNotMatch: made up by the test; put the right key into",
        ),
        (
            "GET /ci-packages/ci/packages.json",
            "403 Forbidden",
            "",
            "AccessDenied",
            78,
            "cannot get ci/packages.json in the bucket ci-packages: the server says AccessDenied: made up by the test; allow s3:GetObject and s3:ListBucket",
        ),
        (
            "core-1.0.zip",
            "403 Forbidden",
            "",
            "AccessDenied",
            78,
            "cannot put ci/core/core-1.0.zip in the bucket ci-packages: the server says AccessDenied: made up by the test; allow s3:PutObject",
        ),
        ("core-1.0.zip", "400 Bad Request", "", "InvalidStorageClass", 78, "mend s3.storage_class"),
        (
            "core-1.0.zip",
            "400 Bad Request",
            "",
            "KMS.NotFoundException",
            78,
            "mend s3.encryption and s3.kms_key",
        ),
        (
            "core-1.0.zip",
            "400 Bad Request",
            "",
            "RequestTimeout",
            75,
            "cannot put ci/core/core-1.0.zip in the bucket ci-packages: the server says RequestTimeout",
        ),
        (
            "core-1.0.zip",
            "507 Full",
            "",
            "InsufficientStorage",
            75,
            "cannot put ci/core/core-1.0.zip in the bucket ci-packages",
        ),
        (
            "core-1.0.zip",
            "501 Not Implemented",
            "",
            "NotImplemented",
            78,
            "the server does not know this part of S3",
        ),
    ];
    for (of, status, headers, code, exit, words) in cases {
        proxy.rule(move |asked| match asked.contains(of) {
            true => Fate::Answer(status, headers, code),
            false => Fate::Forward,
        });
        let (found, text) = master.fails();
        assert!(found == exit && text.contains(words), "{code}: exit code {found}: {text}");
    }
    proxy.rule(|_| Fate::Forward);
    assert_eq!(master.sync(), (1, 0));
}

#[test]
fn the_doctor_says_what_keeps_a_bucket_from_being_reached() {
    let mut server = Server::start(Kind::Seaweed);
    let master = Master::new(&server.endpoint(), "ci/", "");
    let is_wrong = |master: &Master, is: &str, mend: &str| {
        let found = master.doctor();
        assert!(found.is_wrong(), "{found}");
        let text = found.to_string();
        let (told, mended) = text.split_once("to mend it:").expect("what mends it");
        assert!(told.contains(is) && told.contains(mend), "{text}");
        assert!(mended.contains("blat doctor bucket1"), "{text}");
    };
    assert_eq!(master.doctor().to_string(), format!("  ok      bucket       {BUCKET} can be listed\n"));
    master.put_key("blat-key", "not-the-secret");
    is_wrong(&master, "SignatureDoesNotMatch", "put the right key into");
    master.put_key(STRANGER, SECRET);
    is_wrong(&master, "AccessDenied", "allow s3:ListBucket on ci-packages/ci/*");
    std::fs::remove_file(master.path().join("key")).expect("a file");
    is_wrong(&master, "there are no credentials at", "put a file there with the lines");
    master.put_key(KEY, SECRET);
    master.configure_bucket(&server.endpoint(), "no-such-bucket", "");
    is_wrong(&master, "NoSuchBucket", "make the bucket, or mend s3.bucket");
    master.configure(&server.endpoint(), "");
    server.stop();
    let text = master.doctor().to_string();
    let (told, mended) = text.split_once("to mend it:").expect("what mends it");
    assert!(told.contains("cannot be reached") && mended.contains("look after the server"), "{text}");
}
