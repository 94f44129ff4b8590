//! Signing keys: ours, and how other servers' are read.

use std::{fs, io::ErrorKind, path::Path};

use gibbous::{OwnedServerName, ServerName, Signer};
use ruma::{
    CanonicalJsonObject,
    api::federation::discovery::ServerSigningKeys,
    signatures::{Ed25519KeyPair, KeyPair, PublicKeyMap, sign_json, verify_json},
};
use serde_json::json;

use crate::HostError;

/// The name of our one key: it never changes.
const VERSION: &str = "1";

/// Our server's one signing key.
#[derive(Debug)]
pub struct OurKey {
    pub(crate) server: OwnedServerName,
    pub(crate) pair: Ed25519KeyPair,
    key_id: String,
}

impl OurKey {
    /// Reads the key from a file, and makes one where there is none. It is kept for good: other servers remember the public
    /// half.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written, or holds no key.
    pub fn load(server: OwnedServerName, file: &Path) -> Result<Self, HostError> {
        let start = |error: &dyn std::fmt::Display| HostError::Start(format!("{}: {error}", file.display()));
        let document = match fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let document = Ed25519KeyPair::generate();
                fs::write(file, &document).map_err(|error| start(&error))?;
                document.to_vec()
            }
            read => read.map_err(|error| start(&error))?,
        };
        let pair = Ed25519KeyPair::from_der(&document, VERSION.to_owned()).map_err(|error| start(&error))?;
        Ok(Self { server, pair, key_id: format!("ed25519:{VERSION}") })
    }

    /// Returns the answer to `GET /_matrix/key/v2/server`.
    pub(crate) fn published(&self, valid_until_ts: u64) -> Result<Vec<u8>, HostError> {
        let key = ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(self.pair.public_key());
        let document = json!({
            "server_name": self.server, "valid_until_ts": valid_until_ts, "old_verify_keys": {},
            "verify_keys": { &self.key_id: { "key": key.encode() } },
        });
        let sign = |document| {
            let mut document: CanonicalJsonObject =
                serde_json::from_value(document).map_err(|error| error.to_string())?;
            sign_json(self.server.as_str(), &self.pair, &mut document).map_err(|error| error.to_string())?;
            serde_json::to_vec(&document).map_err(|error| error.to_string())
        };
        sign(document).map_err(|error| HostError::malformed("our keys", error))
    }
}

/// How the engine has our events signed. The key could as well be where no process can read it.
impl Signer for OurKey {
    fn server(&self) -> &ServerName {
        &self.server
    }

    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature.as_bytes().try_into().expect("an ed25519 signature has 64 bytes")
    }
}

/// A server's keys, and until when they are valid.
#[derive(Clone, Debug)]
pub(crate) struct PeerKeys {
    pub(crate) keys: PublicKeyMap,
    pub(crate) valid_until_ts: u64,
}

/// Reads a server's answer to `GET /_matrix/key/v2/server`, which it must have signed itself.
pub(crate) fn published_by(server: &ServerName, body: &[u8]) -> Result<PeerKeys, HostError> {
    let malformed = |why: &dyn ToString| HostError::malformed("server keys", why.to_string());
    let published: ServerSigningKeys = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    if published.server_name != server {
        return Err(malformed(&"they are another server's"));
    }
    let keys = published.verify_keys.into_iter().map(|(key_id, key)| (key_id.to_string(), key.key)).collect();
    let keys = PublicKeyMap::from([(server.to_string(), keys)]);
    let signed: CanonicalJsonObject = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    verify_json(&keys, &signed).map_err(|error| malformed(&error))?;
    Ok(PeerKeys { keys, valid_until_ts: published.valid_until_ts.get().into() })
}
