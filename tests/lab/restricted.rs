//! A restricted key can do nothing but serve blat; and whatever helper is there, and whoever owns it, the
//! work goes on.

use std::time::Duration;

use crate::field::{Field, SOURCE};
use crate::machines::{
    KNOWN_HOSTS, Lab, TRANSFER_USER, checkout, install, key_path, make, put_file, trust_host, wait_until,
};
use crate::releases::release;

const SOON: Duration = Duration::from_secs(60);
const SHIPPED: &str = "/usr/lib/blat/blat-target";
const THERE: &str = "/home/pkgadmin/bin/blat-target";
const PASSWORD: &str = "correct horse";

/// A target that was enrolled with `--restrict` and a password.
fn restricted() -> Field {
    let lab = Lab::new("restricted");
    let (master, site) = (lab.boot("master"), lab.boot("site1"));
    install(&master);
    trust_host(&master, &site);
    site.sh(&format!("echo '{TRANSFER_USER}:{PASSWORD}' | chpasswd"));
    master.write("/root/askpass", format!("#!/bin/sh\necho '{PASSWORD}'\n"), 0o755);
    let field = Field { lab, master, site };
    field.master.sh(&format!("mkdir -p {SOURCE}"));
    enroll(&field, "--restrict");
    field.wait_connected("site1");
    field
}

fn enroll(field: &Field, options: &str) {
    let said = field.master.sh(&format!(
        "export SSH_ASKPASS=/root/askpass SSH_ASKPASS_REQUIRE=force
         blat enroll site1 {TRANSFER_USER}@site1 --source {SOURCE} {options} 2>&1"
    ));
    println!("{said}");
}

/// Sends a new package by a tag.
fn sends(field: &Field, package: &str) {
    field.publish(package, "1.0");
    field.tag("site1", package, "1.0");
    field.wait_for("site1", package, "1.0", SOON);
    field.wait_no_tags("site1", SOON);
}

fn synchronises(field: &Field, package: &str) {
    field.publish(package, "2.0");
    field.master.write("/root/releases", release("Bus/0", 'N', &[format!("{package}/2.0")]), 0o644);
    field.master.sh("blat release import /root/releases; systemctl kill -s USR1 blat@site1");
    field.wait_for("site1", package, "2.0", SOON);
    field
        .site
        .as_user(TRANSFER_USER, &format!("grep -q {package} dpkg_archive/.dpkg_archive/package_list.txt"));
}

/// What the helper says instead of serving.
const NOTHING_ELSE: &str = "this key serves blat and nothing else";
/// What is left to say to who speaks SFTP.
const CLOSED: &str = "Connection closed";

#[test]
fn a_restricted_key_serves_blat_and_nothing_else() {
    let field = restricted();
    field.site.as_user(TRANSFER_USER, "echo secret >secret; (nc -lkU open >/dev/null 2>&1 &)");
    let options = format!(
        "-i {} -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={KNOWN_HOSTS} -o User={TRANSFER_USER}",
        key_path("site1")
    );
    let refused = [
        ("a shell", format!("ssh {options} site1"), NOTHING_ELSE),
        ("a terminal", format!("ssh -tt {options} site1 sh"), "PTY allocation request failed"),
        ("a command", format!("ssh {options} site1 cat secret"), NOTHING_ELSE),
        (
            "another command behind ours",
            format!("ssh {options} site1 'bin/blat-target serve; cat secret'"),
            NOTHING_ELSE,
        ),
        ("scp", format!("scp {options} site1:secret /root/stolen"), CLOSED),
        ("scp in its old protocol", format!("scp -O {options} site1:secret /root/stolen"), NOTHING_ELSE),
        ("scp to there", format!("scp {options} /root/askpass site1:planted"), CLOSED),
        ("sftp", format!("echo 'get secret /root/stolen' | sftp -b - {options} site1"), CLOSED),
        (
            "a port to there",
            format!("ssh {options} -o ExitOnForwardFailure=yes -W localhost:22 site1"),
            "administratively prohibited",
        ),
        (
            "a port from there",
            format!("timeout 20 ssh {options} -o ExitOnForwardFailure=yes -N -R 9999:localhost:22 site1"),
            "remote port forwarding failed",
        ),
    ];
    for (what, command, why) in refused {
        let output = field.master.run(&["timeout", "60", "sh", "-c", &format!("{command} </dev/null")]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{what}: {}, {}", output.status, words.lines().last().unwrap_or_default());
        assert!(
            !output.status.success() && !said.contains("secret") && !said.contains("SSH-"),
            "{what}: {said}"
        );
        assert_ne!(output.status.code(), Some(124), "{what} hangs");
        // Not for another reason, such as a key that opens nothing at all.
        assert!(words.contains(why) && !words.contains("Permission denied"), "{what}: {words}");
    }
    assert!(!field.master.file("/root/stolen").exists());
    field.site.as_user(TRANSFER_USER, "test ! -e planted");
    // Its own archive, and no other.
    field.site.as_user(TRANSFER_USER, "mkdir other");
    let path = "/etc/blat/targets/site1.toml";
    let text = std::fs::read_to_string(field.master.file(path)).expect("the file");
    let wanted = format!("projects = [\"Bus\"]\n{text}");
    field.master.write(path, format!("{wanted}[target]\narchive = \"other\"\n"), 0o644);
    field.publish("elsewhere", "1.0");
    wait_until("the change is in force", SOON, || {
        field.master.sh("cat /etc/blat/.accepted/targets/site1.toml").contains("other")
    });
    field.tag("site1", "elsewhere", "1.0");
    wait_until("it is told", SOON, || field.count("blat@site1", "serves the archive dpkg_archive only") > 0);
    field.master.write(path, wanted, 0o644);
    field.wait_no_tags("site1", SOON);
    field.site.as_user(TRANSFER_USER, "test -z \"$(ls other)\"");
    sends(&field, "by-tag");
    synchronises(&field, "by-sync");
    ages_and_is_indexed(&field);
    upgraded(&field);
    owned_by_root(&field);
    field.assert_no_failed_unit();
}

/// What no release asks for goes, and the timers that the enrolment set up know what is left.
fn ages_and_is_indexed(field: &Field) {
    let path = "/etc/blat/targets/site1.toml";
    let text = std::fs::read_to_string(field.master.file(path)).expect("the file");
    field.master.write(path, format!("{text}[aging]\nmode = \"immediate\"\n"), 0o644);
    wait_until("the change is in force", SOON, || {
        field.master.sh("cat /etc/blat/.accepted/targets/site1.toml").contains("immediate")
    });
    field.master.sh("blat sync --accept-shrink site1");
    assert!(!field.has("site1", "by-tag", "1.0") && !field.has("site1", "elsewhere", "1.0"));
    assert!(field.has("site1", "by-sync", "2.0"));
    let timers = field.site.as_user(TRANSFER_USER, "systemctl --user list-timers --no-pager");
    assert!(timers.contains("blat-index.timer") && timers.contains("blat-purge.timer"), "{timers}");
    field.site.as_user(TRANSFER_USER, "systemctl --user start blat-index.service");
    let found = field.site.as_user(TRANSFER_USER, "bin/blat-target find by-");
    assert!(found.contains("by-sync/2.0/descpkg") && !found.contains("by-tag"), "{found}");
    field.master.write(path, text, 0o644);
}

/// The master gets another build of the helper.
fn upgraded(field: &Field) {
    let build = || field.site.sh(&format!("{THERE} --version"));
    let before = build();
    field.master.sh(&format!("echo 'a newer build' >>{SHIPPED}"));
    sends(field, "after-upgrade");
    synchronises(field, "synced-after-upgrade");
    assert_eq!(build(), before, "the key may not replace the helper");
    wait_until("the status says so", SOON, || {
        field.status_text("site1").contains("the helper on the target is old")
    });
    println!("{}", field.status_text("site1"));
    enroll(field, "--restrict --allow-replace");
    sends(field, "replaced");
    assert_eq!(build(), field.master.sh(&format!("{SHIPPED} --version")));
    wait_until("the status is well", SOON, || !field.status_text("site1").contains("is old"));
    field.master.sh(&format!("echo 'newer still' >>{SHIPPED}"));
    sends(field, "replaced-through-the-session");
    assert_eq!(build(), field.master.sh(&format!("{SHIPPED} --version")));
}

/// A helper of root's, which speaks the oldest protocol alone.
fn owned_by_root(field: &Field) {
    make(&["oldest-helper"]);
    let path = put_file(&field.site, &checkout().join("build/dist/blat-target-oldest"), "/root");
    field.site.sh(&format!("install -o root -m 0755 {path} {THERE}.new && mv {THERE}.new {THERE}"));
    let build = || field.site.sh(&format!("{THERE} --version"));
    let before = build();
    for restricted in [true, false] {
        if !restricted {
            field.site.sh("sed -i 's/^restrict,command=\"[^\"]*\" //' /home/pkgadmin/.ssh/authorized_keys");
            field.master.sh("systemctl restart blat@site1");
            field.wait_connected("site1");
        }
        sends(field, &format!("oldest-{restricted}"));
        synchronises(field, &format!("oldest-synced-{restricted}"));
        assert_eq!(build(), before, "a helper of root's is never replaced");
        wait_until("the status says so", SOON, || field.status_text("site1").contains("protocol 1"));
    }
    println!("{}", field.status_text("site1"));
    assert!(field.status_text("site1").contains("belongs to root"), "{}", field.status_text("site1"));
}
