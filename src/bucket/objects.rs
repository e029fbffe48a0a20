//! Requests about single objects, and the listing.

use anyhow::anyhow;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::MetadataDirective;
use blat_target::package::PackageVersion;
use sha2::{Digest, Sha256};

use super::client::{time_to_copy, time_to_send};
use super::error::{Operation, Refused, refused};
use super::names::{self, Meta, escaped};
use super::sent_as::as_package;
use super::{Bucket, Entry, Source};
use crate::failure::{Failure, Needs, Result};

/// What a server copies in one request, in bytes.
const COPY_MAX: u64 = 5 << 30;

/// An object as a listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: String,
}

/// An object of a package-version that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) size: u64,
    pub(super) etag: String,
    /// What makes it ours.
    pub(super) meta: Option<Meta>,
}

/// Without the quotes that some answers have around it and some have not.
pub(super) fn bare(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_owned()
}

/// As a condition has it.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

impl Bucket {
    /// Lists all that is below the prefix, a thousand with each request.
    pub(super) async fn list(&self) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        let mut token = None;
        loop {
            let request = self.client().list_objects_v2().bucket(self.name());
            let request = request.set_prefix((!self.prefix().is_empty()).then(|| self.prefix().to_owned()));
            let page = self.answer(request.set_continuation_token(token.take()).send()).await;
            let page = page.map_err(|error| {
                refused(self, Operation::List, "", error).failure(self, Operation::List, "")
            })?;
            self.0.progress.moved();
            let next = page.next_continuation_token().map(str::to_owned);
            for object in page.contents.unwrap_or_default() {
                let etag = bare(object.e_tag());
                let size = object.size().unwrap_or_default().max(0) as u64;
                all.extend(object.key.map(|key| Listed { key, size, etag }));
            }
            if !page.is_truncated.unwrap_or(false) || next.is_none() {
                return Ok(all);
            }
            token = next;
        }
    }

    /// Asks the server for next to nothing: whether it answers, and lets us see what is there.
    ///
    /// # Errors
    /// What it says, or that it cannot be reached.
    pub async fn reach(&self) -> Result<()> {
        let request = self.client().list_objects_v2().bucket(self.name()).prefix(self.prefix()).max_keys(1);
        let answer = self.answer(request.send()).await;
        let refusal = |error| refused(self, Operation::List, "", error).failure(self, Operation::List, "");
        answer.map(drop).map_err(refusal)
    }

    /// Looks at the object of a package-version, if there is one.
    pub(super) async fn look(&self, id: &PackageVersion) -> Result<Option<Looked>> {
        let found = self.head(&names::key(self.prefix(), id)).await?;
        Ok(found.map(|found| Looked {
            size: found.content_length().unwrap_or_default().max(0) as u64,
            etag: bare(found.e_tag()),
            meta: Meta::of(found.metadata()),
        }))
    }

    /// Which index there is, if any.
    pub(super) async fn index_etag(&self) -> Result<Option<String>> {
        let found = self.head(&names::index_key(self.prefix())).await?;
        Ok(found.map(|found| bare(found.e_tag())))
    }

    /// Asks what is told of an object, if there is one.
    async fn head(&self, key: &str) -> Result<Option<HeadObjectOutput>> {
        let answer = self.answer(self.client().head_object().bucket(self.name()).key(key).send()).await;
        match answer.map_err(|error| refused(self, Operation::Head, key, error)) {
            Ok(found) => Ok(Some(found)),
            Err(Refused::Missing) => Ok(None),
            Err(refused) => Err(refused.failure(self, Operation::Head, key)),
        }
    }

    /// Gets an object, if there is one.
    pub(super) async fn get(&self, key: &str) -> Result<Option<GetObjectOutput>> {
        let answer = self.answer(self.client().get_object().bucket(self.name()).key(key).send()).await;
        match answer.map_err(|error| refused(self, Operation::Get, key, error)) {
            Ok(found) => Ok(Some(found)),
            Err(Refused::Missing) => Ok(None),
            Err(refused) => Err(refused.failure(self, Operation::Get, key)),
        }
    }

    /// Reads an object for the SHA-256 of its bytes.
    pub(super) async fn digest(&self, key: &str) -> Result<String> {
        let found = self.get(key).await?;
        let mut body = found.ok_or_else(|| Failure::later(anyhow!("{key} has vanished")))?.body;
        let mut hash = Sha256::new();
        while let Some(bytes) = body.try_next().await.later(format!("cannot read {key}"))? {
            self.0.progress.moved();
            hash.update(&bytes);
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Writes the index over that with this ETag, or where none is. The new one's ETag.
    pub(super) async fn put_index(&self, text: Vec<u8>, over: Option<&str>) -> Result<String, Refused> {
        let key = names::index_key(self.prefix());
        let time = time_to_send(text.len() as u64);
        let request = self.client().put_object().bucket(self.name()).key(&key).body(ByteStream::from(text));
        let request = request.content_type("application/json");
        let request = request.set_server_side_encryption(self.encryption()).set_ssekms_key_id(self.kms_key());
        let request = match over {
            Some(etag) => request.if_match(quoted(etag)),
            None => request.if_none_match("*"),
        };
        let put = self.answer(request.customize().config_override(time).send()).await;
        let put = put.map_err(|error| refused(self, Operation::Put, &key, error))?;
        Ok(bare(put.e_tag()))
    }

    /// Makes the object of a link a copy of what the link leads to, without its bytes going anywhere.
    /// `over` is the ETag of the object of ours that stands there.
    async fn copy(&self, from: &Entry, id: &PackageVersion, link: &str, over: Option<&str>) -> Result<Entry> {
        let key = names::key(self.prefix(), id);
        self.is_as_seen(id, over).await?;
        let meta = Meta {
            stamp: blat_target::stamp::Stamp(from.stamp),
            sha256: Some(from.sha256.clone()),
            link: Some(link.to_owned()),
        };
        let etag = self.copy_object(from, &key, meta).await?;
        Ok(Entry {
            package: id.package.to_string(),
            version: id.version.to_string(),
            key,
            etag,
            link: Some(link.to_owned()),
            excess_since: None,
            ..from.clone()
        })
    }

    /// Tells the digest of an object that went in parts, in its metadata, where the server can do so in
    /// one request. Its ETag afterwards. Where it is not told, packages.json has it all the same.
    pub(super) async fn tell_digest(&self, entry: &Entry, meta: Meta) -> Result<String> {
        match entry.size < COPY_MAX {
            true => self.copy_object(entry, &entry.key, meta).await,
            false => Ok(entry.etag.clone()),
        }
    }

    /// Copies `from`, as long as it is as it was, to `key`, with this metadata. The ETag of the copy.
    async fn copy_object(&self, from: &Entry, key: &str, meta: Meta) -> Result<String> {
        let request = self.client().copy_object().bucket(self.name()).key(key);
        let request = as_package!(request, self, meta)
            .copy_source(escaped(&format!("{}/{}", self.name(), from.key)))
            .copy_source_if_match(quoted(&from.etag))
            .metadata_directive(MetadataDirective::Replace);
        let copied = self.answer(request.customize().config_override(time_to_copy(from.size)).send()).await;
        let copied = copied.map_err(|error| {
            refused(self, Operation::Copy, key, error).failure(self, Operation::Copy, key)
        })?;
        self.0.progress.moved();
        Ok(bare(copied.copy_object_result().and_then(|result| result.e_tag())))
    }

    /// Makes the object of a link: a copy of `from`, or where that is too large for one request, packed
    /// and put as `source` says. The entry, and how many bytes of files were packed.
    pub async fn copy_or_put(&self, from: &Entry, source: &Source) -> Result<(Entry, u64)> {
        let link = source.link.as_deref().unwrap_or_default();
        if from.size < COPY_MAX {
            return Ok((self.copy(from, &source.id, link, source.over.as_deref()).await?, 0));
        }
        let put = self.put(source).await?;
        Ok((put.entry, put.bytes))
    }

    /// Whether there is still what was seen in a place.
    async fn is_as_seen(&self, id: &PackageVersion, seen: Option<&str>) -> Result<()> {
        match self.look(id).await? {
            Some(Looked { meta: None, .. }) => Err(self.foreign(id)),
            Some(found) if Some(found.etag.as_str()) != seen => {
                let key = names::key(self.prefix(), id);
                Err(Refused::Changed.failure(self, Operation::Copy, &key))
            }
            _ => Ok(()),
        }
    }

    /// Deletes an object, if it is ours and still the one that `entry` tells of.
    pub async fn delete(&self, id: &PackageVersion, entry: &Entry) -> Result<()> {
        let key = names::key(self.prefix(), id);
        match self.look(id).await? {
            None => return Ok(()),
            Some(found) if found.etag == entry.etag && found.meta.is_some() => {}
            Some(_) => {
                let why = anyhow!("{key} in the bucket {} was changed meanwhile: it is left", self.name());
                return Err(Failure::later(why));
            }
        }
        let answer = self.answer(self.client().delete_object().bucket(self.name()).key(&key).send()).await;
        match answer.map_err(|error| refused(self, Operation::Delete, &key, error)) {
            Ok(_) | Err(Refused::Missing) => Ok(()),
            Err(refused) => Err(refused.failure(self, Operation::Delete, &key)),
        }
    }
}
