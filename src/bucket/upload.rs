//! Uploads: a package goes in one request if it fits into one part, in parts otherwise.
//!
//! Until the last request nothing is visible, and what was there stays; a put that is cut leaves
//! parts at most, which are aborted here, or by the next run.

use std::path::PathBuf;

use anyhow::anyhow;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::error::{Operation, Refused, refused};
use super::left::Upload;
use super::names::{self, Meta};
use super::objects::{bare, quoted};
use super::packing::{self, Packing, Part, Scanned, Whole};
use super::{Bucket, Entry};
use crate::failure::{Failure, Needs, Result};

/// The type of every object but the index.
pub(super) const CONTENT: &str = "application/zip";
/// How many parts of one package are on their way at a time.
const PARTS: usize = 4;

/// What is put, and over what.
#[derive(Clone, Debug)]
pub struct Source {
    pub id: PackageVersion,
    /// The package's folder.
    pub folder: PathBuf,
    /// The text of the link in whose place it is put, if it is one.
    pub link: Option<String>,
    /// The ETag of the object of ours that stands there.
    pub over: Option<String>,
}

/// What was put.
#[derive(Debug)]
pub struct Put {
    pub entry: Entry,
    /// The sum of the package's files' sizes.
    pub bytes: u64,
    /// Entries whose set-id bits did not travel.
    pub dropped_bits: Vec<PathBuf>,
}

/// Why something was not put.
#[derive(Debug)]
pub enum NotPut {
    /// The package could not be read, or no ZIP can hold it.
    Unreadable(Failure),
    /// The server did not take it, or cannot be reached.
    Refused(Failure),
}

impl From<Failure> for NotPut {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

impl From<NotPut> for Failure {
    fn from(why: NotPut) -> Self {
        match why {
            NotPut::Unreadable(failure) | NotPut::Refused(failure) => failure,
        }
    }
}

/// One upload as it goes on.
struct Going<'a> {
    bucket: &'a Bucket,
    source: &'a Source,
    key: String,
    scanned: Scanned,
    hear: Receiver<Packing>,
}

impl Bucket {
    /// Packs and uploads.
    ///
    /// # Errors
    /// When the package cannot be read, something came into its place meanwhile, or the server
    /// refused it.
    pub async fn put(&self, source: &Source) -> Result<Put, NotPut> {
        let mut hear = packing::start(source.folder.clone(), self.0.memory.clone(), self.0.progress.clone());
        let scanned = match hear.recv().await {
            Some(Packing::Scanned(scanned)) => scanned,
            other => return Err(broken(other)),
        };
        let first = match hear.recv().await {
            Some(Packing::Part(part)) => part,
            other => return Err(broken(other)),
        };
        let key = names::key(self.prefix(), &source.id);
        let mut going = Going { bucket: self, source, key, scanned, hear };
        let (etag, whole) = match first.is_last {
            true => going.in_one(first).await?,
            false => going.in_parts(first).await?,
        };
        Ok(going.put(etag, whole))
    }

    /// Ends what earlier runs began and left.
    pub async fn clean(&self) -> Result<()> {
        for upload in self.0.left.all() {
            self.abort(&upload).await?;
            tracing::info!("aborted an upload of {} that an earlier run left", upload.key);
        }
        Ok(())
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        let request = self.client().abort_multipart_upload().bucket(self.name());
        let answer = request.key(&upload.key).upload_id(&upload.id).send().await;
        match answer.map_err(|error| refused(self, Operation::Abort, &upload.key, error)) {
            Ok(_) | Err(Refused::Missing) => self.0.left.ended(upload).later("cannot note an upload"),
            Err(refused) => Err(refused.failure(self, Operation::Abort, &upload.key)),
        }
    }
}

/// Why the packing said something else.
fn broken(said: Option<Packing>) -> NotPut {
    NotPut::Unreadable(match said {
        Some(Packing::Failed(failure)) => failure,
        _ => Failure::person(anyhow!("packing panicked")),
    })
}

/// Waits for the packing's end.
async fn end(hear: &mut Receiver<Packing>) -> Result<Whole, NotPut> {
    match hear.recv().await {
        Some(Packing::Ended(whole)) => Ok(whole),
        other => Err(broken(other)),
    }
}

impl Going<'_> {
    async fn in_one(&mut self, part: Part) -> Result<(String, Whole), NotPut> {
        let whole = end(&mut self.hear).await?;
        let Part { bytes, memory, .. } = part;
        let meta = self.meta(Some(&whole));
        let request = self.bucket.client().put_object().bucket(self.bucket.name()).key(&self.key);
        let request = request
            .set_metadata(Some(meta.pairs()))
            .content_type(CONTENT)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_storage_class(self.bucket.storage_class())
            .set_server_side_encryption(self.bucket.encryption())
            .set_ssekms_key_id(self.bucket.kms_key())
            .body(ByteStream::from(bytes));
        let request = match &self.source.over {
            Some(etag) => request.if_match(quoted(etag)),
            None => request.if_none_match("*"),
        };
        let answer = request.send().await;
        drop(memory);
        match answer.map_err(|error| refused(self.bucket, Operation::Put, &self.key, error)) {
            Ok(put) => Ok((bare(put.e_tag()), whole)),
            Err(why) => Ok((self.perhaps_ours(why, &meta).await?, whole)),
        }
    }

    async fn in_parts(&mut self, first: Part) -> Result<(String, Whole), NotPut> {
        let meta = self.meta(None);
        let upload = self.begin(&meta).await?;
        match self.parts(&upload, first).await {
            Ok((parts, whole)) => {
                let etag = self.complete(&upload, parts, &meta).await;
                if etag.is_err() {
                    self.give_up(&upload).await;
                } else {
                    self.bucket.0.left.ended(&upload).later("cannot note an upload")?;
                }
                Ok((etag?, whole))
            }
            Err(failure) => {
                self.give_up(&upload).await;
                Err(failure)
            }
        }
    }

    async fn begin(&self, meta: &Meta) -> Result<Upload> {
        let request = self.bucket.client().create_multipart_upload().bucket(self.bucket.name());
        let answer = request
            .key(&self.key)
            .set_metadata(Some(meta.pairs()))
            .content_type(CONTENT)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_storage_class(self.bucket.storage_class())
            .set_server_side_encryption(self.bucket.encryption())
            .set_ssekms_key_id(self.bucket.kms_key())
            .send()
            .await;
        let answer = answer.map_err(|error| self.refused(error))?;
        let id = answer.upload_id().unwrap_or_default().to_owned();
        let upload = Upload { id, key: self.key.clone() };
        self.bucket.0.left.begun(&upload).later("cannot note an upload")?;
        Ok(upload)
    }

    /// Sends part after part, some at a time.
    async fn parts(&mut self, upload: &Upload, first: Part) -> Result<(Vec<CompletedPart>, Whole), NotPut> {
        let (mut sending, mut sent) = (JoinSet::new(), Vec::new());
        let (mut next, mut number) = (Some(first), 0);
        while let Some(part) = next.take() {
            number += 1;
            let is_last = part.is_last;
            sending.spawn(send_part(self.bucket.clone(), upload.clone(), number, part));
            if sending.len() >= PARTS
                && let Some(done) = sending.join_next().await
            {
                sent.push(done.person("sending panicked")??);
            }
            next = match is_last {
                true => None,
                false => match self.hear.recv().await {
                    Some(Packing::Part(part)) => Some(part),
                    other => return Err(broken(other)),
                },
            };
        }
        while let Some(done) = sending.join_next().await {
            sent.push(done.person("sending panicked")??);
        }
        sent.sort_by_key(CompletedPart::part_number);
        Ok((sent, end(&mut self.hear).await?))
    }

    async fn complete(&self, upload: &Upload, parts: Vec<CompletedPart>, meta: &Meta) -> Result<String> {
        let request = self.bucket.client().complete_multipart_upload().bucket(self.bucket.name());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = request.key(&self.key).upload_id(&upload.id).multipart_upload(parts);
        let request = match &self.source.over {
            Some(etag) => request.if_match(quoted(etag)),
            None => request.if_none_match("*"),
        };
        match request.send().await.map_err(|error| refused(self.bucket, Operation::Put, &self.key, error)) {
            Ok(done) => Ok(bare(done.e_tag())),
            Err(why) => self.perhaps_ours(why, meta).await,
        }
    }

    async fn give_up(&self, upload: &Upload) {
        if let Err(why) = self.bucket.abort(upload).await {
            tracing::debug!("the next run aborts it: {why}");
        }
    }

    /// A put that was tried again because its answer was lost finds itself in its place.
    async fn perhaps_ours(&self, why: Refused, meta: &Meta) -> Result<String> {
        if matches!(why, Refused::Changed | Refused::Missing)
            && let Some(found) = self.bucket.look(&self.source.id).await?
        {
            return match found.meta {
                Some(found_meta) if found_meta == *meta => Ok(found.etag),
                Some(_) => Err(Refused::Changed.failure(self.bucket, Operation::Put, &self.key)),
                None => Err(self.bucket.foreign(&self.source.id)),
            };
        }
        Err(why.failure(self.bucket, Operation::Put, &self.key))
    }

    fn refused<E>(
        &self,
        error: aws_sdk_s3::error::SdkError<E, aws_sdk_s3::config::http::HttpResponse>,
    ) -> Failure
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        refused(self.bucket, Operation::Put, &self.key, error).failure(self.bucket, Operation::Put, &self.key)
    }

    fn meta(&self, whole: Option<&Whole>) -> Meta {
        Meta {
            stamp: self.scanned.stamp,
            sha256: whole.map(|whole| whole.sha256.clone()),
            link: self.source.link.clone(),
        }
    }

    fn put(self, etag: String, whole: Whole) -> Put {
        let id = &self.source.id;
        let Stamp(stamp) = self.scanned.stamp;
        let entry = Entry {
            package: id.package.to_string(),
            version: id.version.to_string(),
            stamp,
            size: whole.size,
            sha256: whole.sha256,
            key: self.key,
            etag,
            link: self.source.link.clone(),
            excess_since: None,
        };
        Put { entry, bytes: self.scanned.bytes, dropped_bits: self.scanned.dropped_bits }
    }
}

impl Bucket {
    /// What is there is not ours to replace.
    pub fn foreign(&self, id: &PackageVersion) -> Failure {
        let key = names::key(self.prefix(), id);
        Failure::person(anyhow!(
            "an object that blat did not put there stands at {key} in the bucket {}: move it away, or give \
             this target another s3.prefix",
            self.name()
        ))
    }
}

async fn send_part(bucket: Bucket, upload: Upload, number: i32, part: Part) -> Result<CompletedPart> {
    let Part { bytes, memory, .. } = part;
    let request = bucket.client().upload_part().bucket(bucket.name()).key(&upload.key);
    let request = request.upload_id(&upload.id).part_number(number);
    let request = request.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from(bytes));
    let answer = request.send().await;
    drop(memory);
    bucket.0.progress.moved();
    let answer = answer.map_err(|error| {
        refused(&bucket, Operation::Put, &upload.key, error).failure(&bucket, Operation::Put, &upload.key)
    })?;
    Ok(CompletedPart::builder()
        .part_number(number)
        .set_e_tag(answer.e_tag().map(str::to_owned))
        .set_checksum_crc32(answer.checksum_crc32().map(str::to_owned))
        .build())
}
