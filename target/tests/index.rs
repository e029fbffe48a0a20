//! The index as a program: killed at any point it leaves the old list, or the new one, whole; readers see
//! nothing else, and what is searched is found.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blat_target::message::{ToHost, ToTarget};
use common::{Host, Site};

const VERSIONS: usize = 150;

fn version(site: &Site, number: usize, file: &str) {
    let folder = site.archive().join(format!("a/{number}"));
    fs::create_dir_all(folder.join("include")).unwrap();
    fs::write(folder.join("include").join(file), "").unwrap();
    // A new one has another inode, whatever the clock says.
    let _ = fs::rename(folder.join("descpkg"), folder.join("descpkg.old"));
    fs::write(folder.join("descpkg"), "").unwrap();
}

fn index(site: &Site) -> std::process::Command {
    let mut command = site.command();
    command.arg("index").stdout(Stdio::null());
    command
}

/// What `find` finds, as the list has it.
fn due(site: &Site) -> String {
    let mut lines = BTreeSet::new();
    let mut open = vec![site.archive()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(site.archive()).unwrap().to_str().unwrap().to_owned();
            if name == ".dpkg_archive" {
                continue;
            }
            lines.insert(if path.is_dir() { name + "/\n" } else { name + "\n" });
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    lines.into_iter().collect()
}

fn read(list: &Path) -> String {
    fs::read_to_string(list).unwrap()
}

#[test]
fn killed_at_any_point_it_leaves_the_old_list_or_the_new_one() {
    let site = Site::new();
    (0..VERSIONS).for_each(|number| version(&site, number, "x.h"));
    site.give(&site.archive().join("a"));
    assert!(index(&site).status().unwrap().success());
    let list = site.archive().join(".dpkg_archive/dpkg_archive_list.txt");
    let over = Arc::new(AtomicBool::new(false));
    let (path, done) = (list.clone(), over.clone());
    let reader = std::thread::spawn(move || {
        let mut seen = BTreeSet::new();
        while !done.load(Ordering::Relaxed) {
            seen.insert(read(&path));
        }
        seen
    });
    let mut lists = BTreeSet::from([read(&list)]);
    assert!(lists.contains(&due(&site)));
    let mut finished = 0;
    for round in 0..40 {
        (0..VERSIONS).step_by(7).for_each(|number| version(&site, number, &format!("{round}.h")));
        lists.insert(due(&site));
        let mut running = index(&site).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(200 * round));
        let _ = running.kill();
        finished += usize::from(running.wait().unwrap().success());
        assert!(lists.contains(&read(&list)), "round {round}");
    }
    assert!(index(&site).status().unwrap().success());
    assert_eq!(read(&list), due(&site));
    over.store(true, Ordering::Relaxed);
    let seen = reader.join().unwrap();
    assert!(seen.iter().all(|list| lists.contains(list)), "a reader saw something else");
    println!("{finished} of 40 were done before they were killed; a reader saw {} lists", seen.len());
}

#[test]
fn where_the_list_has_no_room_nothing_of_it_is_left() {
    let site = Site::new();
    (0..VERSIONS).for_each(|number| version(&site, number, "first"));
    let own = site.archive().join(".dpkg_archive");
    // As a full disk does, the kernel takes no more than a block of any file.
    let mut command = site.command_of(Path::new("/bin/sh"));
    command.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" index"]).arg(site.helper());
    let said = command.output().unwrap();
    let words = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && words.contains("dpkg_archive_list.txt"), "{words}");
    let left = fs::read_dir(&own).unwrap().map(|item| item.unwrap().file_name());
    let left: BTreeSet<_> = left.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(left, ["index.lock", "last_index"].map(String::from).into());
    let told = fs::read_to_string(own.join("last_index")).unwrap();
    assert!(told.contains(" 0 1 could not write .dpkg_archive/dpkg_archive_list.txt"), "{told}");
    assert!(index(&site).status().unwrap().success());
    assert_eq!(read(&own.join("dpkg_archive_list.txt")), due(&site));
}

#[test]
fn what_is_searched_is_found_and_nothing_is_told_by_the_exit_code() {
    let site = Site::new();
    version(&site, 1, "x.h");
    let find = |pattern: &str| {
        let said = site.command().args(["find", pattern]).output().unwrap();
        (said.status.code(), String::from_utf8(said.stdout).unwrap())
    };
    assert_eq!(find("x").0, Some(78), "there is no index");
    assert!(index(&site).status().unwrap().success());
    assert_eq!(find("1*x.h"), (Some(0), "a/1/include/x.h\n".into()));
    assert_eq!(find("y.h"), (Some(1), String::new()));
}

#[test]
fn where_the_archive_is_a_file_systems_root_what_that_keeps_for_root_is_no_fault() {
    let site = Site::new();
    version(&site, 1, "x.h");
    let kept = |path: &str| {
        fs::create_dir_all(site.archive().join(path)).unwrap();
        fs::set_permissions(
            site.archive().join(path),
            PermissionsExt::from_mode(if common::is_root() { 0o700 } else { 0 }),
        )
        .unwrap();
    };
    kept("lost+found");
    assert!(index(&site).status().unwrap().success());
    let mut host = site.host();
    assert_eq!(passed_over(&mut host), Vec::<String>::new());
    kept("other");
    assert_eq!(index(&site).status().unwrap().code(), Some(75));
    assert_eq!(passed_over(&mut host), ["other: the transfer user may not read it"]);
    assert_eq!(host.done().code, Some(0));
}

fn passed_over(host: &mut Host) -> Vec<String> {
    host.say(&ToTarget::List { known: None });
    loop {
        match host.next() {
            Some(ToHost::Listing(_)) => {}
            Some(ToHost::Listed(listed)) => return listed.passed_over,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_told_and_all_else_is_listed() {
    if !common::is_root() {
        return eprintln!("only root can make what its user cannot read: not tried");
    }
    let site = Site::new();
    version(&site, 1, "x.h");
    version(&site, 2, "x.h");
    let hidden = site.archive().join("a/1/include");
    fs::set_permissions(&hidden, PermissionsExt::from_mode(0o700)).unwrap();
    let said = site.command().arg("index").output().unwrap();
    let words = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(75), "{words}");
    assert!(words.contains("cannot list a/1/include/"), "{words}");
    let list = read(&site.archive().join(".dpkg_archive/dpkg_archive_list.txt"));
    assert!(list.contains("a/1/include/\n") && list.contains("a/2/include/x.h\n"), "{list}");
    fs::set_permissions(&hidden, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(index(&site).status().unwrap().success());
    assert_eq!(read(&site.archive().join(".dpkg_archive/dpkg_archive_list.txt")), due(&site));
}
