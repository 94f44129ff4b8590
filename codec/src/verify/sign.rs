//! The signing of events of our own.

use ed25519_dalek::{Signer, SigningKey};
use std::collections::BTreeMap;

use crate::{
    hash::{content_hash, encode_base64, signed_json},
    ids::ServerName,
    json::{JsonError, Value},
    pdu::{FormatError, Pdu},
    rules::RoomRules,
};

/// Completes an event: adds its content hash and the signature of `server` by its key `key_id` (such as `ed25519:a_1`).
///
/// `hashes` are written anew, other servers' `signatures` kept, `unsigned` is dropped.
///
/// # Errors
///
/// [`FormatError`] if the completed event does not comply with the event format.
pub fn sign(
    rules: &RoomRules,
    json: &[u8],
    server: &ServerName,
    key_id: &str,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    let mut members = object(json)?;
    members.remove("unsigned");
    let hash = content_hash(&Value::Object(members.clone()).to_canonical(rules.strict_canonical_json())?);
    let hashes = BTreeMap::from([("sha256".to_owned(), Value::String(encode_base64(&hash)))]);
    members.insert("hashes".to_owned(), Value::Object(hashes));
    Pdu::parse(rules, &signed(rules, members, server, key_id, key)?)
}

/// Adds another server's signature to a complete event, as the server that authorises a restricted join does.
///
/// # Errors
///
/// [`FormatError`] if the event becomes too large by it.
pub fn sign_again(
    rules: &RoomRules,
    pdu: &Pdu,
    server: &ServerName,
    key_id: &str,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    let members = object(pdu.canonical_json().as_bytes())?;
    Pdu::with_event_id(rules, pdu.event_id().to_owned(), &signed(rules, members, server, key_id, key)?)
}

/// Returns the event with a signature added.
fn signed(
    rules: &RoomRules,
    mut members: BTreeMap<String, Value>,
    server: &ServerName,
    key_id: &str,
    key: &SigningKey,
) -> Result<Vec<u8>, FormatError> {
    let event_type = members.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let json = Value::Object(members.clone()).to_canonical(rules.strict_canonical_json())?;
    let signature = key.sign(signed_json(rules, &event_type, &json).as_bytes());
    let signature = Value::String(encode_base64(&signature.to_bytes()));
    let servers = members.entry("signatures".to_owned()).or_insert_with(empty);
    let keys = as_object(servers).entry(server.to_string()).or_insert_with(empty);
    as_object(keys).insert(key_id.to_owned(), signature);
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
