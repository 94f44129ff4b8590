//! Checks 2 and 3: which servers must have signed, whose keys count, and what a wrong content hash does.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use gibbous_codec::{
    BadSignature, FormatError, KeySource, LocalSigner, OwnedServerName, Pdu, RoomRules, RoomVersionId, ServerName,
    Signer, SigningKey, VerifyError, VerifyKey, required_servers, sign, sign_again, sign_again_by, sign_by, verify,
};
use ruma::{
    CanonicalJsonObject,
    serde::Base64,
    signatures::{PublicKeyMap, Verified, reference_hash, verify_event},
};
use serde_json::{Value, json};

const FOREVER: u64 = u64::MAX;
const SENT_AT: u64 = 1_000;

#[derive(Clone, Default)]
struct Keys(BTreeMap<(String, String), VerifyKey>);

impl KeySource for Keys {
    fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey> {
        self.0.get(&(server.to_string(), key_id.to_owned())).cloned()
    }
}

impl Keys {
    fn with(mut self, server: &str, key_id: &str, valid_until_ts: u64) -> Self {
        let public = signing_key(server, key_id).verifying_key().to_bytes();
        let key = VerifyKey::from_bytes(&public, valid_until_ts).expect("a key");
        self.0.insert((server.to_owned(), key_id.to_owned()), key);
        self
    }
}

fn signing_key(server: &str, key_id: &str) -> SigningKey {
    let mut seed = [7; 32];
    seed.iter_mut().zip(server.bytes().chain(key_id.bytes())).for_each(|(seed, byte)| *seed ^= byte);
    SigningKey::from_bytes(&seed)
}

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

fn rules(version: &str) -> RoomRules {
    RoomRules::of(&RoomVersionId::try_from(version).expect("a version")).expect("a known version")
}

/// Returns an unsigned event; the fields of `changes` are put in its place.
fn event(version: &str, changes: Value) -> Value {
    let mut event = json!({
        "auth_events": [],
        "content": {"body": "hello"},
        "depth": 3,
        "origin_server_ts": SENT_AT,
        "prev_events": [],
        "room_id": "!r:a.example",
        "sender": "@u:a.example",
        "type": "m.room.message",
    });
    if version == "1" || version == "2" {
        event["event_id"] = json!("$e:a.example");
    }
    for (key, value) in changes.as_object().expect("an object") {
        event[key] = value.clone();
    }
    event
}

fn signed(version: &str, changes: Value, by: &[(&str, &str)]) -> Pdu {
    let rules = rules(version);
    let json = event(version, changes).to_string();
    let (first, others) = by.split_first().expect("a server that signs");
    let sign_first = |name, id| sign(&rules, json.as_bytes(), server(name), id, &signing_key(name, id));
    others.iter().fold(sign_first(first.0, first.1).expect("an event"), |pdu, (name, id)| {
        sign_again(&rules, &pdu, server(name), id, &signing_key(name, id)).expect("an event")
    })
}

fn required(version: &str, pdu: &Pdu) -> Vec<String> {
    required_servers(&rules(version), pdu).expect("servers").iter().map(ToString::to_string).collect()
}

/// Returns the event with `json` in the place of a piece of its text.
fn changed(version: &str, pdu: &Pdu, from: &str, to: &str) -> Pdu {
    assert!(pdu.canonical_json().contains(from), "{from}");
    let json = pdu.canonical_json().replacen(from, to, 1);
    Pdu::parse(&rules(version), json.as_bytes()).expect("an event")
}

fn missing(servers: &[&str]) -> VerifyError {
    let servers: BTreeSet<OwnedServerName> = servers.iter().map(|name| server(name).to_owned()).collect();
    VerifyError::MissingKeys { servers }
}

fn bad(name: &str, why: BadSignature) -> VerifyError {
    VerifyError::BadSignature { server: server(name).to_owned(), why }
}

const A: (&str, &str) = ("a.example", "ed25519:1");
const A2: (&str, &str) = ("a.example", "ed25519:2");
const B: (&str, &str) = ("b.example", "ed25519:1");

fn keys() -> Keys {
    Keys::default().with(A.0, A.1, FOREVER).with(B.0, B.1, FOREVER)
}

#[test]
fn an_event_signed_by_its_senders_server_passes() {
    for version in (1..=12).map(|version: u8| version.to_string()) {
        let pdu = signed(&version, json!({}), &[A]);
        assert_eq!(required(&version, &pdu), ["a.example"]);
        let verified = verify(&rules(&version), pdu.clone(), &keys()).expect("it verifies");
        assert!(!verified.was_redacted());
        assert_eq!(verified.into_pdu(), pdu);
    }
}

#[test]
fn ruma_takes_what_is_signed_here() {
    for version in (1..=12).map(|version: u8| version.to_string()) {
        let pdu = signed(&version, json!({}), &[A]);
        let object: CanonicalJsonObject = serde_json::from_str(pdu.canonical_json()).expect("canonical JSON");
        let public = Base64::new(signing_key(A.0, A.1).verifying_key().to_bytes().to_vec());
        let keys = PublicKeyMap::from([(A.0.to_owned(), BTreeMap::from([(A.1.to_owned(), public)]))]);
        let verified = verify_event(&keys, &object, rules(&version).ruma()).expect("it verifies");
        assert_eq!(verified, Verified::All);
    }
}

#[test]
fn an_event_that_its_senders_server_did_not_sign_is_dropped() {
    let rules = rules("10");
    let pdu = signed("10", json!({}), &[B]);
    assert_eq!(verify(&rules, pdu, &keys()), Err(bad("a.example", BadSignature::Missing)));
    let forged = changed("10", &signed("10", json!({}), &[A]), "\"depth\":3", "\"depth\":4");
    let why = BadSignature::Invalid { key_id: A.1.to_owned() };
    assert_eq!(verify(&rules, forged, &keys()), Err(bad("a.example", why.clone())));
    for signature in
        ["", "!", "AA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
    {
        let signatures = json!({"a.example": {"ed25519:1": signature}}).to_string();
        let pdu = changed_signatures(&signatures);
        assert_eq!(verify(&rules, pdu, &keys()), Err(bad("a.example", why.clone())), "{signature}");
    }
    for signatures in [
        r#"{"a.example":[]}"#,
        r#"{"a.example":{"ed25519:1":1}}"#,
        r#"{"a.example":{"rsa:1":"AA"}}"#,
        r#"{"A.example":{}}"#,
    ] {
        assert_eq!(
            verify(&rules, changed_signatures(signatures), &keys()),
            Err(bad("a.example", BadSignature::Missing))
        );
    }
}

/// Returns a v10 event with these signatures.
fn changed_signatures(signatures: &str) -> Pdu {
    let mut event: Value = serde_json::from_str(signed("10", json!({}), &[A]).canonical_json()).expect("JSON");
    event["signatures"] = serde_json::from_str(signatures).expect("JSON");
    Pdu::parse(&rules("10"), event.to_string().as_bytes()).expect("an event")
}

#[test]
fn without_a_known_key_nothing_is_decided() {
    let rules = rules("10");
    let pdu = signed("10", json!({}), &[A]);
    assert_eq!(verify(&rules, pdu.clone(), &Keys::default()), Err(missing(&["a.example"])));
    // The same key under another ID or server is another key.
    let others = Keys::default().with(A2.0, A2.1, FOREVER).with(B.0, B.1, FOREVER);
    assert_eq!(verify(&rules, pdu, &others), Err(missing(&["a.example"])));
}

#[test]
fn one_signature_that_holds_is_enough() {
    let rules = rules("10");
    let both = signed("10", json!({}), &[A, A2]);
    assert!(verify(&rules, both.clone(), &keys()).is_ok());
    assert!(verify(&rules, both.clone(), &Keys::default().with(A2.0, A2.1, FOREVER)).is_ok());
    // One of the two is broken.
    let broken = json!({"a.example": {"ed25519:1": "AA"}}).to_string();
    let mut event: Value = serde_json::from_str(both.canonical_json()).expect("JSON");
    event["signatures"]["a.example"]["ed25519:1"] = json!("AA");
    let half = Pdu::parse(&rules, event.to_string().as_bytes()).expect("an event");
    assert!(verify(&rules, half.clone(), &keys().with(A2.0, A2.1, FOREVER)).is_ok());
    // The other may hold, when its key is known.
    assert_eq!(verify(&rules, half, &keys()), Err(missing(&["a.example"])));
    assert!(verify(&rules, changed_signatures(&broken), &keys()).is_err());
}

#[test]
fn a_key_must_be_valid_when_the_event_is_sent_from_version_5_on() {
    for (version, checked) in [("1", false), ("4", false), ("5", true), ("12", true)] {
        let pdu = signed(version, json!({}), &[A]);
        let at = |valid_until| verify(&rules(version), pdu.clone(), &Keys::default().with(A.0, A.1, valid_until));
        assert!(at(SENT_AT).is_ok());
        assert_eq!(at(SENT_AT - 1).is_ok(), !checked, "v{version}");
        if checked {
            assert_eq!(at(SENT_AT - 1), Err(missing(&["a.example"])));
        }
    }
}

#[test]
fn the_server_of_the_event_id_signs_too_up_to_version_2() {
    for version in ["1", "2"] {
        let pdu = signed(version, json!({"event_id": "$e:b.example"}), &[A]);
        assert_eq!(required(version, &pdu), ["a.example", "b.example"]);
        assert_eq!(verify(&rules(version), pdu, &keys()), Err(bad("b.example", BadSignature::Missing)));
        let both = signed(version, json!({"event_id": "$e:b.example"}), &[A, B]);
        assert!(verify(&rules(version), both, &keys()).is_ok());
    }
    assert_eq!(required("3", &signed("3", json!({"event_id": "$e:b.example"}), &[A])), ["a.example"]);
    let nameless = Pdu::with_event_id(
        &rules("1"),
        "$e".try_into().expect("an ID"),
        signed("1", json!({}), &[A]).canonical_json().as_bytes(),
    );
    let result = required_servers(&rules("1"), &nameless.expect("an event"));
    assert!(matches!(result, Err(FormatError::Invalid { field: "event_id", .. })));
}

#[test]
fn a_third_party_invite_needs_no_signature_of_its_senders_server() {
    let invite = |membership: &str, event_type: &str| {
        let content = json!({"membership": membership, "third_party_invite": {"signed": {}}});
        json!({"type": event_type, "state_key": "@v:b.example", "content": content})
    };
    let pdu = signed("10", invite("invite", "m.room.member"), &[B]);
    assert!(required("10", &pdu).is_empty());
    assert!(verify(&rules("10"), pdu, &Keys::default()).is_ok());
    assert_eq!(required("1", &signed("1", invite("invite", "m.room.member"), &[B])), ["a.example"]);
    assert_eq!(required("10", &signed("10", invite("join", "m.room.member"), &[B])), ["a.example"]);
    assert_eq!(required("10", &signed("10", invite("invite", "m.room.message"), &[B])), ["a.example"]);
}

#[test]
fn the_authorising_server_of_a_restricted_join_signs_from_version_8_on() {
    let member = |membership: &str, user: Value| {
        let content = json!({"membership": membership, "join_authorised_via_users_server": user});
        json!({"type": "m.room.member", "state_key": "@u:a.example", "content": content})
    };
    let by = json!("@v:b.example");
    assert_eq!(required("7", &signed("7", member("join", by.clone()), &[A])), ["a.example"]);
    for version in ["8", "9", "12"] {
        let pdu = signed(version, member("join", by.clone()), &[A]);
        assert_eq!(required(version, &pdu), ["a.example", "b.example"]);
        assert_eq!(verify(&rules(version), pdu, &keys()), Err(bad("b.example", BadSignature::Missing)));
        let both = signed(version, member("join", by.clone()), &[A, B]);
        assert!(verify(&rules(version), both.clone(), &keys()).is_ok());
        let one = Keys::default().with(A.0, A.1, FOREVER);
        assert_eq!(verify(&rules(version), both.clone(), &one), Err(missing(&["b.example"])));
        assert_eq!(verify(&rules(version), both, &Keys::default()), Err(missing(&["a.example", "b.example"])));
        // A bad signature outweighs a missing key: the event is dropped whatever that key would say.
        let forged =
            changed(version, &signed(version, member("join", by.clone()), &[A, B]), "\"depth\":3", "\"depth\":4");
        assert!(matches!(verify(&rules(version), forged, &one), Err(VerifyError::BadSignature { .. })));
        assert_eq!(required(version, &signed(version, member("leave", by.clone()), &[A])), ["a.example"]);
        for user in [json!(1), json!("v"), Value::Null] {
            let result = required_servers(&rules(version), &signed(version, member("join", user), &[A]));
            assert!(matches!(result, Err(FormatError::Invalid { .. })));
        }
    }
}

#[test]
fn an_event_with_a_wrong_content_hash_is_redacted() {
    let rules = rules("10");
    let pdu = signed("10", json!({}), &[A]);
    let changed = changed("10", &pdu, "hello", "goodbye");
    // The ID is over the redacted form, and stays.
    assert_eq!(changed.event_id(), pdu.event_id());
    let verified = verify(&rules, changed.clone(), &keys()).expect("the signature holds");
    assert!(verified.was_redacted());
    assert_eq!(verified.pdu(), &changed.redacted(&rules));
    assert_eq!(verified.pdu().content().get(), "{}");
    // A redacted copy of an event is none the worse.
    let redacted = pdu.redacted(&rules);
    assert_eq!(verify(&rules, redacted.clone(), &keys()).expect("the signature holds").into_pdu(), redacted);
}

#[test]
fn a_content_hash_holds_in_any_base64() {
    let rules = rules("10");
    // Every other event has a hash with a character that the alphabets differ in.
    for body in (0..20).map(|n| format!("hello {n}")) {
        let mut event: Value =
            serde_json::from_str(signed("10", json!({"content": {"body": body}}), &[A]).canonical_json())
                .expect("JSON");
        let hash = event["hashes"]["sha256"].as_str().expect("a hash").to_owned();
        for (stated, holds) in [
            (format!("{hash}="), true),
            (hash.replace('+', "-").replace('/', "_"), true),
            (hash[..42].to_owned(), false),
            (format!("{hash}!"), false),
            (String::new(), false),
        ] {
            event["hashes"]["sha256"] = json!(stated);
            let again = sign_stated(&rules, &event);
            let verified = verify(&rules, again, &keys()).expect("the signature holds");
            assert_eq!(verified.was_redacted(), !holds, "{stated}");
        }
    }
}

/// Signs an event with the content hash that it states, right or wrong.
fn sign_stated(rules: &RoomRules, event: &Value) -> Pdu {
    let pdu = Pdu::parse(rules, event.to_string().as_bytes()).expect("an event");
    sign_again(rules, &pdu, server(A.0), A.1, &signing_key(A.0, A.1)).expect("an event")
}

#[test]
fn what_is_signed_must_be_an_event() {
    let key = signing_key(A.0, A.1);
    let check = |json: &str| sign(&rules("10"), json.as_bytes(), server(A.0), A.1, &key);
    assert!(check("[]").is_err());
    assert!(check("{").is_err());
    assert!(matches!(check("{}"), Err(FormatError::Missing { .. })));
    assert!(matches!(check(r#"{"depth":1.5}"#), Err(FormatError::Number(_))));
    // What stands in the place of hashes and signatures does not matter.
    let pdu = check(&event("10", json!({"hashes": 1, "signatures": [], "unsigned": {"age": 1}})).to_string());
    assert!(verify(&rules("10"), pdu.expect("an event"), &keys()).is_ok());
}

/// A key that is kept elsewhere: it counts how often it was asked.
struct Device {
    kept: LocalSigner,
    asked: Cell<u32>,
}

impl Signer for Device {
    fn server(&self) -> &ServerName {
        self.kept.server()
    }

    fn key_id(&self) -> &str {
        self.kept.key_id()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.asked.set(self.asked.get() + 1);
        self.kept.sign(message)
    }
}

#[test]
fn a_key_that_is_kept_elsewhere_signs_as_one_in_memory() {
    for version in ["1", "3", "6", "11", "12"] {
        let rules = rules(version);
        let json = event(version, json!({})).to_string();
        let device = |(name, id): (&str, &str)| Device {
            kept: LocalSigner::new(server(name).to_owned(), id, signing_key(name, id)),
            asked: Cell::new(0),
        };
        let [a, b] = [device(A), device(B)];
        let by_device = sign_by(&rules, json.as_bytes(), &a).expect("an event");
        assert_eq!(
            by_device,
            sign(&rules, json.as_bytes(), server(A.0), A.1, &signing_key(A.0, A.1)).expect("an event")
        );
        let again = sign_again_by(&rules, &by_device, &b).expect("an event");
        assert_eq!(again, sign_again(&rules, &by_device, server(B.0), B.1, &signing_key(B.0, B.1)).expect("an event"));
        assert_eq!((a.asked.get(), b.asked.get()), (1, 1));
        assert!(verify(&rules, again, &keys()).is_ok());
    }
}

#[test]
fn an_event_that_states_no_id_gets_one_of_its_own_up_to_version_2() {
    let signer = LocalSigner::new(server(A.0).to_owned(), A.1, signing_key(A.0, A.1));
    let id_of = |version: &str, changes: Value| {
        let mut event = event(version, changes);
        event.as_object_mut().expect("an object").remove("event_id");
        let pdu = sign_by(&rules(version), event.to_string().as_bytes(), &signer).expect("an event");
        assert!(verify(&rules(version), pdu.clone(), &keys()).is_ok());
        pdu.event_id().to_owned()
    };
    for version in ["1", "2"] {
        let event_id = id_of(version, json!({}));
        assert_eq!(event_id.server_name(), Some(server(A.0)));
        assert_eq!(event_id, id_of(version, json!({})));
        assert_ne!(event_id, id_of(version, json!({"depth": 4})));
    }
    assert_eq!(id_of("3", json!({})).server_name(), None);
}

#[test]
fn events_are_cited_with_their_hashes_up_to_version_2() {
    for version in ["1", "2", "3", "4", "12"] {
        let pdu = signed(version, json!({}), &[A]);
        let object: CanonicalJsonObject = serde_json::from_str(pdu.canonical_json()).expect("canonical JSON");
        let hash = reference_hash(&object, rules(version).ruma()).expect("an event");
        let expected = match version {
            "1" | "2" => json!([pdu.event_id(), {"sha256": hash}]),
            _ => json!(format!("${hash}")),
        };
        let reference = pdu.reference(&rules(version)).to_canonical(true).expect("canonical JSON");
        assert_eq!(serde_json::from_str::<Value>(&reference).expect("JSON"), expected, "{version}");
    }
}
