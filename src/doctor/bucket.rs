//! A bucket: whether its server answers, takes the credentials, and lets them list what is there.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use blat_target::message;

use super::{Finding, Mend};
use crate::bucket::Bucket;
use crate::config::{S3, TargetName};
use crate::failure::{Failure, Result};

/// Longer than a server is asked again that cannot be reached: then the answer says why.
const LIMIT: Duration = Duration::from_secs(90);

/// By the credentials that the settings name. `uploads` is where a run notes what it has begun.
pub async fn look(name: &TargetName, settings: &S3, uploads: &Path) -> Finding {
    let asked = async { Bucket::open(name, settings, uploads).await?.reach().await };
    let asked = tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| late(settings));
    match asked {
        Ok(()) => Finding::fine("bucket", format_args!("{} can be listed", settings.bucket)),
        Err(failure) => wrong(name, &failure),
    }
}

fn late(settings: &S3) -> Result<()> {
    let (bucket, limit) = (&settings.bucket, LIMIT.as_secs());
    Err(Failure::later(anyhow!("nothing was heard of the bucket {bucket} in {limit} s")))
}

/// What mends a refusal stands at its end.
fn wrong(name: &TargetName, failure: &Failure) -> Finding {
    let text = failure.to_string();
    let (is, mend) = match text.rsplit_once("; ") {
        Some((is, mend)) if failure.mend == message::Mend::Person => (is, mend.to_owned()),
        _ if failure.mend == message::Mend::Person => (text.as_str(), format!("then: blat doctor {name}")),
        _ => (
            text.as_str(),
            "look after the server and the network between; what failed is tried again by itself".to_owned(),
        ),
    };
    Finding::wrong("bucket", is, Mend::Words(mend))
}
