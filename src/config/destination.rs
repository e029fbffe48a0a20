//! Where a target is: an archive that ssh reaches, or a bucket. Each has keys of its own, and those
//! of the other are refused in its file.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::aging::{Aging, AgingMode};
use super::keys::{self, KEYS};
use super::layer::{Document, Layer};
use super::name::TargetName;
use super::problem::{Problem, Problems};
use super::settings::{built_in, or, path, required};
use super::size::Size;
use super::value::{
    AtOnce, BucketName, Calendar, Encryption, Endpoint, Host, OneWord, Prefix, RemoteBin, RemotePath, User,
};
use crate::memory;

/// What kind of place a target is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Ssh,
    S3,
}

/// The place, with all that it takes to reach it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Destination {
    /// An archive on another machine.
    Ssh(SshTarget),
    /// A bucket of ZIP files.
    S3(S3Target),
}

/// An archive on another machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SshTarget {
    pub ssh: Ssh,
    #[serde(rename = "target")]
    pub there: There,
}

/// How the target is reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ssh {
    pub host: Host,
    pub port: u16,
    pub user: User,
    /// The private key on this machine, readable by root alone: the agent gets it as a credential.
    pub identity: PathBuf,
    pub known_hosts: PathBuf,
    /// At most so much a second goes to the target; none for as fast as the line is.
    pub bandwidth: Size,
    /// At most so many connections at a time: more than one where the window of one cannot fill the line.
    pub connections: AtOnce,
    /// The most memory that a run takes on this machine to send packages.
    pub memory: Size,
}

/// What lies where on the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct There {
    pub archive: RemotePath,
    pub bin: RemoteBin,
    /// When the target makes its index.
    pub index_at: Calendar,
    /// When the target deletes what is marked for long enough.
    pub purge_at: Calendar,
    /// The most memory that receiving packages takes there.
    pub memory: Size,
    /// Whether files that are the same in two versions of a package are hard links there.
    pub hard_links: bool,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct S3Target {
    pub s3: S3,
}

/// Which bucket, and how it is reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct S3 {
    pub bucket: BucketName,
    /// What the keys of all objects begin with: nothing, or a text that ends in a slash.
    pub prefix: Prefix,
    /// The server's address; empty for the one of AWS.
    pub endpoint: Endpoint,
    /// Empty for what the environment says.
    pub region: OneWord,
    /// Whether the bucket stands in the path of the address, not in its host's name.
    pub path_style: bool,
    /// Empty for the bucket's own.
    pub storage_class: OneWord,
    /// What the server is asked to encrypt with.
    pub encryption: Encryption,
    /// The key for it, where it takes one; empty for the bucket's own.
    pub kms_key: OneWord,
    /// A credentials file in the form of AWS, readable by root alone: the units get it as a credential.
    pub credentials: PathBuf,
    /// How many packages are packed and uploaded at a time.
    pub uploads: AtOnce,
}

/// The host, or the bucket.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh(target) => write!(f, "{}", target.ssh.host),
            Self::S3(target) => {
                write!(f, "bucket {} at {}", target.s3.bucket, target.s3.endpoint.address().unwrap_or("AWS"))
            }
        }
    }
}

impl Destination {
    /// The settings that ssh takes, if this is reached by it.
    pub fn ssh(&self) -> Option<&SshTarget> {
        match self {
            Self::Ssh(target) => Some(target),
            Self::S3(_) => None,
        }
    }

    /// The bucket, if this is one.
    pub fn bucket(&self) -> Option<&S3> {
        match self {
            Self::Ssh(_) => None,
            Self::S3(target) => Some(&target.s3),
        }
    }

    /// Refuses what only a target with a purge of its own can do.
    pub(super) fn refuse_aging(
        &self,
        aging: &Aging,
        target: &Document,
        defaults: Option<&Document>,
    ) -> Result<(), Problem> {
        if self.bucket().is_none() || aging.mode != AgingMode::Target {
            return Ok(());
        }
        let key = "aging.mode";
        let whose = [Some(target), defaults].into_iter().flatten().find(|it| it.place_of(key).is_some());
        let whose = whose.unwrap_or(target);
        let problem = Problem::of_file(&whose.file, "a bucket has no purge of its own").about(key);
        let mend = format!("give \"none\", \"immediate\" or \"master\" in {}", target.file.display());
        Err(problem.at(whose.place_of(key)).mend(mend))
    }

    /// Merges a target's file over the defaults.
    pub(super) fn merge(
        name: &TargetName,
        target: &Document,
        defaults: Option<&Document>,
    ) -> Result<Self, Problems> {
        let none = Layer::default();
        let (own, general) = (&target.layer, defaults.map_or(&none, |document| &document.layer));
        let kind = own.kind.unwrap_or_default();
        refuse_others_keys(kind, target)?;
        Ok(match kind {
            Kind::Ssh => {
                let host = required(own.ssh.host.clone(), "ssh.host", &target.file)?;
                let ssh = Ssh::merge(name, host, own, general);
                Self::Ssh(SshTarget { ssh, there: There::merge(own, general) })
            }
            Kind::S3 => {
                let bucket = required(own.s3.bucket.clone(), "s3.bucket", &target.file)?;
                Self::S3(S3Target { s3: S3::merge(name, bucket, own, general) })
            }
        })
    }
}

/// Refuses, in a target's own file, the keys of the kind that it is not.
fn refuse_others_keys(kind: Kind, target: &Document) -> Result<(), Problems> {
    let (named, tables): (_, &[&str]) = match kind {
        Kind::Ssh => ("ssh", &["s3"]),
        Kind::S3 => ("s3", &["ssh", "target"]),
    };
    let of_other = |path: &str| path.split_once('.').is_some_and(|(table, _)| tables.contains(&table));
    let found = KEYS.iter().filter(|key| of_other(key.path));
    let refused = found.filter_map(|key| {
        let place = target.place_of(key.path)?;
        let problem =
            Problem::of_file(&target.file, format!("a target of kind \"{named}\" does not have it"));
        Some(problem.about(key.path).at(Some(place)).mend(other_kind(kind)))
    });
    let problems: Vec<Problem> = refused.collect();
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

fn other_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Ssh => "take it away, or say kind = \"s3\" in the first lines",
        Kind::S3 => "take it away, or say kind = \"ssh\"",
    }
}

impl Ssh {
    fn merge(name: &TargetName, host: Host, own: &Layer, general: &Layer) -> Self {
        let (own, general) = (&own.ssh, &general.ssh);
        Self {
            host,
            port: own.port.or(general.port).unwrap_or(22),
            user: or(&own.user, &general.user, || built_in("pkgadmin")),
            identity: path(&own.identity, &general.identity, "/etc/blat/keys/{target}", name),
            known_hosts: path(&own.known_hosts, &general.known_hosts, "/etc/blat/known_hosts", name),
            bandwidth: own.bandwidth.or(general.bandwidth).unwrap_or(Size::NONE),
            connections: own.connections.or(general.connections).unwrap_or_default(),
            memory: own.memory.or(general.memory).unwrap_or(Size::of_bytes(memory::HERE)),
        }
    }
}

/// Each day, and each Monday.
const INDEX_AT: &str = "*-*-* 03:00:00";
const PURGE_AT: &str = "Mon *-*-* 06:00:00";

impl There {
    /// Whether the target makes its index and purges when targets usually do.
    pub fn has_usual_times(&self) -> bool {
        self.index_at.to_string() == INDEX_AT && self.purge_at.to_string() == PURGE_AT
    }

    fn merge(own: &Layer, general: &Layer) -> Self {
        let (own, general) = (&own.target, &general.target);
        Self {
            archive: or(&own.archive, &general.archive, || built_in("dpkg_archive")),
            bin: or(&own.bin, &general.bin, || built_in("bin")),
            index_at: or(&own.index_at, &general.index_at, || built_in(INDEX_AT)),
            purge_at: or(&own.purge_at, &general.purge_at, || built_in(PURGE_AT)),
            memory: own.memory.or(general.memory).unwrap_or(Size::of_bytes(memory::THERE)),
            hard_links: own.hard_links.or(general.hard_links).unwrap_or(false),
        }
    }
}

impl S3 {
    fn merge(name: &TargetName, bucket: BucketName, own: &Layer, general: &Layer) -> Self {
        let (own, general) = (&own.s3, &general.s3);
        let word = |own: &Option<OneWord>, general: &Option<OneWord>| or(own, general, || built_in(""));
        Self {
            bucket,
            prefix: or(&own.prefix, &general.prefix, || built_in("")),
            endpoint: or(&own.endpoint, &general.endpoint, || built_in("")),
            region: word(&own.region, &general.region),
            path_style: own.path_style.or(general.path_style).unwrap_or(false),
            storage_class: word(&own.storage_class, &general.storage_class),
            encryption: own.encryption.or(general.encryption).unwrap_or(Encryption::Bucket),
            kms_key: word(&own.kms_key, &general.kms_key),
            credentials: path(&own.credentials, &general.credentials, "/etc/blat/keys/{target}", name),
            uploads: own.uploads.or(general.uploads).unwrap_or_default(),
        }
    }

    /// Whether the credentials file is the one that is looked for without being named.
    pub fn has_default_credentials(&self, name: &TargetName) -> bool {
        self.credentials == Path::new("/etc/blat/keys").join(name.as_str())
    }
}

impl Document {
    /// Refuses, in `blat.toml`, keys that would make all targets the same one.
    pub(super) fn refuse_own_keys(&self) -> Result<(), Problem> {
        for (key, message) in [
            ("kind", "no default for all targets"),
            ("ssh.host", "no default for all targets"),
            ("s3.bucket", "no default for all targets"),
        ] {
            if let Some(place) = self.place_of(key) {
                let problem = Problem::of_file(&self.file, message).about(key).at(Some(place));
                debug_assert!(keys::takes(key).is_some());
                return Err(problem.mend("give it in each target's file"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    fn settings(text: &str) -> Result<Settings, String> {
        let document = Document::parse(Path::new("/etc/blat/targets/b.toml"), text.into());
        let document = document.map_err(|problem| problem.to_string())?;
        Settings::merge(&"b".parse().unwrap(), &document, None).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_bucket_has_what_is_built_in() {
        let settings = settings("kind = 's3'\nsource = '/a'\ns3.bucket = 'ci'").unwrap();
        let s3 = settings.destination.bucket().unwrap();
        assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.path_style), ("ci", "", false));
        assert_eq!((s3.uploads.get(), s3.encryption), (4, Encryption::Bucket));
        assert!(s3.has_default_credentials(&settings.name));
        assert!(settings.destination.ssh().is_none());
    }

    #[test]
    fn keys_of_the_other_kind_are_refused_each_at_its_place() {
        let told =
            settings("kind = 's3'\nsource = '/a'\n[s3]\nbucket = 'b'\n[ssh]\nport = 2\n[target]\nbin = 'x'");
        let told = told.unwrap_err();
        let lines: Vec<&str> = told.lines().collect();
        assert!(
            lines[0].starts_with("/etc/blat/targets/b.toml:6:8: key `ssh.port`: a target of kind \"s3\"")
        );
        assert!(lines[1].starts_with("/etc/blat/targets/b.toml:8:7: key `target.bin`: "), "{told}");
        let told = settings("source = '/a'\nssh.host = 'h'\n[s3]\nbucket = 'b'").unwrap_err();
        assert!(told.starts_with("/etc/blat/targets/b.toml:4:10: key `s3.bucket`: a target of kind \"ssh\""));
    }

    #[test]
    fn a_bucket_without_a_name_and_bad_values_name_the_key() {
        let told = settings("kind = 's3'\nsource = '/a'").unwrap_err();
        assert!(told.contains("key `s3.bucket`: required"), "{told}");
        for (line, key) in [
            ("prefix = '/ci/'", "s3.prefix"),
            ("prefix = 'ci'", "s3.prefix"),
            ("endpoint = 'localhost:8333'", "s3.endpoint"),
            ("endpoint = 'http://h/path'", "s3.endpoint"),
            ("bucket = 'a/b'", "s3.bucket"),
            ("uploads = 0", "s3.uploads"),
            ("encryption = 'rot13'", "s3.encryption"),
            ("region = 'a b'", "s3.region"),
        ] {
            let told = settings(&format!("kind = 's3'\nsource = '/a'\n[s3]\n{line}")).unwrap_err();
            assert!(told.contains(":4:") && told.contains(&format!("key `{key}`: ")), "{told}");
        }
    }

    #[test]
    fn a_bucket_cannot_purge_by_itself() {
        let told =
            settings("kind = 's3'\nsource = '/a'\ns3.bucket = 'b'\naging.mode = 'target'").unwrap_err();
        assert!(told.contains(":4:14: key `aging.mode`: a bucket has no purge of its own"), "{told}");
    }

    #[test]
    fn what_is_each_targets_own_is_no_default() {
        let defaults = |text: &str| Document::defaults(Path::new("/etc/blat/blat.toml"), text.into());
        for (text, key) in
            [("kind = 's3'", "kind"), ("s3.bucket = 'b'", "s3.bucket"), ("ssh.host = 'h'", "ssh.host")]
        {
            let told = defaults(text).unwrap_err().to_string();
            assert!(told.contains(&format!("key `{key}`: no default for all targets")), "{told}");
        }
        defaults("[s3]\nendpoint = 'http://s3:8333'\nprefix = 'ci/'").unwrap();
    }
}
