//! The packages: lintian and rpmlint have nothing to say, and the rpm brings what the Debian package does; what is
//! installed looks after what lies around.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::field::{Field, SOURCE};
use crate::machines::{Lab, authorize, build_packages, build_rpms, built, checkout, put_file};

const SOON: Duration = Duration::from_secs(60);

/// A tool of this machine that has nothing to say about files.
fn silent(program: &str, arguments: &[&str], files: &[PathBuf]) {
    let output = Command::new(program).args(arguments).args(files).current_dir(checkout()).output();
    let output = output.unwrap_or_else(|why| panic!("this test needs `{program}` (make setup): {why}"));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> =
        said.lines().filter(|line| line.contains("W: ") || line.contains("E: ")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{program}: {}\n{said}", output.status);
}

#[test]
fn lintian_and_rpmlint_have_nothing_to_say() {
    build_packages();
    build_rpms();
    let debs = ["blat_", "blat-target_"].map(|name| built(name, ".deb"));
    silent("lintian", &["--allow-root", "--fail-on=warning,error"], &debs);
    let rpms = ["blat-", "blat-target-"].map(|name| built(name, ".rpm"));
    silent("rpmlint", &["--config", "packaging/rpm/rpmlint.toml"], &rpms);
}

#[test]
fn the_rpm_brings_the_same_files_and_starts_the_units() {
    build_packages();
    build_rpms();
    same_files("blat");
    same_files("blat-target");
    let needs = rpm(&["-qp", "--requires"], &built("blat-", ".rpm"));
    for need in ["openssh-clients", "systemd", "libodbc.so.2()(64bit)"] {
        assert!(needs.lines().any(|line| line == need), "{need} in {needs}");
    }
    assert!(!rpm(&["-qp", "--requires"], &built("blat-target-", ".rpm")).contains("libc.so"));
    let lab = Lab::new("rpm");
    let master = lab.boot("master");
    // Nothing here is known to rpm but what it installs itself.
    let rpm = "rpm --force-debian --nodeps";
    let path = put_file(&master, &built("blat-", ".rpm"), "/root");
    master.sh(&format!("{rpm} --install {path} 2>&1; rpm --verify --nodeps blat"));
    for unit in ["blat.target", "blat-config.path", "blat-tag.socket", "blat-web.socket"] {
        assert_eq!(
            master.sh(&format!("systemctl is-active {unit}; systemctl is-enabled {unit}")),
            "active\nenabled"
        );
    }
    let site = lab.boot("site1");
    authorize(&master, &site);
    let field = Field { lab, master, site };
    field.master.sh(&format!("mkdir -p {SOURCE}"));
    field.add_target("site1", SOURCE, "");
    field.publish("by-rpm", "1.0");
    field.wait_connected("site1");
    field.tag("site1", "by-rpm", "1.0");
    field.wait_for("site1", "by-rpm", "1.0", SOON);
    // As a file that the earlier version refuses: it is not in force, and nothing but the upgrade has it judged.
    field.master.sh("systemctl stop blat-config.path");
    field.add_target("refused", SOURCE, "");
    field.master.sh(&format!("{rpm} --upgrade --force {path} 2>&1"));
    field.wait_connected("site1");
    field.wait_connected("refused");
    field.assert_no_failed_unit();
    field.master.sh("rpm --force-debian --erase blat");
    assert_eq!(
        field
            .master
            .sh("systemctl list-units --plain --no-legend --type=service,socket,path,timer,target 'blat*'"),
        ""
    );
}

fn rpm(arguments: &[&str], file: &PathBuf) -> String {
    let output =
        Command::new("rpm").args(arguments).arg(file).output().expect("this test needs Debian's `rpm`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whatever the Debian package has, the rpm has, but for what is Debian's own.
fn same_files(package: &str) {
    let deb = built(&format!("{package}_"), ".deb");
    let listed = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb).output().expect("dpkg-deb");
    let mut archive = tar::Archive::new(&listed.stdout[..]);
    let entries = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.header().entry_type().is_file());
    let of_deb: BTreeSet<String> = files
        .map(|entry| entry.path().expect("a path").display().to_string())
        .map(|path| path.trim_start_matches('.').to_owned())
        .filter(|path| !path.starts_with("/usr/share/lintian") && !path.starts_with("/usr/share/doc"))
        .collect();
    let listed = rpm(&["-qpl"], &built(&format!("{package}-"), ".rpm"));
    let of_rpm: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let missing: Vec<_> = of_deb.difference(&of_rpm).collect();
    assert!(of_deb.len() > 1 && missing.is_empty(), "the rpm lacks {missing:?}");
}

#[test]
fn what_was_packed_for_many_goes_when_it_is_old() {
    let field = Field::with_target("old");
    let ready = "/var/cache/blat/ready";
    let clean = format!(
        "install -d -o blat -g blat {ready}; cd {ready}; runuser -u blat -- touch new; \
         runuser -u blat -- touch -d '2 hours ago' old; runuser -u blat -- touch -d '2 hours ago' ../other; \
         systemd-tmpfiles --clean blat.conf; ls {ready} /var/cache/blat"
    );
    let left = field.master.sh(&clean);
    println!("{left}");
    assert!(left.contains("new") && left.contains("other") && !left.contains("old"), "{left}");
}
