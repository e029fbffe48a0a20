//! The text of a drop-in: only what differs from the template, escaped for unit files.
//!
//! The templates have the built-in values, so most targets need no drop-in at all, and the manager
//! reads few files for many targets.

use std::path::Path;

use crate::config::{Destination, Period, S3, Settings, TargetName, Verbosity};

/// A unit's drop-in, section by section. Empty as long as nothing differs.
#[derive(Default)]
pub(super) struct DropIn {
    sections: Vec<(&'static str, Vec<String>)>,
}

impl DropIn {
    fn section(&mut self, name: &'static str, lines: Vec<String>) {
        if !lines.is_empty() {
            self.sections.push((name, lines));
        }
    }

    /// The text, or `None` when the template says it all.
    pub(super) fn text(&self) -> Option<String> {
        let section = |(name, lines): &(&str, Vec<String>)| format!("[{name}]\n{}\n", lines.join("\n"));
        let body: Vec<String> = self.sections.iter().map(section).collect();
        (!body.is_empty())
            .then(|| format!("# Made by blat-generator from the target's settings.\n{}", body.join("\n")))
    }
}

/// A path as it stands in a unit file where the rest of the line is the value.
fn whole_line(path: &Path) -> String {
    path.to_string_lossy().replace('%', "%%")
}

/// A path as one of several words, with `-` in front: it may be missing.
fn optional_word(path: &Path) -> String {
    let text = whole_line(path);
    if text.contains([' ', '"', '\'', ';']) {
        return format!("\"-{}\"", text.replace('"', "\\\""));
    }
    format!("-{text}")
}

/// The slice, where the name has a dash: that would nest the slice below another target's.
fn slice(name: &TargetName) -> Option<String> {
    let name = name.as_str();
    name.contains('-').then(|| format!("Slice=blat-{}.slice", name.replace('-', "\\x2d")))
}

fn has_default_directory(settings: &Settings) -> bool {
    settings.tags.directory == Path::new("/var/lib/blat/tags").join(settings.name.as_str())
}

/// For `blat@NAME.service`: its slice and its key.
pub(super) fn agent(settings: &Settings) -> DropIn {
    let mut lines: Vec<String> = slice(&settings.name).into_iter().collect();
    match &settings.destination {
        // What the template loads is the bucket's credentials then, which the agent does not need.
        Destination::S3(_) => lines.push("LoadCredential=".into()),
        Destination::Ssh(target) => {
            let identity = &target.ssh.identity;
            if *identity != Path::new("/etc/blat/keys").join(settings.name.as_str()) {
                lines.push(format!("LoadCredential=identity:{}", whole_line(identity)));
            }
        }
    }
    let mut drop_in = DropIn::default();
    drop_in.section("Service", lines);
    drop_in
}

/// For `blat@NAME.socket`: its slice.
pub(super) fn socket(settings: &Settings) -> DropIn {
    let mut drop_in = DropIn::default();
    drop_in.section("Socket", slice(&settings.name).into_iter().collect());
    drop_in
}

/// For `blat-tags@NAME.path`: its directory. The empty assignment takes the template's paths away,
/// the agent's trigger with them.
pub(super) fn path(settings: &Settings) -> DropIn {
    let mut drop_in = DropIn::default();
    if !has_default_directory(settings) {
        let directory = whole_line(&settings.tags.directory);
        drop_in.section(
            "Path",
            vec![
                "DirectoryNotEmpty=".into(),
                format!("DirectoryNotEmpty={directory}"),
                "PathChanged=/run/blat/%i/transfer".into(),
            ],
        );
    }
    drop_in
}

/// For `blat-tag@.service`: tag directories of all targets that lie elsewhere.
pub(super) fn tag_lines(targets: &[Settings]) -> DropIn {
    let elsewhere = targets.iter().filter(|settings| !has_default_directory(settings));
    let line = |settings: &Settings| format!("ReadWritePaths={}", optional_word(&settings.tags.directory));
    let mut drop_in = DropIn::default();
    drop_in.section("Service", elsewhere.map(line).collect());
    drop_in
}

/// For `blat-tags@NAME.timer`: its period, and a tenth of it as accuracy.
pub(super) fn timer(settings: &Settings) -> DropIn {
    let poll = settings.tags.poll.as_secs();
    let mut drop_in = DropIn::default();
    if poll != DEFAULT_POLL.as_secs() {
        let accuracy = (poll.saturating_mul(100)).clamp(100, 60_000);
        drop_in.section(
            "Timer",
            vec![
                "OnActiveSec=".into(),
                format!("OnActiveSec={poll}s"),
                format!("OnUnitInactiveSec={poll}s"),
                format!("AccuracySec={accuracy}ms"),
            ],
        );
    }
    drop_in
}

const DEFAULT_POLL: Period = Period::seconds(5);

/// For `blat-transfer@NAME.service`: its slice, the directory of its tags, how much it may say.
pub(super) fn transfer(settings: &Settings) -> DropIn {
    let mut drop_in = DropIn::default();
    let mut service: Vec<String> = slice(&settings.name).into_iter().collect();
    if matches!(settings.verbosity, Verbosity::Debug | Verbosity::Trace) {
        service.push("LogLevelMax=debug".into());
    }
    if !has_default_directory(settings) {
        let directory = &settings.tags.directory;
        drop_in.section(
            "Unit",
            vec![
                // The empty assignment takes all conditions away, of every kind.
                "ConditionDirectoryNotEmpty=".into(),
                format!("ConditionDirectoryNotEmpty=|{}", whole_line(directory)),
                "ConditionPathExists=|/run/blat/%i/transfer".into(),
            ],
        );
        service.push("ReadWritePaths=".into());
        service.push(format!("ReadWritePaths={} -/run/blat/%i", optional_word(directory)));
    }
    if let Destination::S3(target) = &settings.destination {
        service.extend(bucket_credentials(&target.s3));
        // The agent holds no connection to a bucket: this goes there by itself.
        service.push("RestrictAddressFamilies=AF_INET AF_INET6".into());
        service.push("IPAddressDeny=".into());
    }
    drop_in.section("Service", service);
    drop_in
}

/// The credentials of a bucket. A file that is missing must not keep the service from telling so,
/// and the usual chain of AWS may have others.
fn bucket_credentials(bucket: &S3) -> [String; 2] {
    ["SetCredential=s3:missing".into(), format!("LoadCredential=s3:{}", whole_line(&bucket.credentials))]
}

/// For `blat-sync@NAME.timer`: its period, and a tenth of it by which starts are spread.
pub(super) fn sync_timer(settings: &Settings) -> DropIn {
    let period = settings.sync.period.as_secs();
    let mut drop_in = DropIn::default();
    if period != DEFAULT_SYNC.as_secs() {
        let spread = (period / 10).min(3600);
        drop_in.section(
            "Timer",
            vec![
                "OnUnitInactiveSec=".into(),
                format!("OnActiveSec={}s", period.min(60)),
                format!("OnUnitInactiveSec={period}s"),
                format!("RandomizedDelaySec={spread}s"),
                format!("AccuracySec={}s", (period / 100).clamp(1, 60)),
            ],
        );
    }
    drop_in
}

const DEFAULT_SYNC: Period = Period::seconds(4 * 3_600);

/// For `blat-sync@NAME.service`: its slice, the database's password, how much it may say.
pub(super) fn sync(settings: &Settings) -> DropIn {
    let mut service: Vec<String> = slice(&settings.name).into_iter().collect();
    if matches!(settings.verbosity, Verbosity::Debug | Verbosity::Trace) {
        service.push("LogLevelMax=debug".into());
    }
    if let Some(password) = settings.release.password_file.path() {
        // One that is missing must not keep the service from telling so.
        service.push("SetCredential=release-password:missing".into());
        service.push(format!("LoadCredential=release-password:{}", whole_line(password)));
    }
    if let Destination::S3(target) = &settings.destination {
        service.extend(bucket_credentials(&target.s3));
    }
    let mut drop_in = DropIn::default();
    drop_in.section("Service", service);
    drop_in
}
