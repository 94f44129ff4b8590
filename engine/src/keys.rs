//! Signing keys of other servers: decoded once, kept in the store, asked for when one is missing.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use gibbous_codec::{
    KeySource, OwnedServerName, Pdu, RoomRules, ServerKeyRow, ServerKeysRow, ServerName, VerifiedPdu, VerifyError,
    VerifyKey, verify,
};
use gibbous_storage::Store;
use serde::Deserialize;

use crate::{Error, Limits};

/// How many keys of a server are kept: 100, a rotation a month for eight years. With their IDs they fit a row.
const KEYS_A_SERVER_MAX: usize = 100;
/// The longest key ID that is kept, in bytes.
const KEY_ID_BYTES_MAX: usize = 255;

/// How many keys of each server are at hand on the average, at most.
const KEYS_A_SERVER_AT_HAND: usize = 4;

/// The decoded keys of one server, with their IDs.
type ServerKeys = Arc<[(String, VerifyKey)]>;

/// The keys of every server that has been heard of: all of them stored, some of them at hand.
#[derive(Debug)]
pub(crate) struct KeyRing {
    store: Store,
    known: Mutex<AtHand>,
    /// When servers may be asked again whose keys are missed meanwhile: the first of them.
    due: Mutex<BTreeMap<OwnedServerName, u64>>,
    servers_max: usize,
}

/// What is known of some servers' keys.
#[derive(Debug, Default)]
struct AtHand {
    servers: BTreeMap<OwnedServerName, Known>,
    /// How many keys they have in all.
    keys: usize,
}

/// What is known of one server's keys.
#[derive(Clone, Debug)]
struct Known {
    keys: ServerKeys,
    /// Until when they are not asked for again: the server has just told them, or could not be asked.
    until_ms: u64,
}

/// Why an event is not to be had as its server has signed it.
#[derive(Debug)]
pub(crate) enum Unverified {
    /// The keys of these servers are not known.
    MissingKeys(BTreeSet<OwnedServerName>),
    /// A signature or the content hash does not hold.
    Wrong(String),
}

impl KeyRing {
    pub(crate) fn new(store: Store, limits: &Limits) -> Self {
        Self { store, known: Mutex::default(), due: Mutex::default(), servers_max: limits.key_servers_max.max(1) }
    }

    /// Does checks 2 and 3 of an event by the keys that are known.
    pub(crate) fn verify(&self, rules: &RoomRules, pdu: Pdu) -> Result<Result<VerifiedPdu, VerifyError>, Error> {
        let keys = LookedUp { ring: self, failed: Cell::new(None) };
        let verified = verify(rules, pdu, &keys);
        keys.failed.into_inner().map_or(Ok(verified), Err)
    }

    /// The same for an event that is of no use redacted: one that is handed over to be signed, say.
    pub(crate) fn verify_whole(&self, rules: &RoomRules, pdu: Pdu) -> Result<Result<Pdu, Unverified>, Error> {
        Ok(match self.verify(rules, pdu)? {
            Ok(pdu) if pdu.was_redacted() => Err(Unverified::Wrong("the content hash does not hold".to_owned())),
            Ok(verified) => Ok(verified.into_pdu()),
            Err(VerifyError::MissingKeys { servers }) => Err(Unverified::MissingKeys(servers)),
            Err(error) => Err(Unverified::Wrong(error.to_string())),
        })
    }

    fn known(&self, server: &ServerName) -> Result<Known, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.servers.get(server) {
            return Ok(known.clone());
        }
        let of_server = Known::of(&self.store.server_keys(server)?, &[]);
        self.keep(&mut known, server, of_server.clone());
        Ok(of_server)
    }

    /// Returns the keys of a server that are at hand, none where the store would have to be read.
    fn keys_at_hand(&self, server: &ServerName) -> Vec<(String, VerifyKey)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.servers.get(server).map(|known| known.keys.to_vec()).unwrap_or_default()
    }

    /// Tells whether any key of a server is known.
    pub(crate) fn knows(&self, server: &ServerName) -> Result<bool, Error> {
        Ok(!self.known(server)?.keys.is_empty())
    }

    /// Keeps what is known of a server at hand. Where there is no room left everything else is read again when it is
    /// needed: whoever makes up servers cannot choose what is forgotten.
    fn keep(&self, known: &mut AtHand, server: &ServerName, of_server: Known) {
        let was = known.servers.remove(server).map_or(0, |was| was.keys.len());
        known.keys = known.keys - was + of_server.keys.len();
        if known.servers.len() >= self.servers_max || known.keys > self.servers_max * KEYS_A_SERVER_AT_HAND {
            *known = AtHand { servers: BTreeMap::new(), keys: of_server.keys.len() };
        }
        known.servers.insert(server.to_owned(), of_server);
    }

    /// Stores what is known of a server now. `decoded` are keys, with others among them perhaps, that have been decoded.
    fn put(&self, server: &ServerName, row: &ServerKeysRow, decoded: &[(String, VerifyKey)]) -> Result<(), Error> {
        self.store.put_server_keys(server, row)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep(&mut known, server, Known::of(row, decoded));
        Ok(())
    }

    /// Tells whether the keys of servers may be asked for, rather than having just been asked for. Where not, their
    /// time is noted: whoever misses them looks again then.
    pub(crate) fn may_ask<'s>(
        &self,
        servers: impl IntoIterator<Item = &'s OwnedServerName>,
        now_ms: u64,
    ) -> Result<bool, Error> {
        let mut may_ask = true;
        for server in servers {
            let until_ms = self.known(server)?.until_ms;
            if until_ms > now_ms {
                may_ask = false;
                self.note_due(server, until_ms);
            }
        }
        Ok(may_ask)
    }

    /// Notes when a server may be asked again. Of more than are kept the last goes: when the first is due, whoever still
    /// misses keys notes all of them anew.
    fn note_due(&self, server: &ServerName, until_ms: u64) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.insert(server.to_owned(), until_ms);
        if due.len() > self.servers_max
            && let Some(last) = due.iter().max_by_key(|(_, until_ms)| **until_ms).map(|(server, _)| server.clone())
        {
            due.remove(&last);
        }
    }

    /// Notes that a server's keys could not be had.
    pub(crate) fn failed(&self, server: &ServerName, limits: &Limits, now_ms: u64) -> Result<(), Error> {
        let mut row = self.store.server_keys(server)?;
        row.rounds = row.rounds.saturating_add(1);
        row.until_ms = now_ms.saturating_add(limits.backoff_ms(row.rounds));
        self.put(server, &row, &self.keys_at_hand(server))
    }

    /// Returns when keys that are missed may be asked for again, the first of them.
    pub(crate) fn next_try(&self) -> Option<u64> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).values().min().copied()
    }

    /// The time of some has come: who misses them asks for them.
    pub(crate) fn handle_timeout(&self, now_ms: u64) {
        self.due.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until_ms| *until_ms > now_ms);
    }

    /// Takes the body of a key answer and stores what it says, beside what was known. The host has checked that the
    /// answer is the server's own, or a notary's that it trusts.
    ///
    /// Returns why the body cannot be used, if so.
    pub(crate) fn handle_answer(
        &self,
        server: &ServerName,
        body: &[u8],
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Result<(), String>, Error> {
        let answer: KeyAnswer = match serde_json::from_slice(body) {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if answer.server_name.as_ref().is_some_and(|name| name.as_str() != server.as_str()) {
            return Ok(Err("the keys are another server's".to_owned()));
        }
        let mut row = self.store.server_keys(server)?;
        let is_too_many = answer.verify_keys.len() + answer.old_verify_keys.len() > KEYS_A_SERVER_MAX;
        let mut key_ids = answer.verify_keys.keys().chain(answer.old_verify_keys.keys());
        if is_too_many || key_ids.any(|key_id| key_id.len() > KEY_ID_BYTES_MAX) {
            return Ok(Err("more keys, or longer key IDs, than are kept".to_owned()));
        }
        let current = answer.verify_keys.iter().map(|(id, key)| (id, &key.key, answer.valid_until_ts));
        let old = answer.old_verify_keys.iter().map(|(id, key)| (id, &key.key, key.expired_ts));
        let mut decoded = self.keys_at_hand(server);
        for (key_id, key, valid_until_ts) in current.chain(old) {
            let Ok(key) = VerifyKey::from_base64(key, valid_until_ts) else { continue };
            decoded.push((key_id.clone(), key.clone()));
            let new = ServerKeyRow { key_id: key_id.clone(), key: key.to_bytes(), valid_until_ts };
            match row.keys.iter_mut().find(|known| known.key_id == *key_id) {
                // A key that was known as current may have been retired since, never the other way round.
                Some(known) if known.key == new.key => known.valid_until_ts = known.valid_until_ts.max(valid_until_ts),
                Some(known) => *known = new,
                None => row.keys.push(new),
            }
        }
        // Keys of former answers give way to those of this one.
        let surplus = row.keys.len().saturating_sub(KEYS_A_SERVER_MAX);
        row.keys.drain(..surplus);
        if row.keys.is_empty() {
            return Ok(Err("no key that can be used".to_owned()));
        }
        // A server tells all its keys at once: one that is still missing will not come by asking again soon.
        (row.rounds, row.until_ms) = (0, now_ms.saturating_add(limits.keys_fresh_ms));
        self.put(server, &row, &decoded)?;
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // Where others were left out, what is due must not run dry before they are noted anew.
        if due.len() < self.servers_max {
            due.remove(server);
        }
        Ok(Ok(()))
    }
}

/// Keys as a verification asks for them.
struct LookedUp<'r> {
    ring: &'r KeyRing,
    /// Why the store could not be read, if it could not.
    failed: Cell<Option<Error>>,
}

impl KeySource for LookedUp<'_> {
    fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey> {
        match self.ring.known(server) {
            Ok(known) => known.keys.iter().find(|(id, _)| id == key_id).map(|(_, key)| key.clone()),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }
}

impl Known {
    fn of(row: &ServerKeysRow, decoded: &[(String, VerifyKey)]) -> Self {
        let keys = row.keys.iter().filter_map(|stored| {
            let is_stored =
                |key: &&VerifyKey| key.valid_until_ts() == stored.valid_until_ts && key.to_bytes() == stored.key;
            let key = match decoded.iter().map(|(_, key)| key).find(is_stored) {
                Some(key) => key.clone(),
                // A stored key was decoded before it was stored; one that no longer decodes is as good as unknown.
                None => VerifyKey::from_bytes(&stored.key, stored.valid_until_ts).ok()?,
            };
            Some((stored.key_id.clone(), key))
        });
        Self { keys: keys.collect(), until_ms: row.until_ms }
    }
}

#[derive(Deserialize)]
struct KeyAnswer {
    server_name: Option<String>,
    #[serde(default)]
    verify_keys: BTreeMap<String, Key>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, OldKey>,
    valid_until_ts: u64,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

#[derive(Deserialize)]
struct OldKey {
    key: String,
    expired_ts: u64,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gibbous_storage::MemoryBackend;

    use super::*;

    fn ring(limits: &Limits) -> KeyRing {
        let store = Store::open(Arc::new(MemoryBackend::new())).expect("memory can be opened");
        KeyRing::new(store, limits)
    }

    fn server(number: usize) -> OwnedServerName {
        format!("s{number}.example").try_into().expect("a server name")
    }

    fn has_key(known: &Known) -> bool {
        known.keys.iter().any(|(id, _)| id == "ed25519:a")
    }

    fn answer() -> String {
        answer_with(&["ed25519:a".to_owned()], 1)
    }

    /// An answer with one key under each of these IDs.
    fn answer_with(key_ids: &[String], valid_until_ts: u64) -> String {
        let key = gibbous_codec::SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
        let key = ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(key).encode();
        let keys = key_ids.iter().map(|key_id| (key_id.clone(), serde_json::json!({"key": key})));
        let keys: serde_json::Map<String, serde_json::Value> = keys.collect();
        serde_json::json!({"verify_keys": keys, "valid_until_ts": valid_until_ts}).to_string()
    }

    #[test]
    fn of_more_servers_than_are_at_hand_keys_are_read_again() {
        let limits = Limits { key_servers_max: 3, ..Limits::default() };
        let ring = ring(&limits);
        for number in 0..10 {
            let taken = ring.handle_answer(&server(number), answer().as_bytes(), &limits, 0).expect("memory works");
            assert_eq!(taken, Ok(()));
            assert!(ring.known.lock().expect("nobody panicked").servers.len() <= 3);
        }
        for number in 0..10 {
            let known = ring.known(&server(number)).expect("memory works");
            assert!(has_key(&known), "{number}");
            assert!(!ring.may_ask([&server(number)], limits.keys_fresh_ms - 1).expect("memory works"));
        }
        // Servers that nobody has heard of push nothing out of the store.
        for number in 10..100 {
            ring.known(&server(number)).expect("memory works");
            assert!(ring.known.lock().expect("nobody panicked").servers.len() <= 3);
        }
        assert!(has_key(&ring.known(&server(0)).expect("memory works")));
    }

    #[test]
    fn servers_with_many_keys_hold_no_more_of_them_at_hand() {
        let limits = Limits { key_servers_max: 10, ..Limits::default() };
        let ring = ring(&limits);
        let key_ids: Vec<String> = (0..15).map(|number| format!("ed25519:{number}")).collect();
        // Twice each: keys that take the place of the same server's are not counted beside them.
        for number in [0, 0, 1, 1, 2, 2, 3, 3] {
            let body = answer_with(&key_ids, 1);
            assert_eq!(ring.handle_answer(&server(number), body.as_bytes(), &limits, 0).expect("memory works"), Ok(()));
            let known = ring.known.lock().expect("nobody panicked");
            let keys: usize = known.servers.values().map(|known| known.keys.len()).sum();
            assert_eq!((known.servers.len(), known.keys), ((number % 2) + 1, keys), "two of them have 30 keys of 40");
        }
        assert_eq!(ring.known(&server(0)).expect("memory works").keys.len(), 15);
    }

    #[test]
    fn keys_that_are_told_again_hold_as_long_as_they_are_told_to() {
        let limits = Limits::default();
        let ring = ring(&limits);
        let until = |ring: &KeyRing| ring.known(&server(0)).expect("memory works").keys[0].1.valid_until_ts();
        for (told, holds) in [(5, 5), (9, 9), (7, 9)] {
            let body = answer_with(&["ed25519:a".to_owned()], told);
            assert_eq!(ring.handle_answer(&server(0), body.as_bytes(), &limits, 0).expect("memory works"), Ok(()));
            assert_eq!(until(&ring), holds, "told {told}");
        }
    }

    #[test]
    fn of_more_servers_that_are_due_than_are_kept_the_first_are_known() {
        let limits = Limits { key_servers_max: 3, ..Limits::default() };
        let ring = ring(&limits);
        for number in [5, 2, 9, 1, 7, 3] {
            ring.failed(&server(number), &limits, 1_000 * number as u64).expect("memory works");
            assert!(!ring.may_ask([&server(number)], 0).expect("memory works"));
            assert!(ring.due.lock().expect("nobody panicked").len() <= 3);
        }
        let first_ms = 1_000 + limits.backoff_ms(1);
        assert_eq!(ring.next_try(), Some(first_ms));
        ring.handle_timeout(first_ms);
        assert!(ring.next_try().is_some_and(|at_ms| at_ms > first_ms));
    }
}
