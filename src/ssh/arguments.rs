//! What ssh is told on its command line, for each connection to a target.

use std::ffi::OsString;
use std::path::Path;

use super::Endpoint;

/// By what the target is to let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof<'a> {
    /// The target's own key, and nothing else: nobody is asked.
    Key(&'a Path),
    /// Whoever sits there: by their own keys or agent, or by a password that ssh asks for.
    Person,
}

/// Every option and the destination, in their order.
pub fn arguments(endpoint: &Endpoint, proof: Proof<'_>) -> Vec<OsString> {
    let mut options = vec![
        "StrictHostKeyChecking=yes".to_owned(),
        "ControlPersist=no".into(),
        "ForwardAgent=no".into(),
        "ForwardX11=no".into(),
        "ConnectTimeout=20".into(),
        "ServerAliveInterval=10".into(),
        "ServerAliveCountMax=3".into(),
        "LogLevel=ERROR".into(),
        format!("UserKnownHostsFile={}", quoted(&endpoint.known_hosts)),
    ];
    match proof {
        Proof::Key(key) => options.extend([
            "BatchMode=yes".into(),
            "IdentitiesOnly=yes".into(),
            "PreferredAuthentications=publickey".into(),
            format!("IdentityFile={}", quoted(key)),
        ]),
        Proof::Person => {
            options.push("PreferredAuthentications=publickey,keyboard-interactive,password".into());
        }
    }
    let mut arguments: Vec<OsString> = Vec::new();
    for option in options {
        arguments.extend(["-o".into(), option.into()]);
    }
    let (port, user) = (endpoint.port.to_string(), endpoint.user.as_str());
    arguments.extend(["-p", &port, "-l", user, "--", &endpoint.host].map(OsString::from));
    arguments
}

/// A path as one word of an ssh option, in which `%` starts a token.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display()).replace('%', "%%")
}
