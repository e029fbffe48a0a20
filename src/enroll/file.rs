//! The target's file, which is written last: by it everything starts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::{Wish, said};
use crate::channel::over_ssh;
use crate::config::{Settings, folder::Folder};
use crate::failure::{Failure, Needs, Result};

/// A target's file, to be written or there already.
pub(super) struct File {
    path: PathBuf,
    shown: PathBuf,
    /// None where it is there already.
    text: Option<String>,
    settings: Settings,
}

impl File {
    /// The file for what is asked; one that is there has to be for the same target.
    pub(super) fn of(root: &Path, wish: &Wish) -> Result<Self> {
        let folder = Folder::live(root);
        let path = folder.target(&wish.name);
        let shown = folder.shown(&path);
        if path.exists() {
            let settings = Settings::load_live(root, &wish.name).person("the configuration is broken")?;
            let ssh = &over_ssh(&settings)?.ssh;
            let found = (ssh.user.as_str(), ssh.host.to_string(), ssh.port);
            if found != (wish.user.as_str(), wish.host.clone(), wish.port) {
                return Err(Failure::person(anyhow!(
                    "{} is for {}@{}, port {}: take another name, or change that file first",
                    shown.display(),
                    found.0,
                    found.1,
                    found.2
                )));
            }
            said(format_args!("{} is there already, and stays as it is", shown.display()));
            return Ok(Self { path, shown, text: None, settings });
        }
        let text = text(wish);
        let settings = Settings::would_be(root, &wish.name, text.clone());
        let settings = settings.person(
            "that cannot be a target (where source is missing: --source FOLDER, or `source` in /etc/blat/blat.toml)",
        )?;
        Ok(Self { path, shown, text: Some(text), settings })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The file by which the target is not to run, where it is not.
    pub(super) fn disabled_by(&self, root: &Path) -> Option<PathBuf> {
        if self.settings.enabled {
            return None;
        }
        let text = self.text.clone().map_or_else(|| fs::read_to_string(&self.path), Ok);
        let own = text.ok().and_then(|text| text.parse::<toml::Table>().ok());
        let folder = Folder::live(root);
        let says = own.is_some_and(|own| own.contains_key("enabled"));
        Some(if says { self.shown.clone() } else { folder.shown(&folder.defaults()) })
    }

    pub(super) fn write(&self) -> Result<()> {
        let Some(text) = &self.text else { return Ok(()) };
        let attempt = || format!("cannot write {}", self.shown.display());
        crate::places::replace(&self.path, text.as_bytes()).person(attempt())?;
        // Everyone's to read, whatever the umask: `blat status` is asked by others, too.
        fs::set_permissions(&self.path, PermissionsExt::from_mode(0o644)).person(attempt())?;
        said(format_args!("wrote {}", self.shown.display()));
        Ok(())
    }
}

fn text(wish: &Wish) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = "# Every key: man blat.toml, /usr/share/doc/blat/targets/example.toml\n".to_owned();
    if let Some(source) = &wish.source {
        text += &format!("source = {}\n", quoted(&source.to_string_lossy()));
    }
    text += &format!("\n[ssh]\nhost = {}\n", quoted(&wish.host));
    if wish.port != 22 {
        text += &format!("port = {}\n", wish.port);
    }
    if wish.user != "pkgadmin" {
        text += &format!("user = {}\n", quoted(&wish.user));
    }
    text
}
