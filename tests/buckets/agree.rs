//! What clients find that are not ours, and that the same package is the same bytes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::master::{Master, get, keys};
use crate::servers::{BUCKET, Kind, Server, aws, s5cmd, said};

/// Unpacks as `unzip` does not: with nothing but what Python's own module tells. Then it prints the
/// tree as the other judge does.
const UNPACK: &str = "
import os, stat, sys, zipfile
zip, to = zipfile.ZipFile(sys.argv[1]), sys.argv[2]
assert zip.testzip() is None
for entry in zip.infolist():
    mode, path = entry.external_attr >> 16, os.path.join(to, entry.filename)
    if stat.S_ISLNK(mode):
        os.symlink(zip.read(entry), path)
    else:
        zip.extract(entry, to)
for entry in reversed(zip.infolist()):
    mode, path = entry.external_attr >> 16, os.path.join(to, entry.filename)
    if not stat.S_ISLNK(mode):
        import calendar
        at = calendar.timegm(entry.date_time + (0, 0, 0))
        os.utime(path, (at, at))
        os.chmod(path, stat.S_IMODE(mode))
";

/// A line for each entry below the folder: path, kind and mode, content or link.
fn tree(folder: &Path) -> Vec<(String, u32, Vec<u8>, SystemTime)> {
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<(String, u32, Vec<u8>, SystemTime)>) {
    for item in fs::read_dir(folder).expect("a folder").flatten() {
        let name = format!("{prefix}{}", item.file_name().to_string_lossy());
        let metadata = fs::symlink_metadata(item.path()).expect("metadata");
        let time = metadata.modified().expect("a time");
        if metadata.is_symlink() {
            let text = fs::read_link(item.path()).expect("a link").to_string_lossy().into_owned();
            found.push((name, 0, text.into(), SystemTime::UNIX_EPOCH));
        } else if metadata.is_dir() {
            found.push((name.clone(), metadata.permissions().mode(), Vec::new(), time));
            walk(&item.path(), &format!("{name}/"), found);
        } else {
            let content = fs::read(item.path()).expect("content");
            found.push((name, metadata.permissions().mode(), content, time));
        }
    }
}

#[track_caller]
fn assert_same(found: &Path, source: &Path) {
    let (found, source) = (tree(found), tree(source));
    let names = |tree: &[(String, u32, Vec<u8>, SystemTime)]| -> Vec<String> {
        tree.iter().map(|(name, mode, ..)| format!("{name} {mode:o}")).collect()
    };
    assert_eq!(names(&found), names(&source));
    for (found, source) in found.iter().zip(&source) {
        assert!(found.2 == source.2, "{} has other content", found.0);
        let apart = found.3.duration_since(source.3).unwrap_or_else(|earlier| earlier.duration());
        assert!(apart < Duration::from_secs(2), "{}: {apart:?} apart", found.0);
    }
}

/// Has all that a ZIP could lose.
fn odd_package(master: &mut Master) {
    let noise: Vec<u8> =
        (0..300_000u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    master.publish(
        "odd/1.0",
        &[("bin/tool", b"#!/bin/sh\n"), ("data/noise", &noise), ("data/empty", b""), ("päck/ünïcode", b"x")],
    );
    let folder = master.folder("odd/1.0");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("a mode");
    symlink("bin/tool", folder.join("link")).expect("a link");
    symlink("../nowhere", folder.join("data/dangling")).expect("a link");
    fs::create_dir(folder.join("none")).expect("a folder");
    for (name, mode, seconds) in [
        ("bin/tool", 0o755, 1_600_000_001),
        ("data/noise", 0o640, 1_000_000_003),
        ("data/empty", 0o400, 2_000_000_000),
        ("none", 0o711, 1_500_000_000),
        ("data", 0o555, 1_400_000_000),
    ] {
        let file = fs::File::open(folder.join(name)).expect("a file");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("a time");
        fs::set_permissions(folder.join(name), PermissionsExt::from_mode(mode)).expect("a mode");
    }
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).expect("sealed");
}

#[test]
fn clients_that_are_not_ours_find_the_packages_as_they_are() {
    let server = Server::start(Kind::Seaweed);
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    odd_package(&mut master);
    master.publish("core/1.0", &[("content", b"some")]);
    master.publish_link("core/current", "1.0");
    assert_eq!(master.sync(), (2, 1));
    let listed = keys(&server);
    assert_eq!(
        listed,
        ["ci/core/core-1.0.zip", "ci/core/core-current.zip", "ci/odd/odd-1.0.zip", "ci/packages.json"]
    );
    let folder = tempfile::tempdir().expect("a folder");
    let zip = folder.path().join("odd.zip");
    fs::write(&zip, get(&server, "ci/odd/odd-1.0.zip")).expect("a file");
    by_unzip(&zip, &folder.path().join("unzip"));
    assert_same(&folder.path().join("unzip"), &master.folder("odd/1.0"));
    by_python(&zip, &folder.path().join("python"));
    assert_same(&folder.path().join("python"), &master.folder("odd/1.0"));
    assert!(get(&server, "ci/core/core-current.zip") == get(&server, "ci/core/core-1.0.zip"));
    the_index_tells_what_the_objects_are(&server, &zip);
    let _ = Command::new("chmod").args(["-R", "u+w"]).arg(folder.path()).status();
}

fn by_unzip(zip: &Path, to: &Path) {
    let output = Command::new("unzip").env("TZ", "Asia/Tokyo").arg("-q").arg(zip).arg("-d").arg(to).output();
    said(&output.expect("these tests need Debian's package `unzip`"));
}

fn by_python(zip: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    said(&Command::new("python3").args(["-c", UNPACK]).arg(zip).arg(to).output().expect("python3 runs"));
}

fn the_index_tells_what_the_objects_are(server: &Server, zip: &Path) {
    let index: serde_json::Value = serde_json::from_slice(&get(server, "ci/packages.json")).expect("JSON");
    let entries = index["packages"].as_array().expect("a list");
    assert_eq!((index["format"].as_u64(), entries.len()), (Some(1), 3));
    let odd = &entries[2];
    assert_eq!(entries[1]["link"].as_str(), Some("1.0"));
    let sum = said(&Command::new("sha256sum").arg(zip).output().expect("sha256sum runs"));
    assert_eq!(odd["sha256"].as_str(), sum.split(' ').next());
    assert_eq!(odd["size"].as_u64(), Some(fs::metadata(zip).expect("a file").len()));
    let head =
        said(&aws(server, &["s3api", "head-object", "--bucket", BUCKET, "--key", "ci/odd/odd-1.0.zip"]));
    assert!(
        head.contains(&format!("\"blat-sha256\": \"{}\"", odd["sha256"].as_str().expect("a text"))),
        "{head}"
    );
    assert!(head.contains("application/zip"), "{head}");
}

#[test]
fn the_same_package_is_the_same_object_each_time() {
    let server = Server::start(Kind::Seaweed);
    let mut master = Master::new(&server.endpoint(), "ci/", "");
    odd_package(&mut master);
    assert_eq!(master.sync(), (1, 0));
    let first = get(&server, "ci/odd/odd-1.0.zip");
    said(&s5cmd(&server, &["rm", &format!("s3://{BUCKET}/ci/*")]));
    assert_eq!(master.sync(), (1, 0));
    assert!(first == get(&server, "ci/odd/odd-1.0.zip"), "the bytes differ");
}

#[test]
fn a_server_of_another_make_is_filled_and_found_unchanged() {
    let server = Server::start(Kind::Moto);
    let mut master = Master::new(&server.endpoint(), "", "");
    odd_package(&mut master);
    (0..30).for_each(|number| master.publish(&format!("core/1.{number}"), &[("content", b"some")]));
    master.publish_link("core/current", "1.3");
    assert_eq!(master.sync(), (31, 1));
    assert_eq!(master.sync(), (0, 0));
    master.publish_link("core/current", "1.4");
    assert_eq!(master.sync(), (0, 1));
    assert!(get(&server, "core/core-current.zip") == get(&server, "core/core-1.4.zip"));
    assert_eq!(keys(&server).len(), 33);
}
