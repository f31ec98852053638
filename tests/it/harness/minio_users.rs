//! Users of a MinIO with few rights. Its admin API takes a new user's secret only encrypted with the caller's, in the
//! format of its own client; of the format's ciphers this is the one without Argon2.

use std::num::NonZeroU32;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    pbkdf2,
};
use aws_sdk_s3::config::Credentials;
use aws_sigv4::{
    http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};

use super::minio::{ACCESS_KEY, Minio, SECRET_KEY};

impl Minio {
    /// Makes a user who may do only what the policy allows.
    pub(crate) async fn create_user(&self, name: &str, secret: &str, policy: &str) -> Result<()> {
        let admin = async |call: String, body: Vec<u8>| {
            let what = format!("PUT {call}");
            self.put_admin(&call, body).await.context(what)
        };
        admin(format!("add-canned-policy?name=of-{name}"), policy.into()).await?;
        let user = format!("{{\"secretKey\":\"{secret}\",\"status\":\"enabled\"}}");
        admin(format!("add-user?accessKey={name}"), encrypted(user.into_bytes())?).await?;
        let attach =
            format!("set-user-or-group-policy?isGroup=false&policyName=of-{name}&userOrGroup={name}");
        admin(attach, Vec::new()).await
    }

    async fn put_admin(&self, call: &str, body: Vec<u8>) -> Result<()> {
        let url = format!("{}/minio/admin/v3/{call}", self.endpoint());
        let identity = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "tests").into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        #[expect(
            clippy::disallowed_methods,
            reason = "MinIO holds the signature's time against its own clock"
        )]
        let now = SystemTime::now();
        let params = SigningParams::builder().identity(&identity).region("us-east-1").name("s3");
        let params = params.time(now).settings(settings).build()?.into();
        let to_sign = SignableRequest::new("PUT", &url, std::iter::empty(), SignableBody::Bytes(&body))?;
        let (instructions, _) = sign(to_sign, &params)?.into_parts();
        let mut request = http::Request::put(&url).body(body.clone())?;
        instructions.apply_to_request_http1x(&mut request);
        let answer = reqwest::Client::new().execute(request.try_into()?).await?;
        let status = answer.status();
        ensure!(status.is_success(), "{status}: {}", answer.text().await?);
        Ok(())
    }
}

/// Salt, cipher, nonce, and one closing fragment, whose associated data is the seal of nothing.
fn encrypted(mut text: Vec<u8>) -> Result<Vec<u8>> {
    const PBKDF2_AES_256_GCM: u8 = 2;
    const LAST: u8 = 0x80;
    let (salt, nonce) = ([7; 32], [9; 8]);
    let mut key = [0; 32];
    let rounds = NonZeroU32::new(8_192).context("no rounds")?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, SECRET_KEY.as_bytes(), &mut key);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow!("no key"))?);
    let numbered = |number: u32| {
        let mut whole = [0; 12];
        whole[..8].copy_from_slice(&nonce);
        whole[8..].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(whole)
    };
    let mut associated = Vec::new();
    key.seal_in_place_append_tag(numbered(0), Aad::empty(), &mut associated)
        .map_err(|_| anyhow!("no seal"))?;
    associated.insert(0, LAST);
    key.seal_in_place_append_tag(numbered(1), Aad::from(&associated), &mut text)
        .map_err(|_| anyhow!("no seal"))?;
    Ok([&salt[..], &[PBKDF2_AES_256_GCM], &nonce, &text].concat())
}
