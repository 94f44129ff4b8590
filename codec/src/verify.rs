//! Checks 2 and 3 on receipt of a PDU: the signatures of the servers that must have signed it, and its content hash.

mod key;
mod sign;

use std::{cell::LazyCell, collections::BTreeSet};

use crate::{
    hash::{content_hash, decode_base64, signed_json, stated_content_hash},
    ids::{OwnedServerName, ServerName, UserId},
    json::text::string,
    pdu::{FormatError, Pdu},
    rules::RoomRules,
};

pub use ed25519_dalek::SigningKey;
pub use key::{KeyError, VerifyKey};
pub use sign::{LocalSigner, Signer, sign, sign_again, sign_again_by, sign_by};

/// Where the keys of servers are looked up.
pub trait KeySource {
    /// Returns the key `key_id` (such as `ed25519:a_1`) of `server`, or `None` if it is not known.
    ///
    /// A key that the server names among its `old_verify_keys` is valid until its `expired_ts`.
    fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey>;
}

/// An event that passed checks 2 and 3: its signatures hold, and it is whole or redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPdu {
    pdu: Pdu,
    was_redacted: bool,
}

/// Why an event did not pass check 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No key is known, or none that was valid when the event was sent, by which these servers could be said to have
    /// signed or not signed: check 2 is not decided.
    #[error("signatures: expected a known key of each of {servers:?}, found none that was valid at the event's time")]
    MissingKeys {
        /// The servers.
        servers: BTreeSet<OwnedServerName>,
    },
    /// A server that must have signed the event did not: the event is dropped.
    #[error("signatures: expected one of {server}, found {why}")]
    BadSignature {
        /// The server.
        server: OwnedServerName,
        /// What was found instead.
        why: BadSignature,
    },
    /// Which servers must have signed cannot be told: the event is dropped.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// What stands where a signature should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// The server has not signed, or with no algorithm that is known.
    #[error("no ed25519 signature")]
    Missing,
    /// No signature by a known key holds; one of them is named.
    #[error("one by {key_id} that does not hold")]
    Invalid {
        /// The ID of the key.
        key_id: String,
    },
}

/// What the signatures of one server come to.
enum Found {
    Holds,
    KeysMissing,
    Bad(BadSignature),
}

impl VerifiedPdu {
    /// Returns the event, redacted if its content hash did not hold.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// Returns the event, redacted if its content hash did not hold.
    pub fn into_pdu(self) -> Pdu {
        self.pdu
    }

    /// Returns whether the content hash did not hold.
    pub fn was_redacted(&self) -> bool {
        self.was_redacted
    }
}

/// Returns the servers that must have signed `pdu` (server-server specification, "Validating hashes and signatures on
/// received events").
///
/// # Errors
///
/// [`FormatError`] if an ID that names such a server is none.
pub fn required_servers(rules: &RoomRules, pdu: &Pdu) -> Result<BTreeSet<OwnedServerName>, FormatError> {
    let mut servers = BTreeSet::new();
    let invited_by_third_party =
        pdu.membership() == Some("invite") && pdu.content_member("third_party_invite").is_some();
    // The sender's server, unless the event is an invite made of a third party's: any server may send that.
    if !invited_by_third_party {
        servers.insert(pdu.sender().server_name().to_owned());
    }
    // v1, v2: the server of the event ID, too.
    if rules.event_id_server_signs() {
        let expected = "an event ID with a server name";
        let server = pdu.event_id().server_name();
        let server = server.ok_or_else(|| FormatError::Invalid {
            field: "event_id",
            expected,
            found: pdu.event_id().to_string(),
        })?;
        servers.insert(server.to_owned());
    }
    // v8 on: the server of the user who authorised a restricted join. Synapse and Dendrite ask it of joins only, where
    // the specification speaks of member events; a leave that copies the key is no reason to drop it.
    if rules.authorising_server_signs()
        && pdu.membership() == Some("join")
        && let Some(user) = pdu.content_member("join_authorised_via_users_server")
    {
        let user_id = string(user).and_then(|user| <&UserId>::try_from(user.as_ref()).ok().map(ToOwned::to_owned));
        let user_id = user_id.ok_or_else(|| FormatError::Invalid {
            field: "content.join_authorised_via_users_server",
            expected: "a user ID",
            found: user.chars().take(80).collect(),
        })?;
        servers.insert(user_id.server_name().to_owned());
    }
    Ok(servers)
}

/// Checks the signatures of an event (check 2) and its content hash (check 3).
///
/// Of each of the [`required_servers`] at least one signature must hold, by a known key that is valid at the event's
/// `origin_server_ts` (from room version 5 on). Signatures by unknown keys and algorithms count for nothing. An event
/// of which the content hash does not hold is redacted.
///
/// ```
/// use gibbous_codec::{
///     KeySource, Pdu, RoomRules, RoomVersionId, ServerName, SigningKey, VerifyError, VerifyKey, sign, verify,
/// };
///
/// /// The keys of a.example, as far as they are known.
/// struct Keys(Option<VerifyKey>);
///
/// impl KeySource for Keys {
///     fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey> {
///         self.0.clone().filter(|_| server == "a.example" && key_id == "ed25519:1")
///     }
/// }
///
/// let rules = RoomRules::of(&RoomVersionId::V11).expect("the version is known");
/// let key = SigningKey::from_bytes(&[7; 32]);
/// let json = br#"{
///     "type": "m.room.message", "room_id": "!r:a.example", "sender": "@u:a.example", "content": {"body": "hello"},
///     "auth_events": ["$c"], "prev_events": ["$c"], "depth": 3, "origin_server_ts": 5
/// }"#;
/// let pdu = sign(&rules, json, "a.example".try_into()?, "ed25519:1", &key)?;
///
/// let keys = Keys(Some(VerifyKey::from_bytes(&key.verifying_key().to_bytes(), 1_000)?));
/// assert!(!verify(&rules, pdu.clone(), &keys)?.was_redacted());
///
/// // Who changes the content leaves what the signature covers: the event as it is redacted.
/// let changed = pdu.canonical_json().replace("hello", "bye");
/// let changed = verify(&rules, Pdu::parse(&rules, changed.as_bytes())?, &keys)?;
/// assert!(changed.was_redacted());
/// assert_eq!((changed.pdu().event_id(), changed.pdu().content().get()), (pdu.event_id(), "{}"));
///
/// assert!(matches!(verify(&rules, pdu, &Keys(None)), Err(VerifyError::MissingKeys { .. })));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`VerifyError::MissingKeys`] if a key is still to be had, and no server is known not to have signed;
/// [`VerifyError::BadSignature`] or [`VerifyError::Format`] if the event is to be dropped.
pub fn verify(rules: &RoomRules, pdu: Pdu, keys: &dyn KeySource) -> Result<VerifiedPdu, VerifyError> {
    let signed = LazyCell::new(|| signed_json(rules, pdu.event_type(), pdu.canonical_json()));
    let mut missing = BTreeSet::new();
    for server in required_servers(rules, &pdu)? {
        match signatures_of(&server, rules, &pdu, || signed.as_str(), keys) {
            Found::Holds => {}
            Found::KeysMissing => {
                missing.insert(server);
            }
            Found::Bad(why) => return Err(VerifyError::BadSignature { server, why }),
        }
    }
    if !missing.is_empty() {
        return Err(VerifyError::MissingKeys { servers: missing });
    }
    let was_redacted = !content_hash_holds(&pdu);
    Ok(VerifiedPdu { pdu: if was_redacted { pdu.redacted(rules) } else { pdu }, was_redacted })
}

/// Tells whether an event is the whole copy of another one, which fails check 3, as a redacted copy does: it passes that
/// check, and the two are the same event once both are redacted. If the signatures of the one hold, so do they for the
/// other: they sign no more than that, and the hash of the whole.
pub fn is_whole_copy(rules: &RoomRules, whole: &Pdu, redacted: &Pdu) -> bool {
    let signed = |pdu: &Pdu| signed_json(rules, pdu.event_type(), pdu.canonical_json());
    !content_hash_holds(redacted) && content_hash_holds(whole) && signed(whole) == signed(redacted)
}

/// Tells whether an event passes check 3: it is whole, and not a redacted copy, say.
pub fn content_hash_holds(pdu: &Pdu) -> bool {
    stated_content_hash(pdu.canonical_json()).as_deref() == Some(&content_hash(pdu.canonical_json())[..])
}

/// `signed` is asked for only where a key is known.
fn signatures_of<'s>(
    server: &ServerName,
    rules: &RoomRules,
    pdu: &Pdu,
    signed: impl Fn() -> &'s str,
    keys: &dyn KeySource,
) -> Found {
    let mut found = Found::Bad(BadSignature::Missing);
    for (key_id, signature) in pdu.signatures(server).filter(|(key_id, _)| key_id.starts_with("ed25519:")) {
        // v5 on: a key must be valid when the event is sent. The times compared are those in the data.
        let valid = |key: &VerifyKey| !rules.key_validity() || key.valid_until_ts() >= pdu.origin_server_ts();
        let Some(key) = keys.key(server, &key_id).filter(valid) else {
            // A signature that holds may be among those whose keys are still to be had: no bad one outweighs it.
            found = Found::KeysMissing;
            continue;
        };
        if decode_base64(&signature).is_some_and(|signature| key.verifies(signed().as_bytes(), &signature)) {
            return Found::Holds;
        }
        if !matches!(found, Found::KeysMissing) {
            found = Found::Bad(BadSignature::Invalid { key_id });
        }
    }
    found
}
