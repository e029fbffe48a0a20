//! `blat doctor` finds each thing that is broken here, and what it says mends it.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::field::{Field, SOURCE};
use crate::machines::{Lab, TRANSFER_USER, install, wait_until};
use crate::releases::release;

const SOON: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse";
const FILE: &str = "/etc/blat/targets/site1.toml";
/// For root of the site.
const AS_ROOT: &str = "root";

/// Something that is broken: where, by what, which matter the doctor calls wrong, and, where it names
/// no command for it, what a person does who follows its words.
struct Trouble {
    on: On,
    by: &'static str,
    wrong: &'static str,
    person: Option<(On, &'static str)>,
}

#[derive(Clone, Copy)]
enum On {
    Master,
    Site,
}

const fn here(by: &'static str, wrong: &'static str) -> Trouble {
    Trouble { on: On::Master, by, wrong, person: None }
}

const fn there(by: &'static str, wrong: &'static str) -> Trouble {
    Trouble { on: On::Site, by, wrong, person: None }
}

const fn mended(trouble: Trouble, on: On, by: &'static str) -> Trouble {
    Trouble { person: Some((on, by)), ..trouble }
}

const TROUBLES: &[Trouble] = &[
    mended(
        here("echo 'nonsense = 1' >>/etc/blat/targets/site1.toml", "config"),
        On::Master,
        "sed -i /nonsense/d /etc/blat/targets/site1.toml",
    ),
    here("systemctl disable --now blat-config.path 2>/dev/null", "units"),
    here("systemctl disable blat.target 2>/dev/null", "units"),
    here(
        "sed s/60s/5s/ /usr/lib/systemd/system/blat-transfer@.service >/etc/systemd/system/blat-transfer@.service",
        "units",
    ),
    here("systemctl stop blat@site1", "units"),
    here("echo 1 >/proc/sys/net/ipv4/tcp_slow_start_after_idle", "connections"),
    mended(here("chmod 0700 /srv", "source"), On::Master, "chmod 0755 /srv"),
    mended(
        here("mv /srv/dpkg_archive /srv/elsewhere", "source"),
        On::Master,
        "mv /srv/elsewhere /srv/dpkg_archive",
    ),
    here("chmod 0755 /var/lib/blat/tags/site1", "tags"),
    here("chown root:root /var/lib/blat/site1", "state"),
    here("mkdir -p /var/lib/blat/site1/rejected; touch '/var/lib/blat/site1/rejected/a::1'", "tags"),
    mended(
        here("rm /var/lib/blat/release_manager.db", "releases"),
        On::Master,
        "blat release import /root/releases",
    ),
    here("chmod 0644 /etc/blat/keys/site1", "key"),
    here("rm /etc/blat/keys/site1", "key"),
    here("echo nonsense >/etc/blat/keys/site1", "key"),
    here(": >/etc/blat/known_hosts", "host key"),
    mended(
        there(
            "rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
             systemctl restart ssh",
            "connection",
        ),
        On::Master,
        "ssh-keygen -R site1 -f /etc/blat/known_hosts 2>&1; printf 'yes\\n' | blat enroll site1 pkgadmin@site1",
    ),
    there(": >/home/pkgadmin/.ssh/authorized_keys", "connection"),
    there("systemctl stop ssh", "connection"),
    mended(
        here("sed -i 's/\"site1\"/\"nowhere.invalid\"/' /etc/blat/targets/site1.toml; ssh-keyscan site1 2>/dev/null | sed s/site1/nowhere.invalid/ >>/etc/blat/known_hosts", "connection"),
        On::Master,
        "sed -i 's/\"nowhere.invalid\"/\"site1\"/' /etc/blat/targets/site1.toml",
    ),
    there("rm -r /home/pkgadmin/dpkg_archive; ln -s /home/pkgadmin/room /home/pkgadmin/dpkg_archive", "archive"),
    there("chown root /home/pkgadmin/dpkg_archive/.; chmod 0755 /home/pkgadmin/dpkg_archive/.", "archive"),
    mended(
        there("mount -t tmpfs -o size=1m,uid=pkgadmin,mode=0755 none /home/pkgadmin/room", "space"),
        On::Site,
        "umount /home/pkgadmin/room",
    ),
    there("rm /home/pkgadmin/bin/blat-target", "helper"),
    there("echo nonsense >/home/pkgadmin/bin/blat-target", "helper"),
    mended(
        here("echo 'another build' >>/usr/lib/blat/blat-target", "helper"),
        On::Master,
        "systemctl kill -s USR1 blat@site1",
    ),
];

fn field() -> Field {
    let lab = Lab::new("doctor");
    let (master, site) = (lab.boot("master"), lab.boot("site1"));
    install(&master);
    site.sh(&format!("echo '{TRANSFER_USER}:{PASSWORD}' | chpasswd"));
    master.write("/root/askpass", format!("#!/bin/sh\necho '{PASSWORD}'\n"), 0o755);
    let field = Field { lab, master, site };
    // An archive that blat may read by its group alone.
    field.master.sh(&format!(
        "groupadd release; usermod -aG release blat; mkdir -p {SOURCE}; chgrp release {SOURCE}; chmod 0750 {SOURCE}"
    ));
    field.publish("core", "1.0");
    field.master.write("/root/releases", release("Bus/0", 'N', &["core/1.0".to_owned()]), 0o644);
    field.master.sh("blat release import /root/releases");
    let enrolled = as_person(&field, &format!("blat enroll site1 {TRANSFER_USER}@site1 --source {SOURCE}"));
    assert!(enrolled.status.success(), "{}", text(&enrolled));
    let file = std::fs::read_to_string(field.master.file(FILE)).expect("the file");
    field.master.write(FILE, format!("projects = [\"Bus\"]\n{file}"), 0o644);
    field.wait_connected("site1");
    field.master.sh("systemctl start blat-sync@site1");
    field
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command on the master as somebody who types `yes`, and the password for ssh.
fn as_person(field: &Field, command: &str) -> Output {
    let mut line = field.master.command(&["sh", "-c", command]);
    line.env("SSH_ASKPASS", "/root/askpass").env("SSH_ASKPASS_REQUIRE", "force");
    line.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = line.spawn().expect("a shell");
    let _ = child.stdin.take().expect("a pipe").write_all(b"yes\n");
    child.wait_with_output().expect("it ends")
}

fn doctor(field: &Field) -> (bool, String) {
    let output = field.master.run(&["blat", "doctor", "site1"]);
    (output.status.success(), text(&output))
}

#[test]
fn each_thing_that_is_broken_is_found_and_the_mend_works() {
    let field = field();
    wait_until("all is well", SOON, || doctor(&field).0);
    println!("{}", doctor(&field).1);
    assert!(TROUBLES.len() >= 15);
    let failed: Vec<String> =
        TROUBLES.iter().filter_map(|trouble| is_found_and_mended(&field, trouble)).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// What went wrong with it, if anything.
fn is_found_and_mended(field: &Field, trouble: &Trouble) -> Option<String> {
    let begin = Instant::now();
    let broken = match trouble.on {
        On::Master => &field.master,
        On::Site => &field.site,
    };
    broken.sh(trouble.by);
    let name = trouble.by.lines().next().unwrap_or_default();
    let line = format!("  WRONG   {:<12}", trouble.wrong);
    let found =
        until(|| doctor(field), |(well, said)| !well && said.lines().any(|told| told.starts_with(&line)));
    let said = match found {
        Ok((_, said)) => said,
        Err((_, said)) => return Some(format!("`{name}` was not found:\n{said}")),
    };
    mend(field, trouble, &said);
    match until(|| doctor(field), |(well, _)| *well) {
        Ok(_) => {
            println!("{:.1} s: {name}", begin.elapsed().as_secs_f64());
            None
        }
        Err((_, now)) => Some(format!("`{name}` was not mended:\n{said}\nnow:\n{now}")),
    }
}

/// The first value that is as it should be, or the last one of a minute.
fn until<T>(value: impl Fn() -> T, good: impl Fn(&T) -> bool) -> Result<T, T> {
    let begin = Instant::now();
    loop {
        let now = value();
        if good(&now) {
            return Ok(now);
        }
        if begin.elapsed() > SOON {
            return Err(now);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Does what the doctor says.
fn mend(field: &Field, trouble: &Trouble, said: &str) {
    if let Some((on, by)) = trouble.person {
        assert!(said.contains("to mend it:") || said.contains("mend:"), "{said}");
        match on {
            On::Master => {
                let output = as_person(field, by);
                assert!(output.status.success(), "{by}: {}", text(&output));
            }
            On::Site => drop(field.site.sh(by)),
        }
        return;
    }
    let mut mended = 0;
    for line in said.lines().map(str::trim_start) {
        if let Some(command) = line.strip_prefix("mend:") {
            let output = as_person(field, command.trim());
            assert!(output.status.success(), "{command}: {}", text(&output));
            mended += 1;
        } else if let Some(rest) = line.strip_prefix("mend there:") {
            let (command, who) = rest.trim().rsplit_once("   (as ").expect("who does it");
            match who.trim_end_matches(')') {
                AS_ROOT => drop(field.site.sh(command)),
                user => drop(field.site.as_user(user, command)),
            }
            mended += 1;
        }
    }
    assert!(mended > 0, "`{}`: no command is named:\n{said}", trouble.by);
}
