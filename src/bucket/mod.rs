//! A bucket of ZIP files: one object for each package-version, and an index of them.
//!
//! A package is packed ([`zipped`]) while it is uploaded ([`upload`]), in parts of which a bounded
//! number is in memory at a time ([`packing`]). What the bucket has is read from its index and one
//! listing ([`state`], [`index`]); requests for single objects are made only where those two differ.
//!
//! An object is blat's if it carries blat's stamp as metadata, and no other is replaced or removed.
//! A put is conditional on what was seen in its place, so that what came there meanwhile stays. Not all
//! servers know conditions on copies and deletions: before those, the place is looked at once more.

mod client;
mod credentials;
mod error;
pub mod index;
mod left;
mod names;
mod objects;
mod packing;
mod parts;
mod sent_as;
mod state;
mod upload;
pub mod zipped;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::{S3, TargetName};
use crate::failure::Result;
use crate::progress::Progress;

pub use credentials::asks_the_environment;
pub use index::Entry;
pub use names::Meta;
pub use state::State;
pub use upload::{NotPut, Put, Source};

use left::Left;

/// How much memory parts may take that are being filled or sent, in KiB.
const MEMORY: usize = 128 << 10;

/// An open way to a bucket. Clones share it.
#[derive(Clone, Debug)]
pub struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: aws_sdk_s3::Client,
    settings: S3,
    /// Uploads that were begun and not ended.
    left: Left,
    memory: Arc<Semaphore>,
    progress: Progress,
}

impl Bucket {
    /// Prepares the way; the first request goes it. In `uploads` it is noted which uploads are open: of
    /// runs at the same time, each needs a file of its own.
    ///
    /// # Errors
    /// When the credentials that the settings name are not there.
    pub async fn open(name: &TargetName, settings: &S3, uploads: &Path) -> Result<Self> {
        let client = client::client(name, settings).await?;
        let inner = Inner {
            client,
            settings: settings.clone(),
            left: Left::of(uploads),
            memory: Arc::new(Semaphore::new(MEMORY)),
            progress: Progress::start(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// How many packages may be on their way at a time.
    pub fn uploads(&self) -> usize {
        self.0.settings.uploads.get()
    }

    /// Waits for an answer. How many of its bytes are through cannot be seen, so a request counts as
    /// moving for as long as it may take: the client ends it in time.
    async fn answer<T>(&self, request: impl Future<Output = T>) -> T {
        self.0.progress.during(request).await
    }

    fn client(&self) -> &aws_sdk_s3::Client {
        &self.0.client
    }

    fn name(&self) -> &str {
        self.0.settings.bucket.as_str()
    }

    fn prefix(&self) -> &str {
        self.0.settings.prefix.as_str()
    }
}
