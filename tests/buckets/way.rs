//! The way to a server, and what is asked of it for each object: proxies, certificates, storage, encryption.

use sha2::{Digest, Sha256};

use crate::faults::noise;
use crate::master::{Master, get, keys};
use crate::proxy::Proxy;
use crate::servers::{BUCKET, Kind, Server, aws, said};

#[test]
fn the_proxy_of_the_environment_is_the_way_unless_it_says_no() {
    let server = Server::start(Kind::Seaweed);
    let proxy = Proxy::to(&server.endpoint());
    // Nobody knows this name but the proxy, for which all names are the server.
    let mut master = Master::new("http://s3.blat.invalid", "ci/", "");
    master.publish("core/1.0", &[]);
    master.set("HTTP_PROXY", &proxy.endpoint());
    assert_eq!(master.sync(), (1, 0));
    assert_eq!(keys(&server), ["ci/core/core-1.0.zip", "ci/packages.json"]);
    let seen = proxy.seen();
    assert!(seen.iter().all(|asked| asked.contains(" http://s3.blat.invalid/ci-packages")), "{seen:?}");
    master.set("NO_PROXY", "s3.blat.invalid");
    let (code, text) = master.fails();
    assert!(code == 75 && text.contains("http://s3.blat.invalid cannot be reached"), "{code}: {text}");
    assert!(proxy.seen().is_empty());
}

#[test]
fn a_server_with_a_certificate_is_reached_once_its_authority_is_trusted() {
    let server = Server::start_with_tls();
    let proxy = Proxy::to("http://127.0.0.1:1");
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    master.publish("core/1.0", &[]);
    let (code, text) = master.fails();
    assert!(
        code == 78 && text.contains("has a certificate that this machine does not trust"),
        "{code}: {text}"
    );
    assert!(text.contains(BUCKET) && text.contains(&server.endpoint()), "{text}");
    let authority = server.authority().expect("it has one");
    master.set("SSL_CERT_FILE", authority.to_str().expect("a path"));
    assert_eq!(master.sync(), (1, 0));
    master.set("HTTPS_PROXY", &proxy.endpoint());
    assert_eq!(master.sync(), (0, 0));
    let there = server.endpoint().replace("https://", "CONNECT ");
    let seen = proxy.seen();
    assert!(!seen.is_empty() && seen.iter().all(|asked| *asked == there), "{seen:?}");
}

const CLASS: &str = "x-amz-storage-class: STANDARD_IA";
const ENCRYPTION: [&str; 2] = [
    "x-amz-server-side-encryption: aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id: 1234abcd-12ab-34cd-56ef-1234567890ab",
];

#[test]
fn storage_class_and_encryption_go_with_every_object() {
    let server = Server::start(Kind::Moto);
    let proxy = Proxy::to(&server.endpoint());
    let more = "storage_class = \"STANDARD_IA\"\nencryption = \"aws:kms\"\n\
                kms_key = \"1234abcd-12ab-34cd-56ef-1234567890ab\"";
    let mut master = Master::new(&proxy.endpoint(), "ci/", more);
    master.publish("core/1.0", &[]);
    master.publish("large/1.0", &[("noise", &noise())]);
    master.publish_link("core/current", "1.0");
    assert_eq!(master.sync(), (2, 1));
    let heads: Vec<String> = proxy.heads().iter().map(|head| head.to_lowercase()).collect();
    let head = |begin: &str, part: &str| {
        let found = heads.iter().find(|head| head.starts_with(begin) && head.contains(part));
        found.unwrap_or_else(|| panic!("no {begin} of {part}: {heads:#?}"))
    };
    let put = head("put /ci-packages/ci/core/core-1.0.zip", "x-amz-checksum-crc32: ");
    let parts = head("post /ci-packages/ci/large/large-1.0.zip?uploads", "x-amz-checksum-algorithm: crc32");
    let copy = head("put /ci-packages/ci/core/core-current.zip", "x-amz-copy-source: ");
    let index = head("put /ci-packages/ci/packages.json", "");
    for head in [put, parts, copy] {
        assert!(head.contains(&CLASS.to_lowercase()), "{head}");
    }
    for head in [put, parts, copy, index] {
        assert!(ENCRYPTION.iter().all(|line| head.contains(line)), "{head}");
    }
    assert!(!index.contains("x-amz-storage-class"), "the index is read and written often: {index}");
    for key in ["core/core-1.0.zip", "large/large-1.0.zip", "core/core-current.zip"] {
        let told =
            said(&aws(&server, &["s3api", "head-object", "--bucket", BUCKET, "--key", &format!("ci/{key}")]));
        assert!(told.contains("STANDARD_IA") && told.contains("aws:kms"), "{key}: {told}");
        let digest = Sha256::digest(get(&server, &format!("ci/{key}")));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(told.contains(&format!("\"blat-sha256\": \"{digest}\"")), "{key}: {told}");
    }
}
