//! The target's host key: trusted when a person has confirmed it, and then for good.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;

use anyhow::anyhow;

use super::{openssh, said};
use crate::failure::{Failure, Needs, Result};
use crate::places::replace;
use crate::ssh::Endpoint;

/// Sees to it that the host's key stands in the known_hosts file: the one of the fingerprint that was
/// given, or those that a person confirms.
pub(super) fn make_sure(endpoint: &Endpoint, given: Option<&str>) -> Result<()> {
    if is_known(endpoint)? {
        return Ok(());
    }
    let keys = ask_host(endpoint)?;
    let trusted = match given {
        Some(fingerprint) => {
            let matching: Vec<_> = keys.into_iter().filter(|key| key.fingerprint == fingerprint).collect();
            if matching.is_empty() {
                return Err(Failure::person(anyhow!("{} has no host key {fingerprint}", endpoint.host)));
            }
            matching
        }
        None => confirmed(endpoint, keys)?,
    };
    add(endpoint, &trusted)?;
    said(format_args!("{} knows {} now", endpoint.known_hosts.display(), endpoint.host));
    Ok(())
}

/// A host key as it stands in a known_hosts file, and as a person compares it.
struct HostKey {
    line: String,
    fingerprint: String,
    kind: String,
}

/// How the known_hosts file calls the host.
pub(crate) fn name(endpoint: &Endpoint) -> String {
    match endpoint.port {
        22 => endpoint.host.clone(),
        port => format!("[{}]:{port}", endpoint.host),
    }
}

/// Whether the known_hosts file has a key of the host.
pub(crate) fn is_known(endpoint: &Endpoint) -> Result<bool> {
    let file = endpoint.known_hosts.display().to_string();
    let found = openssh("ssh-keygen", &["-F", &name(endpoint), "-f", &file], "")?;
    Ok(found.status.success())
}

fn ask_host(endpoint: &Endpoint) -> Result<Vec<HostKey>> {
    let port = endpoint.port.to_string();
    let said = openssh("ssh-keyscan", &["-T", "20", "-p", &port, "--", &endpoint.host], "")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let lines: BTreeSet<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let keys: Vec<_> = lines.into_iter().map(fingerprint).collect::<Result<_>>()?;
    if keys.is_empty() {
        let words = String::from_utf8_lossy(&said.stderr);
        let last = words.lines().rfind(|line| !line.starts_with('#')).unwrap_or("it does not answer");
        return Err(Failure::later(anyhow!("cannot ask {} for its host key: {last}", endpoint.host)));
    }
    Ok(keys)
}

fn fingerprint(line: &str) -> Result<HostKey> {
    let said = openssh("ssh-keygen", &["-l", "-f", "-"], line)?;
    // BITS FINGERPRINT COMMENT (KIND)
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut words = text.split_whitespace();
    let (fingerprint, kind) = (words.nth(1), words.last());
    match (fingerprint, kind) {
        (Some(fingerprint), Some(kind)) if said.status.success() => Ok(HostKey {
            line: line.to_owned(),
            fingerprint: fingerprint.to_owned(),
            kind: kind.trim_matches(['(', ')']).to_owned(),
        }),
        _ => Err(Failure::later(anyhow!("the target sent a host key that cannot be read: {line}"))),
    }
}

fn confirmed(endpoint: &Endpoint, keys: Vec<HostKey>) -> Result<Vec<HostKey>> {
    println!("{} shows these host keys:", endpoint.host);
    for key in &keys {
        println!("    {:<8} {}", key.kind, key.fingerprint);
    }
    println!("On the target itself, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints the true one.");
    print!("Is that your target? Type yes: ");
    io::stdout().flush().later("cannot ask")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).later("cannot read the answer")?;
    match answer.trim() {
        "yes" => Ok(keys),
        _ => Err(Failure::person(anyhow!("the host key was not confirmed, and nothing was changed"))),
    }
}

fn add(endpoint: &Endpoint, keys: &[HostKey]) -> Result<()> {
    let path = &endpoint.known_hosts;
    let attempt = || format!("cannot write {}", path.display());
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
        Err(why) => return Err(why).person(attempt()),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for key in keys {
        text += &format!("{}\n", key.line);
    }
    replace(path, text.as_bytes()).person(attempt())?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).person(attempt())
}
