//! A newcomer with the README, two bare machines and a password: its commands, as they stand there, lead
//! to the first package.

use std::process::{Output, Stdio};
use std::time::Duration;

use crate::field::{Field, SOURCE};
use crate::machines::{Lab, Machine, TRANSFER_USER, build_packages, put_deb, trust_host, wait_until};

const PASSWORD: &str = "correct horse";
/// What the agent may take of the memory, its ssh apart.
const AGENT_MAX_KIB: u64 = 6 * 1024;

/// The commands of the part of the README for newcomers.
fn commands() -> Vec<String> {
    let text = std::fs::read_to_string(crate::machines::checkout().join("README.md")).expect("the README");
    let part = text.split("## Five minutes to a first target").nth(1).expect("the part for newcomers");
    let part = part.split("\n## ").next().unwrap_or_default();
    part.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect()
}

/// A machine with an ssh server and a user who has a password, as `site1.example.org`.
fn bare_site(lab: &Lab, master: &Machine) -> Machine {
    let site = lab.boot("site1");
    site.sh(&format!("echo '{TRANSFER_USER}:{PASSWORD}' | chpasswd"));
    let hosts = std::fs::read_to_string(master.file("/etc/hosts")).expect("a hosts file");
    let line = format!("{} site1.example.org\n", site.addr());
    std::fs::write(master.file("/etc/hosts"), hosts + &line).expect("a hosts file");
    site
}

/// Runs a command as a person does who types `yes` when asked, and the password for ssh.
fn typed(master: &Machine, command: &str) -> Output {
    master.write("/root/askpass", format!("#!/bin/sh\necho '{PASSWORD}'\n"), 0o755);
    let mut line = master.command(&["sh", "-c", &format!("cd /root && {command}")]);
    line.env("SSH_ASKPASS", "/root/askpass").env("SSH_ASKPASS_REQUIRE", "force");
    line.env("SYSTEMD_PAGER", "").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = line.spawn().expect("a shell");
    use std::io::Write;
    let _ = child.stdin.take().expect("a pipe").write_all(b"yes\n");
    child.wait_with_output().expect("it ends")
}

#[test]
fn the_commands_of_the_readme_lead_to_the_first_package() {
    build_packages();
    let lab = Lab::new("newcomer");
    let master = lab.boot("master");
    let site = bare_site(&lab, &master);
    let field = Field { lab, master, site };
    field.master.sh(&format!("mkdir -p {SOURCE}"));
    field.publish("core_devl", "2.72.0");
    put_deb(&field.master, "blat", "/root");
    let commands = commands();
    assert!(commands.len() >= 6 && commands[0].starts_with("apt install"), "{commands:?}");
    for command in &commands {
        if command.starts_with("systemctl status") {
            field.wait_for("site1", "core_devl", "2.72.0", Duration::from_secs(60));
            wait_until("it is told", Duration::from_secs(30), || field.count("blat@site1", "committed") > 0);
        }
        let output = typed(&field.master, command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("$ {command}\n{said}{words}");
        assert!(output.status.success(), "{command}: {}\n{said}{words}", output.status);
        match command.split(' ').next() {
            Some("systemctl") => assert!(said.contains("connected since"), "{said}"),
            Some("journalctl") => assert!(said.contains("committed core_devl/2.72.0"), "{said}"),
            _ => {}
        }
    }
    trust_host(&field.master, &field.site);
    field.assert_equal("site1", SOURCE, &[("core_devl".into(), "2.72.0".into())]);
    field.assert_no_failed_unit();
    let agent = field.master.sh("systemctl show -P MainPID blat@site1");
    let status = field.master.sh(&format!("cat /proc/{agent}/status"));
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size").trim().to_owned();
    println!("the agent is resident with {resident}");
    let kib: u64 = resident.trim_end_matches(" kB").parse().expect("a number");
    assert!(kib <= AGENT_MAX_KIB, "the agent is resident with {resident}");
    // What is done already is left as it is, and no password is asked for.
    let file = "/etc/blat/targets/site1.toml";
    let before = field.master.sh(&format!("cat {file}"));
    let again = field.master.run(&["blat", "enroll", "site1", &format!("{TRANSFER_USER}@site1.example.org")]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(field.master.sh(&format!("cat {file}")), before);
}
