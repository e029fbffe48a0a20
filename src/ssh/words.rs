//! What ssh's words mean. ssh has one exit code (255) for all that can go wrong with a
//! connection; the reason stands only in its English, so it is read here and nowhere else.

use blat_target::message::Mend;

use crate::failure::Failure;

/// What is wrong between here and the target, as far as something can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    HostKeyChanged,
    HostKeyUnknown,
    /// The key file is no use to ssh.
    KeyUnusable,
    KeyRefused,
    NoName,
    NobodyListens,
    Other,
}

/// What ssh's words mean; found in a failure's cause.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Meaning {
    pub why: Why,
    text: &'static str,
}

/// ssh's words, what they mean to a person, and what mends it.
const MEANINGS: &[(&str, Mend, Why, &str)] = &[
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        Mend::Person,
        Why::HostKeyChanged,
        "the target's host key is not the known one: find out why, then correct the known_hosts file",
    ),
    (
        "host key is known for",
        Mend::Person,
        Why::HostKeyUnknown,
        "the target's host key is not known: add it to the known_hosts file",
    ),
    (
        "Host key verification failed",
        Mend::Person,
        Why::HostKeyUnknown,
        "the target's host key is not known, or is not the known one: see the known_hosts file",
    ),
    (
        "UNPROTECTED PRIVATE KEY FILE",
        Mend::Person,
        Why::KeyUnusable,
        "others can read the private key, so ssh does not use it: chmod 0600 the key file",
    ),
    ("invalid format", Mend::Person, Why::KeyUnusable, "the private key file holds no key that ssh can read"),
    (
        "error in libcrypto",
        Mend::Person,
        Why::KeyUnusable,
        "the private key file holds no key that ssh can read",
    ),
    (
        "Permission denied (",
        Mend::Person,
        Why::KeyRefused,
        "the target refuses the key: add the public key to the transfer user's authorized_keys there",
    ),
    ("Too many authentication failures", Mend::Person, Why::KeyRefused, "the target refuses the key"),
    ("Bad configuration option", Mend::Person, Why::Other, "ssh does not take its configuration"),
    ("Could not resolve hostname", Mend::Later, Why::NoName, "the target's host name cannot be resolved"),
    ("Connection refused", Mend::Later, Why::NobodyListens, "nothing listens on the target's ssh port"),
    ("timed out", Mend::Later, Why::Other, "the target does not answer"),
    ("not responding", Mend::Later, Why::Other, "the target stopped answering"),
    ("No route to host", Mend::Later, Why::Other, "there is no route to the target"),
    ("Network is unreachable", Mend::Later, Why::Other, "the network is unreachable"),
    ("Connection closed by", Mend::Later, Why::Other, "the target closed the connection"),
    ("Connection reset", Mend::Later, Why::Other, "the target closed the connection"),
    ("Broken pipe", Mend::Later, Why::Other, "the connection broke"),
];

/// The failure that `words` of ssh speak of; what is not known may pass with time.
pub(super) fn failure(words: &str) -> Failure {
    let words = words.trim();
    let said = anyhow::anyhow!("ssh said: {}", last_line(words));
    match MEANINGS.iter().find(|(sign, ..)| words.contains(sign)) {
        Some(&(_, mend, why, text)) => Failure { mend, cause: said.context(Meaning { why, text }) },
        None if words.is_empty() => Failure::later(anyhow::anyhow!("ssh ended without a word")),
        None => Failure::later(said),
    }
}

fn last_line(words: &str) -> &str {
    words.lines().last().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{EXIT_LATER, EXIT_PERSON};

    fn meaning(words: &str) -> (u8, String) {
        let failure = failure(words);
        (failure.exit_code(), failure.to_string())
    }

    #[test]
    fn what_only_a_person_mends_is_told_apart_from_what_passes() {
        let person = [
            "pkgadmin@site1: Permission denied (publickey,password).",
            "No ED25519 host key is known for site1 and you have requested strict checking.\r\nHost key verification failed.",
            "@@@@@\r\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nHost key verification failed.",
            "Load key \"/k\": invalid format\r\npkgadmin@site1: Permission denied (publickey).",
        ];
        let later = [
            "ssh: connect to host site1 port 22: Connection refused",
            "ssh: connect to host site1 port 22: Connection timed out",
            "ssh: connect to host site1 port 22: No route to host",
            "ssh: Could not resolve hostname site1: Name or service not known",
            "Timeout, server site1 not responding.",
            "kex_exchange_identification: Connection closed by remote host",
            "",
        ];
        for words in person {
            assert_eq!(meaning(words).0, EXIT_PERSON, "{words}");
        }
        for words in later {
            assert_eq!(meaning(words).0, EXIT_LATER, "{words}");
        }
    }

    #[test]
    fn the_reason_names_the_mend_and_what_ssh_said() {
        let (_, text) = meaning("x\r\npkgadmin@site1: Permission denied (publickey).");
        assert!(text.contains("authorized_keys") && text.contains("pkgadmin@site1"), "{text}");
    }
}
