//! An upload in parts, some of them on their way at a time.
//!
//! What it takes is noted before the first part is sent ([`super::left`]). An upload that is cut leaves
//! parts at most, which are aborted here, or by the next run.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use tokio::task::JoinSet;

use super::Bucket;
use super::client::time_to_send;
use super::error::{Operation, Refused, refused};
use super::left::Upload;
use super::names::Meta;
use super::objects::{bare, quoted};
use super::packing::{Packing, Part, Whole};
use super::sent_as::as_package;
use super::upload::{Going, NotPut, broken, end};
use crate::failure::{Needs, Result};

/// How many parts of one package are on their way at a time.
const PARTS: usize = 4;
/// To put the parts together takes some servers as long as it takes to send so many bytes.
const LARGE: u64 = 8 << 20;

impl Bucket {
    /// Ends what earlier runs began and left. What cannot be ended stands in no package's way: it is
    /// told, and tried again by the next run.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn clean(&self) -> Result<()> {
        for upload in self.0.left.all() {
            match self.abort(&upload).await {
                Ok(()) => {
                    tracing::info!("aborted an upload of {} that an earlier run left", upload.key);
                    self.0.left.ended(&upload).later("cannot note an upload")?;
                }
                Err(Refused::Unanswered(why)) => return Err(why),
                Err(refused) => {
                    let why = refused.failure(self, Operation::Abort, &upload.key);
                    tracing::warn!("parts that cost are left: {why}");
                }
            }
        }
        Ok(())
    }

    async fn abort(&self, upload: &Upload) -> Result<(), Refused> {
        let request = self.client().abort_multipart_upload().bucket(self.name());
        let answer = self.answer(request.key(&upload.key).upload_id(&upload.id).send()).await;
        match answer.map_err(|error| refused(self, Operation::Abort, &upload.key, error)) {
            Ok(_) | Err(Refused::Missing) => Ok(()),
            Err(refused) => Err(refused),
        }
    }
}

impl Going<'_> {
    pub(super) async fn in_parts(&mut self, first: Part) -> Result<(String, Whole), NotPut> {
        let upload = self.begin(&self.meta(None)).await?;
        match self.parts(&upload, first).await {
            Ok((parts, whole)) => {
                let etag = match self.complete(&upload, parts).await {
                    Ok(etag) => {
                        self.bucket.0.left.ended(&upload).later("cannot note an upload")?;
                        etag
                    }
                    Err(why) => {
                        let etag = self.perhaps_ours(why, &self.meta(Some(&whole))).await;
                        if etag.is_err() {
                            self.give_up(&upload).await;
                        }
                        // It may be of another run's upload: then the next run ends this one.
                        etag?
                    }
                };
                Ok((etag, whole))
            }
            Err(failure) => {
                self.give_up(&upload).await;
                Err(failure)
            }
        }
    }

    async fn begin(&self, meta: &Meta) -> Result<Upload> {
        let request = self.bucket.client().create_multipart_upload().bucket(self.bucket.name());
        let request = request.key(&self.key).checksum_algorithm(ChecksumAlgorithm::Crc32);
        let answer = self.bucket.answer(as_package!(request, self.bucket, meta).send()).await;
        let answer = answer.map_err(|error| {
            refused(self.bucket, Operation::Put, &self.key, error).failure(
                self.bucket,
                Operation::Put,
                &self.key,
            )
        })?;
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

    async fn complete(&self, upload: &Upload, parts: Vec<CompletedPart>) -> Result<String, Refused> {
        let request = self.bucket.client().complete_multipart_upload().bucket(self.bucket.name());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = request.key(&self.key).upload_id(&upload.id).multipart_upload(parts);
        let request = match &self.source.over {
            Some(etag) => request.if_match(quoted(etag)),
            None => request.if_none_match("*"),
        };
        let answer = request.customize().config_override(time_to_send(LARGE)).send();
        let done = self.bucket.answer(answer).await;
        let done = done.map_err(|error| refused(self.bucket, Operation::Put, &self.key, error))?;
        Ok(bare(done.e_tag()))
    }

    async fn give_up(&self, upload: &Upload) {
        match self.bucket.abort(upload).await {
            Ok(()) => drop(self.bucket.0.left.ended(upload)),
            Err(refused) => {
                let why = refused.failure(self.bucket, Operation::Abort, &upload.key);
                tracing::debug!("the next run aborts it: {why}");
            }
        }
    }
}

async fn send_part(bucket: Bucket, upload: Upload, number: i32, part: Part) -> Result<CompletedPart> {
    let Part { bytes, memory, .. } = part;
    let time = time_to_send(bytes.len() as u64);
    let request = bucket.client().upload_part().bucket(bucket.name()).key(&upload.key);
    let request = request.upload_id(&upload.id).part_number(number);
    let request = request.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from(bytes));
    let answer = bucket.answer(request.customize().config_override(time).send()).await;
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
