//! Uploads: a package goes in one request if it fits into one part, in several otherwise ([`super::parts`]).
//! Until the last request nothing is visible, and what was there stays.

use std::path::PathBuf;

use anyhow::anyhow;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use blat_target::package::PackageVersion;
use blat_target::stamp::Stamp;
use tokio::sync::mpsc::Receiver;

use super::client::time_to_send;
use super::error::{Operation, Refused, refused};
use super::names::{self, Meta};
use super::objects::{bare, quoted};
use super::packing::{self, Packing, Part, Scanned, Whole};
use super::sent_as::as_package;
use super::{Bucket, Entry};
use crate::failure::{Failure, Result};

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
pub(super) struct Going<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) source: &'a Source,
    pub(super) key: String,
    scanned: Scanned,
    pub(super) hear: Receiver<Packing>,
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
        let in_parts = !first.is_last;
        let (etag, whole) = match in_parts {
            true => going.in_parts(first).await?,
            false => going.in_one(first).await?,
        };
        let meta = going.meta(Some(&whole));
        let mut put = going.put(etag, whole);
        if in_parts {
            match self.tell_digest(&put.entry, meta).await {
                Ok(etag) => put.entry.etag = etag,
                Err(why) => tracing::debug!("{} keeps no digest in its metadata: {why}", put.entry.key),
            }
        }
        Ok(put)
    }
}

/// Why the packing said something else.
pub(super) fn broken(said: Option<Packing>) -> NotPut {
    NotPut::Unreadable(match said {
        Some(Packing::Failed(failure)) => failure,
        _ => Failure::person(anyhow!("packing panicked")),
    })
}

/// Waits for the packing's end.
pub(super) async fn end(hear: &mut Receiver<Packing>) -> Result<Whole, NotPut> {
    match hear.recv().await {
        Some(Packing::Ended(whole)) => Ok(whole),
        other => Err(broken(other)),
    }
}

impl Going<'_> {
    async fn in_one(&mut self, part: Part) -> Result<(String, Whole), NotPut> {
        let whole = end(&mut self.hear).await?;
        let Part { bytes, memory, .. } = part;
        let time = time_to_send(bytes.len() as u64);
        let meta = self.meta(Some(&whole));
        let request = self.bucket.client().put_object().bucket(self.bucket.name()).key(&self.key);
        let request = as_package!(request, self.bucket, meta)
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .body(ByteStream::from(bytes));
        let request = match &self.source.over {
            Some(etag) => request.if_match(quoted(etag)),
            None => request.if_none_match("*"),
        };
        let answer = self.bucket.answer(request.customize().config_override(time).send()).await;
        drop(memory);
        match answer.map_err(|error| refused(self.bucket, Operation::Put, &self.key, error)) {
            Ok(put) => Ok((bare(put.e_tag()), whole)),
            Err(why) => Ok((self.perhaps_ours(why, &meta).await?, whole)),
        }
    }

    /// A put that was tried again because its answer was lost finds itself in its place; or the same of
    /// another run.
    pub(super) async fn perhaps_ours(&self, why: Refused, meta: &Meta) -> Result<String> {
        if matches!(why, Refused::Changed | Refused::Missing)
            && let Some(found) = self.bucket.look(&self.source.id).await?
        {
            return match found.meta {
                Some(found_meta) if found_meta.agrees(meta) => Ok(found.etag),
                Some(_) => Err(Refused::Changed.failure(self.bucket, Operation::Put, &self.key)),
                None => Err(self.bucket.foreign(&self.source.id)),
            };
        }
        Err(why.failure(self.bucket, Operation::Put, &self.key))
    }

    pub(super) fn meta(&self, whole: Option<&Whole>) -> Meta {
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
