//! The package in the field: an upgrade in the middle of the work, removal, reinstallation, purge.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::builds::{Dice, Witness, put_build};
use crate::field::{Field, SOURCE};
use crate::machines::{
    Lab, Link, Machine, Rate, TRANSFER_USER, authorize, build_packages, built, checkout, install_deb,
    put_file, wait_until,
};
use crate::releases::release;

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(240);
/// The version of the package that is upgraded from.
const BEFORE: &str = "0.0.9";
/// How much a synchronisation has to bring, and how many tags are dropped meanwhile.
const BULK: usize = 40;
const STORM: usize = 200;
/// In bytes: all of them take the line some seconds.
const TAGGED: usize = 50_000;

/// The package of an earlier build: another version, another helper.
fn previous() -> PathBuf {
    let helper = checkout().join("build/previous/blat-target");
    std::fs::create_dir_all(helper.parent().expect("a folder")).expect("a folder");
    let mut program = std::fs::read(checkout().join("build/dist/blat-target")).expect("the helper");
    program.extend_from_slice(b"an earlier build");
    std::fs::write(&helper, program).expect("a file");
    let output = Command::new("packaging/deb/build")
        .arg(BEFORE)
        .env("HELPER", &helper)
        .env("OUT", "build/previous")
        .env("ZIP", "none")
        .env_remove("MAKEFLAGS")
        .current_dir(checkout())
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let arch = built("blat_", ".deb").file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arch = arch.rsplit('_').next().unwrap_or_default().to_owned();
    checkout().join(format!("build/previous/blat_{BEFORE}_{arch}"))
}

/// All files of a machine that a package could have left somewhere; what machines write by themselves
/// is left out.
fn files(machine: &Machine) -> BTreeSet<String> {
    let script = "find /etc /usr /var /run /opt /root /home -xdev \
         \\( -path /var/lib/dpkg -o -path /var/log -o -path /run/systemd -o -path /var/cache/ldconfig \
            -o -path /run/log -o -path /run/user -o -path /var/lib/systemd -o -path /var/backups \\) -prune -o -print";
    // The machine's own accounts, and what the judges of these tests lay down.
    let others = [
        "/run/judge",
        "/run/mount",
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sub",
        "/etc/.pwd.lock",
        "/root/",
    ];
    let text = machine.sh(script);
    let ours = |line: &&str| !others.iter().any(|other| line.starts_with(other));
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// A master with the earlier package, whose target is far away and has much to come.
fn busy() -> (Field, Link, Vec<(String, String)>, BTreeSet<String>) {
    build_packages();
    let lab = Lab::new("upgrade");
    let master = lab.boot("master");
    let site = lab.boot("site1");
    let before = files(&master);
    let path = put_file(&master, &previous(), "/root");
    master.sh(&format!("dpkg --force-unsafe-io --install {path}; mkdir -p {SOURCE}"));
    authorize(&master, &site);
    let field = Field { lab, master, site };
    let mut dice = Dice::new();
    let bulk: Vec<_> = (0..BULK).map(|number| (format!("bulk{number}"), "1.0".to_owned())).collect();
    for (number, (package, version)) in bulk.iter().enumerate() {
        put_build(&field.source().join(package).join(version), number as u64, 3, &dice.noise(1_000_000));
    }
    let names: Vec<String> = bulk.iter().map(|(package, version)| format!("{package}/{version}")).collect();
    field.master.write("/root/releases", release("Bus/0", 'N', &names), 0o644);
    field.master.sh("blat release import /root/releases");
    let link = field.lab.link(&field.master, &field.site, Rate::bits(16_000_000), Duration::from_millis(10));
    (field, link, bulk, before)
}

#[test]
fn an_upgrade_in_the_middle_of_the_work_loses_and_tears_nothing() {
    let (field, _link, mut ids, before) = busy();
    let mut dice = Dice::new();
    field.add_target("site1", SOURCE, "releases = [\"Bus/0\"]\n");
    field.add_target("stopped", SOURCE, "");
    field.wait_connected("site1");
    field.master.sh("echo '# mine' >>/etc/blat/blat.toml; systemctl stop blat@stopped");
    let witness = Witness::of(field.archive("site1"));
    field.master.sh("systemctl start --no-block blat-sync@site1");
    wait_until("the synchronisation sends", SOON, || field.count("blat@site1", "committed bulk") > 0);
    for number in 0..STORM {
        let package = format!("storm{number}");
        put_build(&field.source().join(&package).join("1.0"), number as u64, 3, &dice.noise(TAGGED));
        ids.push((package, "1.0".into()));
    }
    ids[BULK..].iter().for_each(|(package, version)| field.tag("site1", package, version));
    wait_until("the storm has begun", SOON, || field.count("blat@site1", "committed storm") > 0);
    let at = (field.count("blat@site1", "committed bulk"), field.count("blat@site1", "committed storm"));
    println!("upgraded after {} of {BULK} in bulk and {} of {STORM} by tag", at.0, at.1);
    assert!(at.0 < BULK && at.1 < STORM, "the work was over before the upgrade");
    // As a file that the earlier version refuses: it is not in force, and nothing but the upgrade has it judged.
    field.master.sh("systemctl stop blat-config.path");
    field.add_target("refused", SOURCE, "");
    // What the administrator says of the kernel holds beside what the package says.
    let kernel = "/proc/sys/net/ipv4/tcp_slow_start_after_idle";
    field.master.sh(&format!(
        "echo 'net.ipv4.tcp_slow_start_after_idle = 1' >/etc/sysctl.d/99-mine.conf; echo 1 >{kernel}"
    ));
    install_deb(&field.master, "blat");
    assert_eq!(field.master.sh(&format!("cat {kernel}; rm /etc/sysctl.d/99-mine.conf")), "1");
    wait_until("what was refused is judged again", SOON, || field.active("blat@refused") == "active");
    field.wait_no_tags("site1", LONG);
    wait_until("the synchronisation is complete", LONG, || {
        // Not the line that says that one was cut.
        let story = field.master.journal(&["-u", "blat@site1", "-o", "cat"]);
        story.lines().any(|line| line.starts_with("synchronised: "))
    });
    let (looked, torn) = witness.ends();
    println!("{looked} package-versions were read meanwhile");
    assert!(torn.is_empty() && looked > 0, "{torn:?}");
    field.assert_equal("site1", SOURCE, &ids);
    field.assert_nothing_left("site1");
    assert_eq!(field.active("blat@stopped"), "inactive");
    field.master.sh("grep -qx '# mine' /etc/blat/blat.toml");
    let build = |path: &str, machine: &Machine| machine.sh(&format!("{path} --version"));
    let shipped = build("/usr/lib/blat/blat-target", &field.master);
    assert_eq!(build(&format!("/home/{TRANSFER_USER}/bin/blat-target"), &field.site), shipped);
    field.assert_no_failed_unit();
    removed_and_purged(&field, &before);
}

fn removed_and_purged(field: &Field, before: &BTreeSet<String>) {
    field.publish("late", "1.0");
    field.master.sh("dpkg --remove blat");
    assert_eq!(
        field.master.sh("pgrep -u blat || true; systemctl list-units --plain --no-legend --type=service,socket,path,timer,target 'blat*'"),
        ""
    );
    field.tag("site1", "late", "1.0");
    install_deb(&field.master, "blat");
    field.wait_for("site1", "late", "1.0", SOON);
    field.assert_no_failed_unit();
    // Where a mount point cannot be removed, all the rest goes.
    field.master.sh("mount -t tmpfs none /var/cache/blat && dpkg --purge blat && umount /var/cache/blat");
    field.master.sh("rmdir /var/cache/blat");
    let left: Vec<_> = files(&field.master).difference(before).cloned().collect();
    assert!(left.is_empty(), "a purge leaves {left:?}");
    assert_eq!(field.master.sh("getent passwd blat || true; getent group blat blat-tags || true"), "");
    assert_eq!(field.master.sh("systemctl list-unit-files --no-legend 'blat*' || true"), "");
    assert!(field.master.file(SOURCE).join("late/1.0/descpkg").exists(), "the archive is nobody's to remove");
    assert!(field.has("site1", "late", "1.0"));
}
