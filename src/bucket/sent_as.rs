//! What every object of ours is sent with: by a put, an upload in parts, and a copy alike.

use aws_sdk_s3::types::{ServerSideEncryption, StorageClass};

use super::Bucket;
use crate::config::Encryption;

/// The type of every object but the index.
pub(super) const CONTENT: &str = "application/zip";

/// Gives a request what makes its object a package of ours, stored and encrypted as the settings say.
/// The requests that do so have no type in common.
macro_rules! as_package {
    ($request:expr, $bucket:expr, $meta:expr) => {
        $request
            .set_metadata(Some($meta.pairs()))
            .content_type($crate::bucket::sent_as::CONTENT)
            .set_storage_class($bucket.storage_class())
            .set_server_side_encryption($bucket.encryption())
            .set_ssekms_key_id($bucket.kms_key())
    };
}
pub(super) use as_package;

impl Bucket {
    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        self.0.settings.storage_class.word().map(StorageClass::from)
    }

    pub(super) fn encryption(&self) -> Option<ServerSideEncryption> {
        match self.0.settings.encryption {
            Encryption::Bucket => None,
            Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
            Encryption::Kms => Some(ServerSideEncryption::AwsKms),
            Encryption::KmsDsse => Some(ServerSideEncryption::AwsKmsDsse),
        }
    }

    pub(super) fn kms_key(&self) -> Option<String> {
        self.0.settings.kms_key.word().map(str::to_owned)
    }
}
