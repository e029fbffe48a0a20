//! Who asks: the credentials that systemd loaded, or the file that the settings name, or what the
//! usual chain of AWS finds (environment, profile, web identity, container, machine).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_s3::config::SharedCredentialsProvider;

use crate::config::{S3, TargetName};
use crate::failure::{Failure, Result};

/// The name of the systemd credential.
const CREDENTIAL: &str = "s3";
/// What the units load where the file is missing.
const MISSING: &[u8] = b"missing";

/// The provider of a file's credentials; `None` where the usual chain is to be asked.
///
/// # Errors
/// When a file was named and is not there, or cannot be read.
pub(super) fn of_file(
    name: &TargetName,
    settings: &S3,
    config: &ProviderConfig,
) -> Result<Option<SharedCredentialsProvider>> {
    let Some(file) = file(name, settings)? else { return Ok(None) };
    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file).build();
    let provider = ProfileFileCredentialsProvider::builder()
        .configure(config)
        .profile_files(files)
        .profile_name("default")
        .build();
    Ok(Some(SharedCredentialsProvider::new(provider)))
}

/// Whether the usual chain is asked, whose answer depends on who asks.
pub fn asks_the_environment(name: &TargetName, settings: &S3) -> bool {
    matches!(file(name, settings), Ok(None))
}

fn file(name: &TargetName, settings: &S3) -> Result<Option<PathBuf>> {
    let loaded = libsystemd::credentials::CredentialsLoader::path_from_env();
    let loaded = loaded.map(|folder| folder.join(CREDENTIAL)).filter(|file| file.exists());
    let file = loaded.unwrap_or_else(|| settings.credentials.clone());
    match fs::read(&file) {
        Ok(content) if content.trim_ascii() != MISSING => {
            has_keys(&content, &settings.credentials)?;
            Ok(Some(file))
        }
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(unreadable(&file, &why)),
        _ if settings.has_default_credentials(name) => Ok(None),
        _ => Err(Failure::person(anyhow!(
            "there are no credentials at {}, which s3.credentials names: {}",
            settings.credentials.display(),
            FORM
        ))),
    }
}

const FORM: &str = "put a file there with the lines `[default]`, `aws_access_key_id = …` and \
                    `aws_secret_access_key = …`, owned by root, mode 0600";

fn has_keys(content: &[u8], source: &Path) -> Result<()> {
    let text = String::from_utf8_lossy(content);
    if text.lines().any(|line| line.trim() == "[default]") {
        return Ok(());
    }
    Err(Failure::person(anyhow!("{} is no credentials file of AWS: {FORM}", source.display())))
}

fn unreadable(file: &Path, why: &std::io::Error) -> Failure {
    Failure::person(anyhow!(
        "cannot read the credentials {}: {why}; the units read them by systemd's hand, and by hand root does",
        file.display()
    ))
}
