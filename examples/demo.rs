//! `make demo`: the main job on real input, for a person to watch.
//!
//! Boots a master and a site, starts blat as systemd does in the field, drops tags for
//! real packages, and shows what happened. Where machines may not be booted, the same
//! programs run over a private sshd on loopback, started by hand as the units would.

#[path = "../tests/lab/field.rs"]
mod field;
#[path = "../tests/loopback/mod.rs"]
mod loopback;
#[path = "../tests/lab/machines/mod.rs"]
mod machines;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use field::{Field, REAL_SOURCE};
use machines::{TRANSFER_USER, checkout, real_archive, wait_until};

fn main() {
    if std::env::args().any(|argument| argument == "--loopback") {
        on_loopback();
    } else {
        on_machines(std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty()));
    }
}

fn on_machines(keep: bool) {
    say("Booting two machines, each with its own systemd: master and site1");
    let begin = Instant::now();
    let field = Field::new("demo");
    println!("   up, with blat installed on master, after {:.1} s", begin.elapsed().as_secs_f64());

    say("A target is a file: /etc/blat/targets/site1.toml. No command follows");
    let begin = Instant::now();
    field.add_target("site1", REAL_SOURCE, "");
    field.wait_connected("site1");
    show(&field.master.sh("cat /etc/blat/targets/site1.toml"));
    println!("   its instance runs and is connected after {:.1} s", begin.elapsed().as_secs_f64());

    let packages = packages(12);
    say("Tags for real packages (the crates that blat is built from), one at a time");
    for (package, version) in &packages {
        one_tag(&field, package, version);
    }
    let many = self::packages(60);
    say(&format!("{} tags at once", many.len()));
    let begin = Instant::now();
    for (package, version) in &many {
        field.tag("site1", package, version);
    }
    field.wait_no_tags("site1", Duration::from_secs(120));
    println!("   all there after {:.1} s", begin.elapsed().as_secs_f64());

    say("The tag directory is empty again, and the packages stand on site1");
    show(&field.master.sh("ls -A /var/lib/blat/tags/site1 /var/lib/blat/tags/site1/.claimed"));
    show(&field.site.as_user(TRANSFER_USER, "ls -l dpkg_archive | head -8; du -sh dpkg_archive"));
    say("rsync, asked for a second opinion, finds nothing to do");
    field.assert_equal("site1", REAL_SOURCE, &many);
    println!("   {} package-versions equal: content, modes, times", many.len());
    say("systemctl status blat@site1");
    show(&field.master.sh("systemctl status --no-pager -n 0 blat@site1"));
    say("journalctl -u 'blat@*'");
    show(&field.master.sh("journalctl --no-pager -q -o short-precise -u 'blat@*' -n 14"));
    if keep {
        keep_up(&field);
    }
    println!("\nThe machines are shut down and removed.");
}

fn one_tag(field: &Field, package: &str, version: &str) {
    let begin = Instant::now();
    field.tag("site1", package, version);
    wait_until("the package is visible", Duration::from_secs(60), || field.has("site1", package, version));
    let took = begin.elapsed().as_millis();
    println!("   {took:>5} ms: {package}::{version}");
    field.wait_no_tags("site1", Duration::from_secs(10));
    field.wait_idle("site1");
}

fn keep_up(field: &Field) {
    say("The machines stay up until you press Enter (or end this with Ctrl-C). To go in, as root:");
    for machine in [&field.master, &field.site] {
        println!("   nsenter --all --target {} bash -l    # {}", machine.pid1(), machine.name());
    }
    println!("   To send a package, in master:  blat tag site1 {}", {
        let (package, version) = packages(1).remove(0);
        format!("{package} {version}")
    });
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).is_ok_and(|read| read == 0) {
        // No terminal: stay until a signal ends this.
        loop {
            std::thread::park();
        }
    }
}

/// Some real package-versions, from all over the archive.
fn packages(count: usize) -> Vec<(String, String)> {
    field::real_packages(count)
}

fn on_loopback() {
    say("No machines can be booted here: the same programs run over a private sshd on loopback,");
    println!("   started by hand as systemd's units would. No unit is shown by this.");
    let (blat, helper) = programs();
    let mut world = loopback::Loopback::new(&blat, &helper);
    world.set_source(&real_archive());
    world.start_agent();
    say("Tags for real packages, one at a time");
    for (package, version) in packages(12) {
        let begin = Instant::now();
        world.tag(&package, &version);
        let output = world.transfer();
        let there = world.archive().join(&package).join(&version).is_dir();
        assert!(there, "{package}/{version} did not arrive: {}", String::from_utf8_lossy(&output.stderr));
        println!("   {:>5} ms: {package}::{version}", begin.elapsed().as_millis());
    }
    let archive = world.archive();
    say(&format!("The archive {}", archive.display()));
    let listed = Command::new("ls").arg("-l").arg(&archive).output().expect("ls");
    show(&String::from_utf8_lossy(&listed.stdout));
}

fn programs() -> (PathBuf, PathBuf) {
    let build = checkout().join("build");
    (build.join("dist/blat"), build.join("dist/blat-target"))
}

fn say(what: &str) {
    println!("\n== {what}");
}

fn show(text: &str) {
    text.lines().for_each(|line| println!("   | {line}"));
}
