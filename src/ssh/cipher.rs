//! Which cipher a connection should have.
//!
//! OpenSSH asks for ChaCha20 first. Where the processor has instructions for AES, AES-GCM takes less
//! than half of its time, on both sides. Only the order is ours: what the administrator's configuration
//! of ssh leaves out stays out, and if it puts another cipher first, that is what is asked for.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// What OpenSSH asks for first by itself, and what takes its place.
const USUAL: &str = "chacha20-poly1305@openssh.com";
const QUICK: [&str; 2] = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"];
/// How long ssh may take to say what its configuration is.
const PATIENCE: Duration = Duration::from_secs(2);

/// The option by which ssh, called with these arguments, gets a quicker cipher, if it can.
pub(super) async fn option(arguments: &[OsString]) -> Option<String> {
    if !has_aes() {
        return None;
    }
    let mut ssh = Command::new("ssh");
    ssh.arg("-G").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let said = timeout(PATIENCE, ssh.output()).await.ok()?.ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    quick_first(said.lines().find_map(|line| line.strip_prefix("ciphers "))?)
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

fn quick_first(ciphers: &str) -> Option<String> {
    let all: Vec<&str> = ciphers.trim().split(',').collect();
    if all.first() != Some(&USUAL) {
        return None;
    }
    let (quick, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|cipher| QUICK.contains(cipher));
    let option = || format!("Ciphers={}", [quick.as_slice(), &rest].concat().join(","));
    (!quick.is_empty()).then(option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_order_is_changed_and_nothing_is_added() {
        let usual = "chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com";
        let quick = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr";
        assert_eq!(quick_first(usual), Some(format!("Ciphers={quick}")));
        assert_eq!(quick_first("chacha20-poly1305@openssh.com,aes128-ctr"), None);
    }

    #[test]
    fn an_order_that_somebody_chose_stays() {
        assert_eq!(quick_first("aes256-ctr,chacha20-poly1305@openssh.com,aes128-gcm@openssh.com"), None);
    }
}
