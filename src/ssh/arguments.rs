//! What ssh is told on its command line, for each connection to a target.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

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
    if matches!(proof, Proof::Key(_)) && geteuid().is_root() {
        let home = User::from_name("blat").ok().flatten().map(|user| user.dir);
        arguments
            .extend(["-F".into(), configuration(home.as_deref(), Path::new("/etc/ssh/ssh_config")).into()]);
    }
    for option in options {
        arguments.extend(["-o".into(), option.into()]);
    }
    let (port, user) = (endpoint.port.to_string(), endpoint.user.as_str());
    arguments.extend(["-p", &port, "-l", user, "--", &endpoint.host].map(OsString::from));
    arguments
}

/// The file that ssh reads for the units' user, whose home this is: root's own is not to have a target succeed, or
/// fail, that does not for the units. (ssh takes one file by name: where that user has one, it is that.) Of a file
/// that it is told by name, ssh does not ask whose it is, though it may name programs: so it counts only where all
/// that leads to it is root's own.
fn configuration(home: Option<&Path>, of_all: &Path) -> PathBuf {
    let own = home.map(|home| home.join(".ssh/config")).filter(|file| is_roots(file));
    own.into_iter().chain([of_all.to_owned()]).find(|file| file.exists()).unwrap_or_else(|| "none".into())
}

/// Whether nobody but root can write the file, or put another in its place.
fn is_roots(file: &Path) -> bool {
    let safe = |path: &Path| {
        // The mode of a folder like /tmp lets nobody replace what is another's.
        path.symlink_metadata().is_ok_and(|found| {
            let others = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
            found.uid() == 0 && !others && !found.is_symlink()
        })
    };
    file.ancestors().all(safe)
}

/// A path as one word of an ssh option, in which `%` starts a token.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display()).replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_the_configuration_of_the_units_user() {
        let folder = tempfile::tempdir().unwrap();
        let (home, of_all) = (folder.path().join("home"), folder.path().join("ssh_config"));
        assert_eq!(configuration(Some(&home), &of_all), Path::new("none"));
        std::fs::write(&of_all, "").unwrap();
        assert_eq!(configuration(Some(&home), &of_all), of_all);
        std::fs::create_dir_all(home.join(".ssh")).unwrap();
        std::fs::write(home.join(".ssh/config"), "").unwrap();
        let own = home.join(".ssh/config");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(configuration(Some(&home), &of_all), own);
            std::os::unix::fs::chown(&own, Some(65534), None).unwrap();
        }
        assert_eq!(configuration(Some(&home), &of_all), of_all, "it is not root's");
        assert_eq!(configuration(None, &of_all), of_all);
    }
}
