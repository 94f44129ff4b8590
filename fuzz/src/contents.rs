//! The larger contents of [`crate::room`]: power levels, and invites by way of a third party.

use arbitrary::{Result, Unstructured};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

/// Who is in the rooms: the first has created them.
pub(crate) const USERS: [&str; 5] =
    ["@alice:a.example", "@bob:a.example", "@carol:b.example", "@dave:b.example", "@eve:c.example"];

const NAMED: [&str; 7] = ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"];
const TYPES: [&str; 4] = ["m.room.topic", "m.room.power_levels", "m.room.message", "m.room.redaction"];

/// Returns power levels with some of them changed.
pub(crate) fn change_power_levels(mut content: Value, u: &mut Unstructured<'_>) -> Result<Value> {
    for _ in 0..=u.int_in_range(0..=2)? {
        let (map, keys): (_, &[&str]) = match u.int_in_range(0..=15)? {
            0..=4 => ("", &NAMED),
            5 => ("users", &USERS),
            6..=9 => ("users", &USERS[1..]),
            10..=12 => ("events", &TYPES),
            13 | 14 => ("notifications", &["room", "other"]),
            _ => {
                let map = u.choose(&["users", "events", "notifications"])?;
                content[*map] = u.choose(&[json!({}), json!([]), json!(null), json!({ "odd": 5 })])?.clone();
                continue;
            }
        };
        if !map.is_empty() && !content[map].is_object() {
            content[map] = json!({});
        }
        let levels = if map.is_empty() { &mut content } else { &mut content[map] };
        let key = *u.choose(keys)?;
        match level(u)? {
            Some(level) => levels[key] = level,
            None => drop(levels.as_object_mut().and_then(|levels| levels.remove(key))),
        }
    }
    Ok(content)
}

/// Returns a level, or none.
fn level(u: &mut Unstructured<'_>) -> Result<Option<Value>> {
    let odd = [json!("x"), json!(""), json!("5_0"), json!(null), json!(true), json!([]), json!(10.7), json!(1e30)];
    let strings = ["50", " 50", "+7", "-1", "0100", "99999999999999999999"];
    Ok(match u.int_in_range(0..=15)? {
        0..=9 => Some(json!(u.choose(&[0, 1, 25, 49, 50, 51, 99, 100, 101, -1])?)),
        10 | 11 => None,
        12 | 13 => Some(json!(u.choose(&strings)?)),
        14 => Some(json!(u.int_in_range(-200..=200)?)),
        _ => Some(u.choose(&odd)?.clone()),
    })
}

/// Returns the content of an `m.room.third_party_invite` event.
pub(crate) fn third_party_invite(u: &mut Unstructured<'_>) -> Result<Value> {
    let (one, two) = (public_key(u.int_in_range(0..=2)?), public_key(u.int_in_range(0..=2)?));
    Ok(match u.int_in_range(0..=4)? {
        0 => json!({ "public_key": one }),
        1 => json!({ "public_key": one, "public_keys": [{ "public_key": two }] }),
        2 => json!({ "public_keys": [{ "public_key": one }, { "public_key": two }] }),
        3 => json!({ "public_key": "no key", "public_keys": [{ "public_key": two }] }),
        _ => json!({}),
    })
}

/// Returns a `third_party_invite` property, signed by one of the keys.
pub(crate) fn invite_by_third_party(target: &str, u: &mut Unstructured<'_>) -> Result<Value> {
    let mxid = if u.ratio(15, 16)? { target } else { u.choose(&USERS)? };
    let signed = json!({ "mxid": mxid, "token": u.choose(&["t", "u"])? });
    // The keys of such an object are sorted, and nothing in it is escaped: it is canonical JSON.
    let signature = key(u.int_in_range(0..=2)?).sign(signed.to_string().as_bytes());
    let signature = STANDARD_NO_PAD.encode(signature.to_bytes());
    let key_id = u.choose(&["ed25519:0", "ed25519:a_b", "rsa:0", "ed25519:1"])?;
    let mut invite = json!({ "display_name": "x", "signed": signed });
    invite["signed"]["signatures"] = json!({ "id.example": { *key_id: signature } });
    match u.int_in_range(0..=31)? {
        0 => drop(invite["signed"].as_object_mut().and_then(|signed| signed.remove("token"))),
        1 => drop(invite["signed"].as_object_mut().and_then(|signed| signed.remove("signatures"))),
        2 => invite = json!({}),
        3 => invite = json!(null),
        4 => invite["signed"]["more"] = json!(1),
        5 => invite["signed"]["unsigned"] = json!({ "more": 1 }),
        _ => {}
    }
    Ok(invite)
}

fn key(which: u8) -> SigningKey {
    SigningKey::from_bytes(&[which; 32])
}

fn public_key(which: u8) -> String {
    STANDARD_NO_PAD.encode(key(which).verifying_key().to_bytes())
}
