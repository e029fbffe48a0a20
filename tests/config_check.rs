//! `config check`, and the shipped examples, which have every key.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use blat::config::{self, EX_CONFIG, Settings};

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join("etc/blat").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn check(root: &Path, name: Option<&str>) -> (u8, String, String) {
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let code = config::check(root, name, &mut out, &mut complaints).unwrap();
    (code, String::from_utf8(out).unwrap(), String::from_utf8(complaints).unwrap())
}

/// An example with the `#` taken away in front of its keys.
fn uncommented(path: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let is_key = |line: &str| {
        let word = line.split(' ').next().unwrap_or_default();
        line[word.len()..].starts_with(" = ") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let bare = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if is_key(rest) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| bare(line) + "\n").collect()
}

fn keys(table: &toml::Table, before: &str) -> BTreeSet<String> {
    let of = |(key, value): (&String, &toml::Value)| match value {
        toml::Value::Table(table) => keys(table, &format!("{before}{key}.")),
        _ => BTreeSet::from([format!("{before}{key}")]),
    };
    table.iter().flat_map(of).collect()
}

#[test]
fn the_examples_have_every_key_and_what_is_built_in() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "targets/site1.toml", "source = '/srv/dpkg_archive'\nssh.host = 'site1.example.org'");
    let built_in = Settings::load(root.path(), &"site1".parse().unwrap()).unwrap();
    let mut all = keys(&toml::Table::try_from(&built_in).unwrap(), "");

    let example = uncommented("config/targets/example.toml");
    assert_eq!(keys(&example.parse().unwrap(), ""), all);
    put(root.path(), "targets/site1.toml", &example);
    assert_eq!(Settings::load(root.path(), &built_in.name).unwrap(), built_in);

    let defaults = uncommented("config/blat.toml");
    put(root.path(), "blat.toml", &defaults);
    put(root.path(), "targets/site1.toml", "ssh.host = 'site1.example.org'");
    assert_eq!(Settings::load(root.path(), &built_in.name).unwrap(), built_in);
    let bucket = "kind = 's3'\nsource = '/srv/dpkg_archive'\ns3.bucket = 'ci-packages'";
    fs::remove_file(root.path().join("etc/blat/blat.toml")).unwrap();
    put(root.path(), "targets/site1.toml", bucket);
    let built_in = Settings::load(root.path(), &built_in.name).unwrap();
    let of_bucket = keys(&toml::Table::try_from(&built_in).unwrap(), "");
    let example = uncommented("config/targets/bucket.toml");
    assert_eq!(keys(&example.parse().unwrap(), ""), of_bucket);
    put(root.path(), "targets/site1.toml", &example);
    assert_eq!(Settings::load(root.path(), &built_in.name).unwrap(), built_in);

    all.extend(of_bucket);
    ["kind", "ssh.host", "s3.bucket"].iter().for_each(|key| assert!(all.remove(*key), "{key}"));
    assert_eq!(keys(&defaults.parse().unwrap(), ""), all);
    assert_eq!(all.len() + 3, config::all_keys().filter(|key| *key != "packages").count());
}

#[test]
fn the_examples_are_good_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    let text = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    put(root.path(), "blat.toml", &format!("source = '/srv/a'\n{}", text("config/blat.toml")));
    put(root.path(), "targets/bucket1.toml", &text("config/targets/bucket.toml"));
    put(root.path(), "targets/site1.toml", &text("config/targets/example.toml"));
    assert_eq!(check(root.path(), None), (0, "bucket1: good\nsite1: good\n".into(), String::new()));
}

#[test]
fn settings_are_shown_with_where_they_come_from_and_can_be_pasted_back() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "blat.toml", "\nsource = '/srv/a'\n[ssh]\nport = 2222\n");
    put(root.path(), "targets/site1.toml", "[ssh]\nhost = 'h'\n[tags]\npoll = 90\n");
    let (code, out, complaints) = check(root.path(), Some("site1"));
    assert_eq!(code, 0, "{complaints}");
    let has = |value: &str, origin: &str| {
        assert!(out.lines().any(|line| line.starts_with(value) && line.ends_with(origin)), "{value}: {out}");
    };
    has("source = \"/srv/a\" ", " # /etc/blat/blat.toml:2");
    has("port = 2222 ", " # /etc/blat/blat.toml:4");
    has("poll = \"1m30s\" ", " # /etc/blat/targets/site1.toml:4");
    has("bin = \"bin\" ", " # built in");
    let name = "site1".parse().unwrap();
    let before = Settings::load(root.path(), &name).unwrap();
    put(root.path(), "targets/site1.toml", &out);
    assert_eq!(Settings::load(root.path(), &name).unwrap(), before);
}

#[test]
fn a_broken_file_is_told_of_with_what_holds_instead() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), ".accepted/targets/site1.toml", "source = '/a'\nssh.host = 'h'");
    put(root.path(), "targets/site1.toml", "source = 'a'\nssh.host = 'h'");
    for name in [Some("site1"), None] {
        let (code, out, complaints) = check(root.path(), name);
        assert_eq!((code, out.as_str()), (EX_CONFIG, ""));
        assert!(complaints.starts_with("/etc/blat/targets/site1.toml:1:10: key `source`: "), "{complaints}");
        assert!(complaints.contains("accepted before are in force: /etc/blat/.accepted/targets/site1.toml"));
    }
}

#[test]
fn what_was_never_accepted_and_takes_the_tag_directory_of_another_is_not_started_by_hand() {
    let root = tempfile::tempdir().unwrap();
    let held = "source = '/a'\nssh.host = 'h'\ntags.directory = '/t'\n";
    put(root.path(), ".accepted/targets/held.toml", held);
    put(root.path(), "targets/held.toml", held);
    put(root.path(), "targets/site1.toml", held);
    let load = || Settings::load(root.path(), &"site1".parse().unwrap());
    let why = load().unwrap_err().to_string();
    assert!(why.starts_with("/etc/blat/targets/site1.toml:3:18: key `tags.directory`: "), "{why}");
    put(root.path(), "targets/site1.toml", &held.replace("/t", "/other"));
    load().unwrap();
}

#[test]
fn a_target_that_is_not_there_is_told_of() {
    let root = tempfile::tempdir().unwrap();
    let (code, _, complaints) = check(root.path(), Some("site1"));
    assert_eq!(code, EX_CONFIG);
    assert_eq!(complaints, "/etc/blat/targets/site1.toml: there is no target `site1`\n");
    assert_eq!(check(root.path(), Some("a/b")).0, EX_CONFIG);
}
