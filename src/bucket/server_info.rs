//! Which targets a MinIO has, by its admin API: `GET /minio/admin/v3/info`, signed as S3 requests are.
//!
//! Only `triggerd check` asks this. The right to it (`admin:ServerInfo`) is one that the daemon does not need, so a
//! refusal is an answer of its own. The body describes every drive of the deployment; it is read up to a bound.

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use aws_sdk_s3::config::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4::SigningParams,
};
use http::{Request, StatusCode};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::BoxedError;
use crate::{config::storages::StorageConfig, domain::clock::Timestamp, telemetry::excerpt};

const CONNECT: Duration = Duration::from_secs(3);
const WHOLE: Duration = Duration::from_secs(10);

/// Largest answer that is read, in bytes: some kilobytes a drive, for a deployment of thousands.
const MAX_ANSWER: usize = 16 << 20;

/// Longest text of a server's error that is passed on, in bytes.
const EXCERPT: usize = 512;

/// Why a storage does not tell its targets.
#[derive(Debug, thiserror::Error)]
pub enum ServerInfoError {
    /// Its user lacks the right to ask.
    #[error("storage `{storage}` does not let our access key admin:ServerInfo")]
    Denied {
        /// The storage's name in the config.
        storage: String,
    },
    /// The request cannot be made of this config.
    #[error("storage `{storage}` cannot be asked")]
    Unaskable {
        /// The storage's name in the config.
        storage: String,
        /// Why.
        #[source]
        source: BoxedError,
    },
    /// No answer.
    #[error("storage `{storage}` does not answer at {url}")]
    Unreachable {
        /// The storage's name in the config.
        storage: String,
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Any other answer: another S3 server than MinIO, a proxy that lets only S3 through.
    #[error("storage `{storage}` answered {status} to {url}: {said}")]
    Refused {
        /// The storage's name in the config.
        storage: String,
        /// What was asked.
        url: String,
        /// How it answered.
        status: u16,
        /// What it said, cut and made harmless.
        said: String,
    },
}

/// The admin API of one storage.
#[derive(Debug)]
pub struct ServerInfo {
    storage: String,
    url: String,
    region: String,
    credentials: Credentials,
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "sqsARN", default)]
    targets: Option<BTreeSet<String>>,
}

impl ServerInfo {
    /// The storage of this name, as it is configured; `secret_key` as it was read from the config or its file.
    pub fn new(storage: &str, config: &StorageConfig, secret_key: &SecretString) -> Self {
        let secret = secret_key.expose_secret();
        Self {
            storage: storage.to_owned(),
            url: format!("{}/minio/admin/v3/info", config.endpoint.trim_end_matches('/')),
            region: config.region.clone(),
            credentials: Credentials::new(&config.access_key, secret, None, None, "configuration"),
        }
    }

    /// The ARNs of its targets. The signature is good for some minutes around `now`.
    pub async fn targets(&self, now: Timestamp) -> Result<BTreeSet<String>, ServerInfoError> {
        let (status, body) = self.ask(now).await?;
        match status {
            StatusCode::OK => match serde_json::from_slice::<Info>(&body) {
                Ok(info) => Ok(info.targets.unwrap_or_default()),
                Err(_) => Err(self.refused(status, &body)),
            },
            StatusCode::FORBIDDEN => Err(ServerInfoError::Denied { storage: self.storage.clone() }),
            _ => Err(self.refused(status, &body)),
        }
    }

    async fn ask(&self, now: Timestamp) -> Result<(StatusCode, Vec<u8>), ServerInfoError> {
        let unaskable = |source| ServerInfoError::Unaskable { storage: self.storage.clone(), source };
        let request = Request::get(&self.url).body(String::new()).map_err(|error| unaskable(error.into()))?;
        let request = self.signed(request, now).map_err(unaskable)?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .timeout(WHOLE)
            .build()
            .map_err(|error| unaskable(error.into()))?;
        let request = request.try_into().map_err(|error: reqwest::Error| unaskable(error.into()))?;
        let unreachable = |source| {
            let (storage, url) = (self.storage.clone(), self.url.clone());
            ServerInfoError::Unreachable { storage, url, source }
        };
        let mut answer = client.execute(request).await.map_err(unreachable)?;
        let (status, mut body) = (answer.status(), Vec::new());
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            let room = MAX_ANSWER - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == MAX_ANSWER {
                break;
            }
        }
        Ok((status, body))
    }

    fn signed(&self, mut request: Request<String>, now: Timestamp) -> Result<Request<String>, BoxedError> {
        let identity = self.credentials.clone().into();
        // As S3 has it: paths as they are, the body's hash in a header.
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(UNIX_EPOCH + now.since(Timestamp::from_micros(0)))
            .settings(settings)
            .build()?;
        let (method, body) = (request.method().as_str(), SignableBody::Bytes(request.body().as_bytes()));
        let to_sign = SignableRequest::new(method, self.url.as_str(), std::iter::empty(), body)?;
        let (instructions, _) = sign(to_sign, &params.into())?.into_parts();
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> ServerInfoError {
        ServerInfoError::Refused {
            storage: self.storage.clone(),
            url: self.url.clone(),
            status: status.as_u16(),
            said: excerpt(body, EXCERPT),
        }
    }
}
