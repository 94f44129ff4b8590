//! The least that a room's events cost: each read once, hashed as it must be, and its one signature verified strictly.
//!
//! This is plain code that shares nothing with the engine and is not to be made faster or slower with it. It knows the
//! redaction of room version 11 alone.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The keys of servers by name and key ID.
pub type Keys = BTreeMap<(String, String), VerifyingKey>;

/// Checks each event on so many threads. Returns their reference hashes in the order of the events.
///
/// # Errors
///
/// What does not hold of one of them.
pub fn check_all(pdus: &[String], keys: &Keys, threads: usize) -> Result<Vec<[u8; 32]>, String> {
    const AT_A_TIME: usize = 64;
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let from = next.fetch_add(AT_A_TIME, Ordering::Relaxed);
            let Some(chunk) = pdus.get(from..(from + AT_A_TIME).min(pdus.len())).filter(|chunk| !chunk.is_empty())
            else {
                return Ok::<_, String>(done);
            };
            done.push((from, chunk.iter().map(|pdu| check(pdu, keys)).collect::<Result<Vec<_>, String>>()?));
        }
    };
    let mut chunks = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut chunks = Vec::new();
        for worker in workers {
            chunks.extend(worker.join().map_err(|_| "a thread has panicked")??);
        }
        Ok::<_, String>(chunks)
    })?;
    chunks.sort_unstable_by_key(|(from, _)| *from);
    Ok(chunks.into_iter().flat_map(|(_, hashes)| hashes).collect())
}

/// Reads an event, compares its content hash and verifies the signature of its sender's server. Returns its reference
/// hash.
fn check(pdu: &str, keys: &Keys) -> Result<[u8; 32], String> {
    let mut event: Map<String, Value> = serde_json::from_str(pdu).map_err(|error| error.to_string())?;
    event.remove("unsigned");
    let signatures = event.remove("signatures").ok_or("no signatures")?;
    let hashes = event.remove("hashes").ok_or("no hashes")?;
    let content_hash = Sha256::digest(canonical(&event)?);
    let told = hashes.get("sha256").and_then(Value::as_str).ok_or("no content hash")?;
    if STANDARD_NO_PAD.decode(told).map_err(|error| error.to_string())? != content_hash[..] {
        return Err("the content hash does not hold".to_owned());
    }
    event.insert("hashes".to_owned(), hashes);
    let sender = event.get("sender").and_then(Value::as_str).and_then(|sender| sender.split_once(':'));
    let server = sender.ok_or("no sender")?.1.to_owned();
    let redacted = canonical(&redact(event))?;
    verify(&redacted, &server, &signatures, keys)?;
    Ok(Sha256::digest(redacted).into())
}

fn verify(signed: &str, server: &str, signatures: &Value, keys: &Keys) -> Result<(), String> {
    let of_server = signatures.get(server).and_then(Value::as_object);
    let (key_id, signature) = of_server.and_then(|signed| signed.iter().next()).ok_or("not signed by its server")?;
    let signature =
        STANDARD_NO_PAD.decode(signature.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
    let signature = Signature::from_slice(&signature).map_err(|error| error.to_string())?;
    let key = keys.get(&(server.to_owned(), key_id.clone())).ok_or("an unknown key")?;
    key.verify_strict(signed.as_bytes(), &signature).map_err(|error| error.to_string())
}

/// Writes canonical JSON: maps are ordered, and there are none but integers.
fn canonical(event: &Map<String, Value>) -> Result<String, String> {
    serde_json::to_string(event).map_err(|error| error.to_string())
}

fn redact(mut event: Map<String, Value>) -> Map<String, Value> {
    const KEPT: [&str; 12] = [
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    ];
    event.retain(|key, _| KEPT.contains(&key.as_str()));
    let kept: &[&str] = match event.get("type").and_then(Value::as_str).unwrap_or_default() {
        "m.room.create" => return event,
        "m.room.member" => &["membership", "join_authorised_via_users_server"],
        "m.room.join_rules" => &["join_rule", "allow"],
        "m.room.power_levels" => {
            &["ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"]
        }
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.redaction" => &["redacts"],
        _ => &[],
    };
    if let Some(Value::Object(content)) = event.get_mut("content") {
        content.retain(|key, _| kept.contains(&key.as_str()));
    }
    event
}
