//! A bucket: whether its server answers, takes the credentials, and lets them list what is there.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use blat_target::message;

use super::{Finding, Mend};
use crate::bucket::{self, Bucket};
use crate::config::{S3, TargetName};
use crate::failure::{Failure, Result};

/// Longer than a server is asked again that cannot be reached: then the answer says why.
const LIMIT: Duration = Duration::from_secs(90);

/// By the credentials that the settings name. `uploads` is where a run notes what it has begun.
pub async fn look(name: &TargetName, settings: &S3, uploads: &Path) -> Finding {
    let asked = async { Bucket::open(name, settings, uploads).await?.reach().await };
    let asked = tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| late(settings));
    finding(name, settings, asked)
}

fn late(settings: &S3) -> Result<()> {
    let (bucket, limit) = (&settings.bucket, LIMIT.as_secs());
    Err(Failure::later(anyhow!("nothing was heard of the bucket {bucket} in {limit} s")))
}

fn finding(name: &TargetName, settings: &S3, asked: Result<()>) -> Finding {
    // A run is the user blat's, and has the environment of its unit: who asks here can only say so.
    let whose = if bucket::asks_the_environment(name, settings) {
        format!(
            "\nthat is by what root's own environment has, for there is no {}; the units have theirs, \
             and may find others or none",
            settings.credentials.display()
        )
    } else {
        String::new()
    };
    let failure = match asked {
        Ok(()) => {
            return Finding::fine("bucket", format_args!("{} can be listed{whose}", settings.bucket));
        }
        Err(failure) => failure,
    };
    let mend = match failure.mend {
        // What that is, a refusal says itself.
        message::Mend::Person => format!("do what that says, then: blat doctor {name}"),
        message::Mend::Later => {
            "look after the server and the network between; what failed is tried again by itself".to_owned()
        }
    };
    Finding::wrong("bucket", format_args!("{failure}{whose}"), Mend::Words(mend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    /// What is found of a bucket with these settings besides.
    fn found(more: &str, asked: Result<()>) -> String {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc/blat/targets");
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!("source = \"/srv/a\"\nkind = \"s3\"\ns3.bucket = \"packages\"\n{more}");
        std::fs::write(folder.join("no-such-bucket.toml"), text).unwrap();
        let name = "no-such-bucket".parse().unwrap();
        let settings = Settings::load_live(root.path(), &name).unwrap();
        finding(&name, settings.destination.bucket().unwrap(), asked).to_string()
    }

    #[test]
    fn a_bucket_without_a_credentials_file_is_told_as_what_root_sees() {
        let whose =
            "by what root's own environment has, for there is no /etc/blat/keys/no-such-bucket; the units";
        let text = found("", Ok(()));
        assert!(text.starts_with("  ok ") && text.contains(whose), "{text}");
        let text = found("", Err(Failure::person(anyhow!("there are no credentials"))));
        assert!(text.starts_with("  WRONG ") && text.contains(whose), "{text}");
        let text = found("s3.credentials = \"/dev/null\"\n", Ok(()));
        assert!(!text.contains("environment"), "{text}");
    }

    #[test]
    fn what_a_server_says_is_told_as_a_whole() {
        let said = "cannot list; it says: a; b: put a key there";
        let text = found("s3.credentials = \"/dev/null\"\n", Err(Failure::person(anyhow!(said))));
        assert!(text.lines().next().unwrap().ends_with(said), "{text}");
        assert!(text.ends_with("do what that says, then: blat doctor no-such-bucket\n"), "{text}");
    }
}
