//! What a server answers when it does not do what it is asked: as a failure that names bucket,
//! operation and mend.

use std::fmt;

use anyhow::anyhow;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use blat_target::message::Mend;

use super::Bucket;
use crate::failure::Failure;

/// What was asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    List,
    Get,
    Head,
    Put,
    Copy,
    Delete,
    Abort,
}

impl Operation {
    /// In the middle of a sentence.
    fn words(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Head => "look at",
            Self::Put => "put",
            Self::Copy => "copy to",
            Self::Delete => "delete",
            Self::Abort => "abort the upload of",
        }
    }

    /// The permission that it takes.
    fn permission(self) -> &'static str {
        match self {
            Self::List => "s3:ListBucket",
            // Without the second, what is missing is answered as if it was forbidden.
            Self::Get | Self::Head => "s3:GetObject and s3:ListBucket",
            Self::Put => "s3:PutObject",
            Self::Copy => "s3:GetObject and s3:PutObject",
            Self::Delete => "s3:DeleteObject",
            Self::Abort => "s3:AbortMultipartUpload",
        }
    }
}

/// What went wrong with one request.
#[derive(Debug)]
pub(super) enum Refused {
    /// What it is about is not there.
    Missing,
    /// Something else stands there than was expected.
    Changed,
    Failed(Failure),
    /// Nobody answered.
    Unanswered(Failure),
}

impl Refused {
    /// As a failure, where neither of the others is expected.
    pub(super) fn failure(self, bucket: &Bucket, operation: Operation, key: &str) -> Failure {
        let attempt = attempt(bucket, operation, key);
        match self {
            Self::Missing => Failure::later(anyhow!("{attempt}: it has vanished")),
            Self::Changed => Failure::later(anyhow!("{attempt}: somebody else changed it meanwhile")),
            Self::Failed(failure) | Self::Unanswered(failure) => failure,
        }
    }
}

fn attempt(bucket: &Bucket, operation: Operation, key: &str) -> String {
    let bucket = bucket.name();
    match operation {
        Operation::List => format!("cannot list the bucket {bucket}"),
        _ => format!("cannot {} {key} in the bucket {bucket}", operation.words()),
    }
}

/// What the server, or the way to it, said.
struct Said {
    status: u16,
    code: String,
    message: String,
    region: Option<String>,
}

/// Says what an error comes to.
pub(super) fn refused<E>(
    bucket: &Bucket,
    operation: Operation,
    key: &str,
    error: SdkError<E, HttpResponse>,
) -> Refused
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let attempt = attempt(bucket, operation, key);
    let Some(response) = error.raw_response() else {
        return Refused::Unanswered(unanswered(bucket, &attempt, &error));
    };
    let header = |name: &str| response.headers().get(name).map(str::to_owned);
    let said = Said {
        status: response.status().as_u16(),
        code: error.code().unwrap_or_default().to_owned(),
        message: error.message().unwrap_or_default().to_owned(),
        region: header("x-amz-bucket-region"),
    };
    match (said.status, said.code.as_str()) {
        (404, "NoSuchKey" | "NotFound" | "NoSuchUpload") => Refused::Missing,
        (404, "") if operation == Operation::Head => Refused::Missing,
        (412, _) | (409, "ConditionalRequestConflict") => Refused::Changed,
        _ => {
            let (mend, advice) = advice(bucket, operation, &said);
            let cause = anyhow!("{attempt}: {said}{advice}");
            Refused::Failed(Failure { mend, cause })
        }
    }
}

/// Who has to do what.
fn advice(bucket: &Bucket, operation: Operation, said: &Said) -> (Mend, String) {
    let settings = &bucket.0.settings;
    let credentials = settings.credentials.display();
    let person = |advice: String| (Mend::Person, format!("; {advice}"));
    match (said.status, said.code.as_str()) {
        (_, "NoSuchBucket") => person("make the bucket, or mend s3.bucket and s3.endpoint".into()),
        // AWS tells the region along with whatever it refuses, so that alone says nothing.
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken") => {
            person(format!("put the right key into {credentials}"))
        }
        (_, "AuthorizationHeaderMalformed") if !said.message.contains("region") => {
            person(format!("put the right key into {credentials}"))
        }
        (301 | 307, _)
        | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            let region = said.region.as_deref().map_or_else(String::new, |region| format!(" = \"{region}\""));
            person(format!("the bucket is in another region: set s3.region{region}"))
        }
        (_, "RequestTimeTooSkewed" | "RequestExpired") => {
            person("the clock of this machine, or of the server, is wrong: set it".into())
        }
        (403, _) => person(format!(
            "allow {} on {}/{}* to this key ({credentials}), and see whether the bucket's policy refuses it",
            operation.permission(),
            settings.bucket,
            settings.prefix
        )),
        (_, code) if code.starts_with("KMS.") => {
            person("mend s3.encryption and s3.kms_key, or allow this key to use that one".into())
        }
        (_, "InvalidStorageClass") => person("mend s3.storage_class".into()),
        (501, _) | (_, "NotImplemented") => person(
            "the server does not know this part of S3, and blat cannot do without it: see blat.toml(5)"
                .into(),
        ),
        // What was sent came too slowly.
        (400, "RequestTimeout") => (Mend::Later, String::new()),
        (400 | 401 | 405, _) => person("see blat.toml(5) for what the server has to be able to do".into()),
        (503 | 429, _) => (Mend::Later, "; it is asked again later, and less".into()),
        _ => (Mend::Later, String::new()),
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => write!(f, "the server answers {}", self.status),
            ("", message) => write!(f, "the server answers {}: {message}", self.status),
            (code, "") => write!(f, "the server says {code} ({})", self.status),
            (code, message) => write!(f, "the server says {code}: {}", message.trim_end_matches('.')),
        }
    }
}

/// Nobody answered, or it was not even asked.
fn unanswered<E>(bucket: &Bucket, attempt: &str, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: std::error::Error + Send + Sync + 'static,
{
    let settings = &bucket.0.settings;
    let at = settings.endpoint.address().unwrap_or("AWS");
    let words = DisplayErrorContext(error).to_string();
    let credentials = settings.credentials.display();
    if ["no providers in chain", "credentials provider", "profile file", "CredentialsNotLoaded"]
        .iter()
        .any(|it| words.contains(it))
    {
        let why = deepest(error);
        return Failure::person(anyhow!(
            "{attempt}: there are no credentials ({why}); put a credentials file of AWS at {credentials}"
        ));
    }
    if words.contains("certificate") {
        return Failure::person(anyhow!(
            "{attempt}: {at} has a certificate that this machine does not trust ({}): add the authority that \
             signed it to the system's (update-ca-certificates)",
            deepest(error)
        ));
    }
    match error {
        SdkError::TimeoutError(_) => Failure::later(anyhow!("{attempt}: {at} has not answered in time")),
        _ => Failure::later(anyhow!("{attempt}: {at} cannot be reached: {}", deepest(error))),
    }
}

/// The last of the causes, which says most.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
