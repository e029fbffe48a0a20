//! The target itself, by its own key over a connection of our own: whether it lets us in, and what the
//! helper there says of the archive, the clock and the space.

use std::time::{SystemTime, UNIX_EPOCH};

use blat_target::message::TargetHello;

use super::{Finding, Mend, Site};
use crate::channel::hello;
use crate::enroll::host_key;
use crate::failure::Failure;
use crate::helper::Helper;
use crate::session::Refused;
use crate::ssh::{Connection, Endpoint, Meaning, Proof, Why};

/// Clocks that differ by more make ages and journals misleading.
const CLOCK_MAX: u64 = 5;
const BYTES_MIN: u64 = 100 << 20;
const INODES_MIN: u64 = 1000;

pub(super) async fn look(site: Site<'_>, helper: &Helper) -> Vec<Finding> {
    let endpoint = Endpoint::of(&site.target.ssh);
    if !host_key::is_known(&endpoint).unwrap_or(false) {
        let is = format!("{} has no host key of {}", endpoint.known_hosts.display(), endpoint.host);
        return vec![Finding::wrong("host key", is, Mend::Here(site.enroll()))];
    }
    let mut found = vec![Finding::fine("host key", format_args!("of {} is known", endpoint.host))];
    match Connection::open(&endpoint, Proof::Key(&site.target.ssh.identity)).await {
        Ok(connection) => {
            found.push(Finding::fine("connection", format_args!("{}@{}", endpoint.user, endpoint.host)));
            found.extend(session(site, helper, &connection).await);
            connection.close().await;
        }
        Err(failure) => found.push(unreachable(site, &endpoint, &failure)),
    }
    found
}

fn unreachable(site: Site<'_>, endpoint: &Endpoint, failure: &Failure) -> Finding {
    let why = failure.cause.downcast_ref::<Meaning>().map(|meaning| meaning.why);
    let mend = match why {
        Some(Why::HostKeyChanged) => {
            let forget =
                format!("ssh-keygen -R {} -f {}", host_key::name(endpoint), endpoint.known_hosts.display());
            Mend::Words(format!("find out why; if that is right: {forget} && {}", site.enroll()))
        }
        Some(Why::KeyRefused | Why::KeyUnusable) => Mend::Here(site.enroll_key()),
        Some(Why::HostKeyUnknown) => Mend::Here(site.enroll()),
        Some(Why::NoName) => Mend::Words("correct ssh.host in the target's file, or the name service".into()),
        Some(Why::NobodyListens) => Mend::There("root".into(), "systemctl start ssh".into()),
        _ => Mend::Words(
            "look after the target and the network between; the agent tries again by itself".into(),
        ),
    };
    Finding::wrong("connection", failure, mend)
}

async fn session(site: Site<'_>, helper: &Helper, connection: &Connection) -> Vec<Finding> {
    match helper.look(connection, &site.target.there, hello(&site.target.there)).await {
        Ok(session) => {
            let mut found = vec![build(site, helper, &session.hello)];
            found.push(Finding::fine("archive", &site.target.there.archive));
            found.extend([clock(&session.hello), space(site, &session.hello)]);
            let _ = session.finish().await;
            found
        }
        Err(Refused::HelperMissing) => {
            vec![Finding::wrong("helper", "there is none on the target", Mend::Here(site.enroll()))]
        }
        Err(Refused::HelperBroken(words)) => {
            let is = format!("the one on the target cannot be run: {words}");
            vec![Finding::wrong("helper", is, Mend::Here(site.enroll()))]
        }
        Err(Refused::Failed(failure) | Refused::Declined(failure)) => vec![archive(site, &failure)],
    }
}

fn build(site: Site<'_>, helper: &Helper, hello: &TargetHello) -> Finding {
    if hello.build == helper.digest() {
        return Finding::fine("helper", format_args!("blat-target {}, this build", hello.version));
    }
    let is = format!("blat-target {} (build {}) is another build than this one", hello.version, hello.build);
    let mend = format!(
        "the next run replaces it, unless root's package owns it (update that) or the key is restricted \
         ({} --restrict --allow-replace)",
        site.enroll()
    );
    Finding::wrong("helper", is, Mend::Words(mend))
}

/// What keeps the helper from serving: as a rule, the archive.
fn archive(site: Site<'_>, failure: &Failure) -> Finding {
    let (path, words) = (site.target.there.archive.as_str(), failure.to_string());
    let user = site.target.ssh.user.to_string();
    let mend = if words.contains("there is no archive") {
        // Also where a link leads to nothing.
        Mend::There(user, format!("mkdir -p \"$(readlink -m {path})\""))
    } else if words.contains("write to the archive") {
        Mend::There("root".into(), format!("chown {user} ~{user}/{path}/. && chmod u+rwx ~{user}/{path}/."))
    } else {
        Mend::Words("see to what the target says".into())
    };
    Finding::wrong("archive", words, mend)
}

fn clock(hello: &TargetHello) -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    match hello.clock.abs_diff(now) {
        0..=CLOCK_MAX => Finding::fine("clock", "the same there and here"),
        apart => Finding::wrong(
            "clock",
            format_args!("it is {apart} s from ours"),
            Mend::There("root".into(), "timedatectl set-ntp true".into()),
        ),
    }
}

fn space(site: Site<'_>, hello: &TargetHello) -> Finding {
    let (bytes, inodes) = (hello.free_bytes, hello.free_inodes);
    let few = inodes > 0 && inodes < INODES_MIN;
    if bytes >= BYTES_MIN && !few {
        return Finding::fine("space", format_args!("{} MiB are free there", bytes >> 20));
    }
    let is = match few {
        true => format!("only {inodes} more files can be made there"),
        false => format!("{} MiB are free there", bytes >> 20),
    };
    let path = &site.target.there.archive;
    Finding::wrong("space", is, Mend::Words(format!("make room on the file system of {path} on the target")))
}
