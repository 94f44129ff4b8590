//! Signing keys: ours, and other servers' as they publish them.

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ed25519_dalek::Signer as _;
use gibbous::{
    OwnedServerName, Pdu, ServerName, Signer, SigningKey,
    gibbous_codec::{FormatError, RoomRules, VerifyKey, json::Value, sign_by},
};
use serde_json::{Value as Json, json};

use crate::HostError;

/// Matrix writes base64 without padding, and reads it either way.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A server's keys by their IDs.
pub(crate) type ServerKeys = BTreeMap<String, VerifyKey>;

/// Our server's one signing key.
#[derive(Debug)]
pub struct OurKey {
    pub(crate) server: OwnedServerName,
    pub(crate) key_id: String,
    key: SigningKey,
}

impl OurKey {
    /// Takes the key's secret, which the host keeps for good: other servers remember the public half.
    pub fn new(server: OwnedServerName, key_id: &str, secret: &[u8; 32]) -> Self {
        Self { server, key_id: key_id.to_owned(), key: SigningKey::from_bytes(secret) }
    }

    /// Completes an event of ours: hash, signature, event ID.
    pub(crate) fn sign_event(&self, rules: &RoomRules, event: &Json) -> Result<Pdu, FormatError> {
        sign_by(rules, event.to_string().as_bytes(), self)
    }

    /// Returns our signature of a JSON object.
    pub(crate) fn sign_json(&self, object: &Json) -> Result<String, HostError> {
        Ok(BASE64.encode(self.key.sign(canonical(object)?.as_bytes()).to_bytes()))
    }

    /// Returns the answer to `GET /_matrix/key/v2/server`.
    pub(crate) fn published(&self, valid_until_ts: u64) -> Result<Vec<u8>, HostError> {
        let mut document = json!({
            "server_name": self.server,
            "verify_keys": { &self.key_id: { "key": BASE64.encode(self.key.verifying_key().to_bytes()) } },
            "old_verify_keys": {},
            "valid_until_ts": valid_until_ts,
        });
        let signature = self.sign_json(&document)?;
        document["signatures"] = json!({ self.server.as_str(): { &self.key_id: signature } });
        Ok(document.to_string().into_bytes())
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
        self.key.sign(message).to_bytes()
    }
}

/// Tells whether a server has signed a JSON object by one of its keys that is valid at this time.
pub(crate) fn is_signed(object: &Json, server: &ServerName, keys: &ServerKeys, now_ms: u64) -> Result<bool, HostError> {
    let mut signed = object.clone();
    if let Some(members) = signed.as_object_mut() {
        members.remove("signatures");
        members.remove("unsigned");
    }
    let signed = canonical(&signed)?;
    let holds = |(key_id, key): (&String, &VerifyKey)| {
        let signature = object["signatures"][server.as_str()][key_id].as_str()?;
        let signature = BASE64.decode(signature).ok()?;
        Some(key.valid_until_ts() >= now_ms && key.verifies(signed.as_bytes(), &signature))
    };
    Ok(keys.iter().any(|key| holds(key) == Some(true)))
}

/// Reads a server's answer to `GET /_matrix/key/v2/server`, which it must have signed itself.
pub(crate) fn published_by(server: &ServerName, body: &[u8], now_ms: u64) -> Result<ServerKeys, HostError> {
    let malformed = |why: &str| HostError::malformed("server keys", why);
    let document: Json = serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))?;
    if document["server_name"] != server.as_str() {
        return Err(malformed("they are another server's"));
    }
    let valid_until_ts = document["valid_until_ts"].as_u64().ok_or_else(|| malformed("valid_until_ts is no time"))?;
    let verify_keys = document["verify_keys"].as_object().ok_or_else(|| malformed("there are none"))?;
    let keys: ServerKeys = verify_keys
        .iter()
        .filter_map(|(key_id, key)| {
            // A key that cannot be read signs nothing; the others count.
            let key = VerifyKey::from_base64(key["key"].as_str()?, valid_until_ts).ok()?;
            Some((key_id.clone(), key))
        })
        .collect();
    if is_signed(&document, server, &keys, now_ms)? { Ok(keys) } else { Err(malformed("they are not signed by it")) }
}

fn canonical(object: &Json) -> Result<String, HostError> {
    let malformed = |why: String| HostError::malformed("JSON to be signed", why);
    let value = Value::parse(object.to_string().as_bytes()).map_err(|error| malformed(error.to_string()))?;
    value.to_canonical(true).map_err(|error| malformed(error.to_string()))
}
