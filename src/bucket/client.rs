//! The client: where the server is, how it is reached, how long is waited, how often tried again.

use std::time::Duration;

use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, SharedHttpClient};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use super::credentials;
use crate::config::{S3, TargetName};
use crate::failure::Result;

/// A request that may be made again is made so often in all: a server that says that it is asked
/// too fast, or fails, is given ever more time, some 20 s at last.
const ATTEMPTS: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// How long a request that carries little may take, each time that it is made.
const ANSWER: Duration = Duration::from_secs(30);
/// What a request gets of the way to the server at least, in bytes a second. There may be sixteen parts
/// on it at a time.
const SLOWEST_WAY: u64 = 32 << 10;
/// How fast a server copies at least, in bytes a second.
const SLOWEST_COPY: u64 = 8 << 20;

/// Where it is that no region is named, and none is needed.
const ANYWHERE: &str = "us-east-1";

pub(super) async fn client(name: &TargetName, settings: &S3) -> Result<Client> {
    let found = found(name, settings).await?;
    let mut config = Builder::from(&found)
        .force_path_style(settings.path_style)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(LONGEST_PAUSE))
        .timeout_config(
            TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ANSWER).build(),
        );
    if let Some(address) = settings.endpoint.address() {
        config = config.endpoint_url(address);
    }
    Ok(Client::from_conf(config.build()))
}

/// The client's settings for a request that carries so many bytes.
pub(super) fn time_to_send(bytes: u64) -> Builder {
    limit(ANSWER + Duration::from_secs(bytes / SLOWEST_WAY))
}

/// The client's settings for a request that has the server copy so many bytes.
pub(super) fn time_to_copy(bytes: u64) -> Builder {
    limit(ANSWER + Duration::from_secs(bytes / SLOWEST_COPY))
}

fn limit(limit: Duration) -> Builder {
    let limits = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(limit);
    Builder::new().timeout_config(limits.build())
}

/// Region and credentials: of the settings, or of the environment.
async fn found(name: &TargetName, settings: &S3) -> Result<SdkConfig> {
    let http = http_client(settings.endpoint.address().is_some_and(|address| address.starts_with("http://")));
    let provider = ProviderConfig::without_region().with_http_client(http.clone());
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    match credentials::of_file(name, settings, &provider)? {
        Some(credentials) => loader = loader.http_client(http).credentials_provider(credentials),
        // Whom the chain asks may be reached by TLS, though the bucket is not.
        None => loader = loader.http_client(http_client(false)),
    }
    match settings.region.word() {
        Some(region) => loader = loader.region(Region::new(region.to_owned())),
        // A server of one's own has no regions: the machine's is not asked for over the network.
        None if settings.endpoint.address().is_some() => {
            let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
            loader = loader.region(Region::new(named.unwrap_or_else(|| ANYWHERE.into())));
        }
        None => {}
    }
    let mut found = loader.load().await;
    if found.region().is_none() {
        found = found.into_builder().region(Region::new(ANYWHERE)).build();
    }
    Ok(found)
}

/// By the proxy that the environment names, if it names one. Without TLS where it is not spoken: to
/// load the certificates of the system takes longer than to ask for a list.
fn http_client(is_plain: bool) -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, _| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        match is_plain {
            true => connector.build_http(),
            false => connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).build(),
        }
    })
}
