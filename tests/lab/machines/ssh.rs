//! What an administrator does by hand before the first transfer: a key for a target, the target's
//! consent to it, and the target's host key.

use std::fs;

use super::image::TRANSFER_USER;
use super::machine::Machine;

/// The private key of `target` on the master.
pub fn key_path(target: &str) -> String {
    format!("/etc/blat/keys/{target}")
}

/// The host keys that the master trusts.
pub const KNOWN_HOSTS: &str = "/etc/blat/known_hosts";

/// Lets root of `master` log in on `target` as [`TRANSFER_USER`]: with the key of [`key_path`],
/// under the host name that is the target's name, checked against [`KNOWN_HOSTS`].
///
/// # Panics
/// When a machine is off, or there is a key for the target already.
#[track_caller]
pub fn authorize(master: &Machine, target: &Machine) {
    let name = target.name();
    let key = key_path(name);
    master.sh(&format!(
        "install -d -m 0755 /etc/blat
         install -d -m 0700 /etc/blat/keys
         ssh-keygen -q -t ed25519 -N '' -C blat@{name} -f {key}"
    ));
    let public = fs::read_to_string(master.file(&format!("{key}.pub"))).expect("just made");
    accept_key(target, &public);
    trust_host(master, target);
}

/// Adds a public key to those that may log in on `target` as [`TRANSFER_USER`]. The line may begin
/// with options, such as a forced command.
#[track_caller]
pub fn accept_key(target: &Machine, line: &str) {
    let line = line.trim();
    target.as_user(
        TRANSFER_USER,
        &format!(
            "install -d -m 0700 ~/.ssh
             echo '{line}' >>~/.ssh/authorized_keys
             chmod 0600 ~/.ssh/authorized_keys"
        ),
    );
}

/// Writes the host key of `target` to the master's [`KNOWN_HOSTS`], in place of an older one.
#[track_caller]
pub fn trust_host(master: &Machine, target: &Machine) {
    let name = target.name();
    let path = target.file("/etc/ssh/ssh_host_ed25519_key.pub");
    let public = fs::read_to_string(path).expect("every machine has a host key");
    let key: Vec<&str> = public.split_whitespace().take(2).collect();
    let known = fs::read_to_string(master.file(KNOWN_HOSTS)).unwrap_or_default();
    let others = known.lines().filter(|line| !line.starts_with(&format!("{name} ")));
    let mut lines: String = others.map(|line| format!("{line}\n")).collect();
    lines += &format!("{name} {}\n", key.join(" "));
    master.write(KNOWN_HOSTS, lines, 0o644);
}
