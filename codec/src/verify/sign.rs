//! The signing of events of our own.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer as _, SigningKey};

use crate::{
    hash::{content_hash, encode_base64, encode_url_safe_base64, signed_json},
    ids::{OwnedServerName, ServerName},
    json::{JsonError, Value},
    pdu::{FormatError, Pdu},
    rules::RoomRules,
};

/// Who signs in a server's name: a key in memory ([`LocalSigner`]), or whatever keeps it elsewhere.
///
/// ```
/// use gibbous_codec::{ServerName, Signer};
///
/// /// A key that never leaves its device.
/// struct Device;
///
/// impl Signer for Device {
///     fn server(&self) -> &ServerName {
///         "a.example".try_into().expect("a server name")
///     }
///
///     fn key_id(&self) -> &str {
///         "ed25519:device_1"
///     }
///
///     fn sign(&self, message: &[u8]) -> [u8; 64] {
///         // The device is asked for a signature of `message` here.
/// #       let _ = message;
///         [0; 64]
///     }
/// }
/// ```
pub trait Signer {
    /// Returns the server in whose name this signs.
    fn server(&self) -> &ServerName;

    /// Returns the ID under which the server publishes the key, such as `ed25519:a_1`.
    fn key_id(&self) -> &str;

    /// Returns the ed25519 signature of these bytes. What it returns is taken as it is: should it not hold, the other
    /// servers drop the event.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// A [`Signer`] with its key in memory.
#[derive(Clone, Debug)]
pub struct LocalSigner {
    server: OwnedServerName,
    key_id: String,
    key: SigningKey,
}

impl LocalSigner {
    /// Takes a server's name, the ID of its key, and the key.
    pub fn new(server: OwnedServerName, key_id: &str, key: SigningKey) -> Self {
        Self { server, key_id: key_id.to_owned(), key }
    }
}

impl Signer for LocalSigner {
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

/// Completes an event: adds its content hash and a signature (server-server specification, "Adding hashes and
/// signatures to outgoing events").
///
/// `hashes` are written anew, other servers' `signatures` kept, `unsigned` is dropped. In room versions 1 and 2, where
/// an event's ID is given, one that states none gets one made of its hash and the signer's server: the same event, the
/// same ID.
///
/// # Errors
///
/// [`FormatError`] if the completed event does not comply with the event format.
pub fn sign_by(rules: &RoomRules, json: &[u8], signer: &dyn Signer) -> Result<Pdu, FormatError> {
    let mut members = object(json)?;
    members.remove("unsigned");
    let hash_of = |members: &BTreeMap<String, Value>| {
        let json = Value::Object(members.clone()).to_canonical(rules.strict_canonical_json())?;
        Ok::<_, FormatError>(content_hash(&json))
    };
    if rules.explicit_event_id() && !members.contains_key("event_id") {
        let event_id = format!("${}:{}", encode_url_safe_base64(&hash_of(&members)?), signer.server());
        members.insert("event_id".to_owned(), Value::String(event_id));
    }
    let hashes = BTreeMap::from([("sha256".to_owned(), Value::String(encode_base64(&hash_of(&members)?)))]);
    members.insert("hashes".to_owned(), Value::Object(hashes));
    Pdu::parse(rules, &signed(rules, members, signer)?)
}

/// Adds a further server's signature to a complete event, as the server that authorises a restricted join does, or that
/// of a user who is invited.
///
/// # Errors
///
/// [`FormatError`] if the event becomes too large by it.
pub fn sign_again_by(rules: &RoomRules, pdu: &Pdu, signer: &dyn Signer) -> Result<Pdu, FormatError> {
    let members = object(pdu.canonical_json().as_bytes())?;
    Pdu::with_event_id(rules, pdu.event_id().to_owned(), &signed(rules, members, signer)?)
}

/// Completes an event as [`sign_by`] does, by the key `key_id` (such as `ed25519:a_1`) of `server`.
///
/// # Errors
///
/// As [`sign_by`].
pub fn sign(
    rules: &RoomRules,
    json: &[u8],
    server: &ServerName,
    key_id: &str,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    sign_by(rules, json, &LocalSigner::new(server.to_owned(), key_id, key.clone()))
}

/// Adds a further server's signature to a complete event, as [`sign_again_by`] does.
///
/// # Errors
///
/// As [`sign_again_by`].
pub fn sign_again(
    rules: &RoomRules,
    pdu: &Pdu,
    server: &ServerName,
    key_id: &str,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    sign_again_by(rules, pdu, &LocalSigner::new(server.to_owned(), key_id, key.clone()))
}

/// Returns the event with a signature added.
fn signed(
    rules: &RoomRules,
    mut members: BTreeMap<String, Value>,
    signer: &dyn Signer,
) -> Result<Vec<u8>, FormatError> {
    let event_type = members.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let json = Value::Object(members.clone()).to_canonical(rules.strict_canonical_json())?;
    let signature = signer.sign(signed_json(rules, &event_type, &json).as_bytes());
    let signature = Value::String(encode_base64(&signature));
    let servers = members.entry("signatures".to_owned()).or_insert_with(empty);
    let keys = as_object(servers).entry(signer.server().to_string()).or_insert_with(empty);
    as_object(keys).insert(signer.key_id().to_owned(), signature);
    Ok(Value::Object(members).to_canonical(rules.strict_canonical_json())?.into_bytes())
}

fn object(json: &[u8]) -> Result<BTreeMap<String, Value>, FormatError> {
    match Value::parse(json)? {
        Value::Object(members) => Ok(members),
        _ => Err(JsonError::Syntax { at: 0, expected: "an object" }.into()),
    }
}

fn empty() -> Value {
    Value::Object(BTreeMap::new())
}

/// Returns the members of `value`, which becomes an empty object if it is none.
fn as_object(value: &mut Value) -> &mut BTreeMap<String, Value> {
    if value.as_object().is_none() {
        *value = empty();
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("it was made an object just above"),
    }
}
