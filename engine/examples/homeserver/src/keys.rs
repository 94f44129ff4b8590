//! Signing keys: ours, and other servers' as they publish them.

use std::{fs, io::ErrorKind, path::Path};

use gibbous::{OwnedServerName, ServerName, Signer};
use ruma::{
    CanonicalJsonObject,
    api::federation::discovery::ServerSigningKeys,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, KeyPair, PublicKeyMap, sign_json, verify_json},
};
use serde_json::json;

use crate::Error;

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
    /// Reads the key from a file, and makes one where there is none. It is kept for good: other servers remember it.
    pub fn load(server: OwnedServerName, file: &Path) -> Result<Self, Error> {
        let document = match fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let document = Ed25519KeyPair::generate();
                fs::write(file, &document)?;
                document.to_vec()
            }
            read => read?,
        };
        let pair = Ed25519KeyPair::from_der(&document, VERSION.to_owned())?;
        Ok(Self { server, pair, key_id: format!("ed25519:{VERSION}") })
    }

    /// Returns the answer to `GET /_matrix/key/v2/server`.
    pub(crate) fn published(&self, valid_until_ts: u64) -> Result<Vec<u8>, Error> {
        let key = Base64::<Standard, _>::new(self.pair.public_key()).encode();
        let mut document: CanonicalJsonObject = serde_json::from_value(json!({
            "server_name": self.server, "valid_until_ts": valid_until_ts,
            "verify_keys": { &self.key_id: { "key": key } }, "old_verify_keys": {},
        }))?;
        sign_json(self.server.as_str(), &self.pair, &mut document)?;
        Ok(serde_json::to_vec(&document)?)
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
        self.pair.sign(message).as_bytes().try_into().expect("an ed25519 signature has 64 bytes")
    }
}

/// Reads a server's answer to `GET /_matrix/key/v2/server`, which it must have signed itself. Returns its keys, and
/// until when they are valid.
pub(crate) fn published_by(server: &ServerName, body: &[u8]) -> Result<(PublicKeyMap, u64), Error> {
    let published: ServerSigningKeys = serde_json::from_slice(body)?;
    if published.server_name != server {
        return Err(format!("{} publishes the keys of {}", server, published.server_name).into());
    }
    let keys = published.verify_keys.into_iter().map(|(key_id, key)| (key_id.to_string(), key.key)).collect();
    let keys = PublicKeyMap::from([(server.to_string(), keys)]);
    verify_json(&keys, &serde_json::from_slice(body)?)?;
    Ok((keys, published.valid_until_ts.get().into()))
}
