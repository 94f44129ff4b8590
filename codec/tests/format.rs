//! Check 1: the event format and sizes of each room version, and the event IDs.

use gibbous_codec::{
    FormatError, OwnedEventId, PDU_BYTES_MAX, Pdu, RoomRules, RoomVersionId,
    json::{JsonError, NotCanonical},
};
use proptest::prelude::*;
use ruma::{CanonicalJsonObject, signatures::reference_hash};
use serde_json::{Value, json};

fn rules(version: &str) -> RoomRules {
    RoomRules::of(&RoomVersionId::try_from(version).expect("a version")).expect("a known version")
}

fn versions() -> impl Iterator<Item = (u8, RoomRules)> {
    (1..=12).map(|version| (version, rules(&version.to_string())))
}

/// Returns an event that is well-formed in the room version.
fn event(version: u8) -> Value {
    let cited = if version < 3 { json!([["$c:a.example", {"sha256": "x"}]]) } else { json!(["$c"]) };
    let mut event = json!({
        "auth_events": cited,
        "content": {"body": "hello"},
        "depth": 3,
        "hashes": {"sha256": "x"},
        "origin_server_ts": 5,
        "prev_events": cited,
        "room_id": "!r:a.example",
        "sender": "@u:a.example",
        "signatures": {},
        "type": "m.room.message",
    });
    if version < 3 {
        event["event_id"] = json!("$e:a.example");
    }
    event
}

fn parse(version: u8, event: &Value) -> Result<Pdu, FormatError> {
    Pdu::parse(&rules(&version.to_string()), event.to_string().as_bytes())
}

/// Parses the event of `version` with the text `value` at `key`.
fn parse_with(version: u8, key: &str, value: &str) -> Result<Pdu, FormatError> {
    let mut event = event(version);
    event[key] = json!("@@");
    let text = event.to_string().replace("\"@@\"", value);
    Pdu::parse(&rules(&version.to_string()), text.as_bytes())
}

#[track_caller]
fn invalid(result: Result<Pdu, FormatError>) -> &'static str {
    match result {
        Err(FormatError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_fields_are_read() {
    for (version, rules) in versions() {
        let mut event = event(version);
        event["state_key"] = json!("a\"b\u{e9}");
        event["unsigned"] = json!({"age": 1.5});
        let pdu = Pdu::parse(&rules, event.to_string().as_bytes()).expect("an event");
        assert_eq!((pdu.room_id().as_str(), pdu.sender().as_str()), ("!r:a.example", "@u:a.example"));
        assert_eq!((pdu.event_type(), pdu.state_key()), ("m.room.message", Some("a\"b\u{e9}")));
        assert_eq!((pdu.depth(), pdu.origin_server_ts()), (3, 5));
        assert_eq!(pdu.prev_events(), pdu.auth_events());
        assert_eq!(pdu.prev_events(), [if version < 3 { "$c:a.example" } else { "$c" }]);
        assert_eq!(pdu.content().get(), r#"{"body":"hello"}"#);
        assert_eq!(pdu.field("depth").map(|depth| depth.get()), Some("3"));
        assert_eq!((pdu.membership(), pdu.redacts()), (None, None));
        assert!(pdu.field("unsigned").is_none());

        event.as_object_mut().expect("an object").remove("unsigned");
        // serde_json sorts keys too.
        assert_eq!(pdu.canonical_json(), event.to_string());
        let stored = Pdu::from_stored(&rules, pdu.event_id().to_owned(), pdu.canonical_json().as_bytes());
        assert_eq!(stored, Ok(pdu));
    }
}

#[test]
fn only_stable_room_versions_are_known() {
    for version in ["0", "13", "org.matrix.msc2870", ""] {
        assert!(RoomVersionId::try_from(version).ok().and_then(|version| RoomRules::of(&version)).is_none());
    }
}

#[test]
fn what_the_format_requires_must_be_there() {
    for (version, rules) in versions() {
        let required = ["auth_events", "content", "depth", "hashes", "origin_server_ts", "prev_events", "room_id"];
        let required = required.into_iter().chain(["sender", "signatures", "type"]);
        for key in required.chain((version < 3).then_some("event_id")) {
            let mut event = event(version);
            event.as_object_mut().expect("an object").remove(key);
            match Pdu::parse(&rules, event.to_string().as_bytes()) {
                Err(FormatError::Missing { field, .. }) => assert_eq!(field, key),
                other => panic!("{key}: {other:?}"),
            }
            for wrong in ["null", "[[]]", "true", "-1", "\"\""] {
                let result = parse_with(version, key, wrong);
                if (key, wrong) == ("type", "\"\"") {
                    assert!(result.is_ok());
                } else {
                    assert_eq!(invalid(result), key, "{wrong}");
                }
            }
        }
        assert_eq!(invalid(parse_with(version, "state_key", "null")), "state_key");
        assert_eq!(invalid(parse_with(version, "hashes", r#"{"sha256":1}"#)), "hashes.sha256");
        let no_hash = parse_with(version, "hashes", "{}");
        assert!(matches!(no_hash, Err(FormatError::Missing { field: "hashes.sha256", .. })), "{no_hash:?}");
    }
}

#[test]
fn what_is_no_object_is_no_event() {
    for text in ["null", "[]", "\"{}\"", "1"] {
        let result = Pdu::parse(&rules("10"), text.as_bytes());
        assert!(matches!(result, Err(FormatError::Missing { field: "event", .. })), "{text}");
    }
    assert!(matches!(Pdu::parse(&rules("10"), b"{"), Err(FormatError::Json(JsonError::Syntax { .. }))));
    assert!(matches!(Pdu::parse(&rules("10"), b"\xff"), Err(FormatError::Json(JsonError::NotUtf8 { at: 0 }))));
    assert!(matches!(Pdu::parse(&rules("10"), b""), Err(FormatError::Json(JsonError::Syntax { at: 0, .. }))));
}

#[test]
fn numbers_outside_canonical_json_are_refused_from_version_6_on() {
    for (version, _) in versions() {
        for number in
            ["1.5", "1.0", "1e3", "-0.0", "9007199254740992", "-9007199254740992", "123456789012345678901234567890"]
        {
            let result = parse_with(version, "content", &format!(r#"{{"a":[{number}]}}"#));
            if version < 6 {
                assert!(result.is_ok(), "v{version}: {number}");
            } else {
                assert!(matches!(result, Err(FormatError::Number(NotCanonical(_)))), "v{version}: {number}");
            }
        }
        // What is dropped need not be canonical.
        assert!(parse_with(version, "unsigned", r#"{"a":1.5,"b":1e999}"#).is_ok());
        // Servers read `-0` as 0, and hash it so.
        let zero = parse_with(version, "content", r#"{"a":-0}"#).expect("an event");
        assert_eq!(zero.content().get(), r#"{"a":0}"#);
        let number = parse_with(version, "content", r#"{"a":-9007199254740991}"#).expect("an event");
        assert_eq!(number.content().get(), r#"{"a":-9007199254740991}"#);
    }
}

#[test]
fn json_that_is_read_in_more_than_one_way_is_refused_in_every_version() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    for (version, _) in versions() {
        let check = |content: &str| parse_with(version, "content", content).expect_err(content);
        let duplicate = FormatError::Json(JsonError::DuplicateKey { key: "a".to_owned() });
        assert_eq!(check(r#"{"a":1,"a":1}"#), duplicate);
        assert_eq!(check(r#"{"b":{"a":1,"\u0061":2}}"#), duplicate);
        let surrogate = check(r#"{"a":"\ud800"}"#);
        assert!(matches!(surrogate, FormatError::Json(JsonError::UnpairedSurrogate { .. })), "{surrogate}");
        for number in ["NaN", "Infinity", "-Infinity"] {
            let error = check(&format!(r#"{{"a":{number}}}"#));
            assert!(matches!(error, FormatError::Json(JsonError::Syntax { .. })), "{error}");
        }
        assert!(matches!(check(r#"{"a":1e999}"#), FormatError::Json(JsonError::NotFinite { .. })));
        // The event and its content are two levels of the 128.
        assert!(parse_with(version, "content", &nested(126)).is_ok());
        assert!(matches!(check(&nested(127)), FormatError::Json(JsonError::TooDeep { .. })));
        assert!(matches!(check(&nested(20_000)), FormatError::Json(JsonError::TooDeep { .. })));
        let deep = parse_with(version, "unsigned", &nested(1_000_000));
        assert!(matches!(deep, Err(FormatError::Json(JsonError::TooDeep { .. }))));
    }
    let twice = event(10).to_string().replacen('{', "{\"type\":\"x\",", 1);
    assert!(Pdu::parse(&rules("10"), twice.as_bytes()).is_err());
}

#[test]
fn depth_and_time_are_bounded() {
    for (version, _) in versions() {
        let greatest = if version < 6 { "9223372036854775807" } else { "9007199254740991" };
        for key in ["depth", "origin_server_ts"] {
            assert!(parse_with(version, key, "0").is_ok());
            assert!(parse_with(version, key, greatest).is_ok());
            assert_eq!(invalid(parse_with(version, key, "-1")), key);
            for number in ["9223372036854775808", "18446744073709551616", "1.0", "1e1"] {
                assert!(parse_with(version, key, number).is_err(), "{number}");
            }
        }
        assert_eq!(parse_with(version, "depth", "9007199254740992").is_ok(), version < 6);
    }
}

#[test]
fn identifiers_are_bounded_in_bytes() {
    for (version, _) in versions() {
        // 127 characters of two bytes, and one of one.
        let state_key = format!("{}a", "é".repeat(127));
        let fields = [
            ("sender", format!("@{}:a.example", "u".repeat(244))),
            ("room_id", format!("!{}:a.example", "r".repeat(244))),
            ("type", "t".repeat(255)),
            ("state_key", state_key),
        ];
        let event_id = (version < 3).then(|| ("event_id", format!("${}:a.example", "e".repeat(244))));
        for (key, longest) in fields.into_iter().chain(event_id) {
            assert_eq!(longest.len(), 255);
            assert!(parse_with(version, key, &format!("\"{longest}\"")).is_ok(), "{key}");
            let longer = longest.replacen(|c: char| c.is_ascii_alphabetic(), "ab", 1);
            let error = parse_with(version, key, &format!("\"{longer}\"")).expect_err(key);
            assert_eq!(error, FormatError::TooLong { field: static_name(key), found: 256, max: 255 });
        }
        if version >= 3 {
            let cited = |len: usize| format!(r#"["${}"]"#, "c".repeat(len - 1));
            assert!(parse_with(version, "prev_events", &cited(255)).is_ok());
            assert!(parse_with(version, "prev_events", &cited(256)).is_err());
        }
    }
    let given = OwnedEventId::try_from(format!("${}", "e".repeat(255))).expect("an ID");
    let result = Pdu::with_event_id(&rules("10"), given, event(10).to_string().as_bytes());
    assert!(matches!(result, Err(FormatError::TooLong { field: "event_id", .. })));
}

fn static_name(key: &str) -> &'static str {
    ["sender", "room_id", "type", "state_key", "event_id"].into_iter().find(|name| *name == key).expect("a field")
}

#[test]
fn cited_events_are_bounded_in_number() {
    for (version, rules) in versions() {
        for (key, max) in [("prev_events", 20), ("auth_events", 10)] {
            let cited = |count: usize| {
                let ids = (0..count).map(|i| format!("$c{i}:a.example"));
                let cited: Vec<Value> =
                    ids.map(|id| if version < 3 { json!([id, {"sha256": "x"}]) } else { json!(id) }).collect();
                json!(cited).to_string()
            };
            assert!(parse_with(version, key, "[]").is_ok());
            assert_eq!(parse_with(version, key, &cited(max)).map(|_| ()), Ok(()));
            let error = parse_with(version, key, &cited(max + 1)).expect_err(key);
            assert!(
                matches!(error, FormatError::TooMany { found, max: limit, .. } if found == max + 1 && limit == max)
            );
            // What was stored is not judged again.
            let mut stored = event(version);
            stored[key] = serde_json::from_str(&cited(max + 1)).expect("JSON");
            let event_id = OwnedEventId::try_from("$e:a.example").expect("an ID");
            assert!(Pdu::from_stored(&rules, event_id, stored.to_string().as_bytes()).is_ok());
        }
    }
}

#[test]
fn the_size_is_that_of_canonical_json_without_unsigned() {
    for (version, rules) in versions() {
        let sized = |size: usize| {
            let mut event = event(version);
            event["content"]["body"] = json!("");
            let empty = event.to_string().len();
            event["content"]["body"] = json!("x".repeat(size - empty));
            assert_eq!(event.to_string().len(), size);
            event
        };
        let largest = parse(version, &sized(PDU_BYTES_MAX)).expect("an event");
        assert_eq!(largest.canonical_json().len(), 65_536);
        let error = parse(version, &sized(PDU_BYTES_MAX + 1));
        assert!(matches!(error, Err(FormatError::TooLarge { max: PDU_BYTES_MAX, .. })), "{error:?}");
        assert!(matches!(parse(version, &sized(10 << 20)), Err(FormatError::TooLarge { .. })));

        // White space, escapes and `unsigned` do not count.
        let mut event = sized(PDU_BYTES_MAX);
        event["unsigned"] = json!({"big": "y".repeat(200_000)});
        let text = serde_json::to_string_pretty(&event).expect("JSON").replace("xxx", "\\u0078xx");
        assert_eq!(Pdu::parse(&rules, text.as_bytes()), Ok(largest));
    }
    // A long way to write a short number.
    let float = format!("{{\"a\":1.{}}}", "0".repeat(100_000));
    assert_eq!(parse_with(5, "content", &float).expect("an event").content().get(), r#"{"a":1.0}"#);
}

#[test]
fn event_ids_are_stated_up_to_version_2_and_hashes_from_version_3_on() {
    let mut standard = false;
    for (version, rules) in versions() {
        for ts in 0..50 {
            let mut event = event(version);
            event["origin_server_ts"] = json!(ts);
            let pdu = parse(version, &event).expect("an event");
            if version < 3 {
                assert_eq!(pdu.event_id(), "$e:a.example");
                continue;
            }
            let object: CanonicalJsonObject = serde_json::from_value(event).expect("canonical JSON");
            let hash = reference_hash(&object, rules.ruma()).expect("a hash");
            assert_eq!(pdu.event_id().as_str(), format!("${hash}"));
            assert_eq!(hash.len(), 43);
            if version == 3 {
                standard |= hash.contains(['+', '/']);
                assert!(!hash.contains(['-', '_']));
            } else {
                assert!(!hash.contains(['+', '/']));
            }
        }
    }
    assert!(standard);
}

#[test]
fn event_ids_up_to_version_2_name_a_server() {
    for version in [1, 2] {
        assert_eq!(invalid(parse_with(version, "event_id", "\"$e\"")), "event_id");
        assert_eq!(invalid(parse_with(version, "event_id", "\"e:a.example\"")), "event_id");
        assert_eq!(invalid(parse_with(version, "event_id", "\"$e:a b\"")), "event_id");
    }
}

#[test]
fn events_are_cited_with_hashes_up_to_version_2() {
    for (version, _) in versions() {
        let (with, without) = (r#"[["$c:a.example",{"sha256":"x"}]]"#, r#"["$c:a.example"]"#);
        assert_eq!(parse_with(version, "prev_events", with).is_ok(), version < 3);
        assert_eq!(parse_with(version, "auth_events", without).is_ok(), version >= 3);
    }
    for cited in
        [r#"[["$c:a.example"]]"#, r#"[["$c:a.example",{},{}]]"#, r#"[["$c:a.example","x"]]"#, r#"[[{},"$c"]]"#, "[[]]"]
    {
        assert_eq!(invalid(parse_with(1, "prev_events", cited)), "prev_events");
    }
    for cited in [r#"["c"]"#, "[1]", "[null]", r#"[""]"#, r#"["$c:a b"]"#] {
        assert_eq!(invalid(parse_with(10, "prev_events", cited)), "prev_events");
    }
}

#[test]
fn an_event_id_key_from_version_3_on_is_hashed_and_not_trusted() {
    let plain = parse(10, &event(10)).expect("an event");
    let keyed = parse_with(10, "event_id", "\"$forged\"").expect("an event");
    assert_ne!(keyed.event_id(), "$forged");
    assert_ne!(keyed.event_id(), plain.event_id());
    assert_eq!(keyed.redacted(&rules("10")).field("event_id").map(|id| id.get()), Some("\"$forged\""));
    // It need not even be an ID.
    assert!(parse_with(10, "event_id", "[]").is_ok());
}

#[test]
fn numbers_of_old_rooms_are_hashed_as_python_writes_them() {
    // The ID was computed by Python 3.11: json.dumps with sorted keys over the redacted event, SHA-256.
    let content =
        r#"{"users_default":10.7,"events":{"a":1e22,"b":123456789012345678901234567890,"c":1E-5,"d":-0.0,"e":100.0}}"#;
    let mut event = event(5);
    event["type"] = json!("m.room.power_levels");
    event["state_key"] = json!("");
    event["content"] = json!("@@");
    let text = event.to_string().replace("\"@@\"", content);
    let pdu = Pdu::parse(&rules("5"), text.as_bytes()).expect("an event");
    assert_eq!(
        pdu.content().get(),
        r#"{"events":{"a":1e+22,"b":123456789012345678901234567890,"c":1e-05,"d":-0.0,"e":100.0},"users_default":10.7}"#
    );
    assert_eq!(pdu.event_id(), "$zcoiKvJ6IwKx9mDLvvUVLVDSm9pfbN6LLra0chOrbL4");
}

#[test]
fn the_room_id_of_a_create_event_is_its_hash_from_version_12_on() {
    for (version, rules) in versions() {
        let mut create = event(version);
        create["type"] = json!("m.room.create");
        create["state_key"] = json!("");
        assert_eq!(parse(version, &create).expect("an event").room_id(), "!r:a.example");
        create.as_object_mut().expect("an object").remove("room_id");
        let result = parse(version, &create);
        if version < 12 {
            assert!(matches!(result, Err(FormatError::Missing { field: "room_id", .. })));
            continue;
        }
        let pdu = result.expect("an event");
        assert_eq!(pdu.room_id().as_str().strip_prefix('!'), pdu.event_id().as_str().strip_prefix('$'));
        assert!(pdu.field("room_id").is_none());
        assert_eq!(pdu.redacted(&rules).room_id(), pdu.room_id());
        // A stated one is for authorisation to reject, whatever it is.
        create["room_id"] = json!(7);
        let pdu = parse(version, &create).expect("an event");
        assert_eq!(pdu.room_id().as_str().strip_prefix('!'), pdu.event_id().as_str().strip_prefix('$'));
        assert_eq!(pdu.field("room_id").map(|room_id| room_id.get()), Some("7"));
    }
    assert!(parse_with(12, "room_id", "\"!abc\"").is_ok());
    for room_id in ["\"abc\"", "\"\"", "\"!a\\u0000b\"", "\"#r:a.example\""] {
        assert_eq!(invalid(parse_with(12, "room_id", room_id)), "room_id");
    }
}

#[test]
fn what_authorisation_rejects_is_an_event_all_the_same() {
    for (version, _) in versions() {
        let check = |event_type: &str, state_key: Option<&str>, content: Value| {
            let mut event = event(version);
            event["type"] = json!(event_type);
            event["content"] = content;
            if let Some(state_key) = state_key {
                event["state_key"] = json!(state_key);
            }
            parse(version, &event).expect("an event")
        };
        assert_eq!(check("m.room.member", Some("@u:a.example"), json!({})).membership(), None);
        assert_eq!(check("m.room.member", Some("@u:a.example"), json!({"membership": 1})).membership(), None);
        assert_eq!(check("m.room.member", None, json!({"membership": "join"})).membership(), Some("join"));
        assert_eq!(check("m.other", Some(""), json!({"membership": "join"})).membership(), None);
        check("m.room.power_levels", Some(""), json!({"users": [1]}));
        check("m.room.create", Some("x"), json!({"creator": 1}));
        check("", None, json!({}));
    }
}

#[test]
fn the_redacted_event_is_named_at_the_top_up_to_version_10_and_in_the_content_later() {
    for (version, rules) in versions() {
        let mut event = event(version);
        event["type"] = json!("m.room.redaction");
        event["redacts"] = json!("$top:a.example");
        event["content"]["redacts"] = json!("$content:a.example");
        let pdu = parse(version, &event).expect("an event");
        let redacts = if version < 11 { "$top:a.example" } else { "$content:a.example" };
        assert_eq!(pdu.redacts().map(|id| id.as_str()), Some(redacts));
        let redacted = pdu.redacted(&rules);
        assert_eq!(redacted.redacts().is_some(), version >= 11);
        let stored = Pdu::from_stored(&rules, pdu.event_id().to_owned(), redacted.canonical_json().as_bytes());
        assert_eq!(stored, Ok(redacted));
        for (top, content) in [(json!(1), json!({"redacts": 1})), (json!("x"), json!({"redacts": "x"}))] {
            event["redacts"] = top;
            event["content"] = content;
            assert_eq!(parse(version, &event).expect("an event").redacts(), None);
        }
        event["type"] = json!("m.room.message");
        event["redacts"] = json!("$top:a.example");
        assert_eq!(parse(version, &event).expect("an event").redacts(), None);
    }
}

#[test]
fn signing_key_ids_are_told_by_server() {
    let signatures = r#"{"a.example":{"ed25519:1":"x","ed25519:2":"y","rsa:1":7},"b.example:8448":{"ed25519:b":"z"},"c.example":[]}"#;
    let pdu = parse_with(10, "signatures", signatures).expect("an event");
    let ids = |server: &str| pdu.signing_key_ids(server.try_into().expect("a server"));
    assert_eq!(ids("a.example"), ["ed25519:1", "ed25519:2"]);
    assert_eq!(ids("b.example:8448"), ["ed25519:b"]);
    assert!(ids("c.example").is_empty());
    assert!(ids("d.example").is_empty());
}

#[test]
fn damaged_stored_bytes_are_an_error_or_an_event_but_no_panic() {
    let rules = rules("10");
    let mut whole = event(10);
    whole["content"] = json!({"a\"b": ["}", 1, null], "c": {"d": "\\é"}});
    let whole = whole.to_string();
    let event_id = OwnedEventId::try_from("$e").expect("an ID");
    let check = |bytes: &[u8]| {
        if let Ok(pdu) = Pdu::from_stored(&rules, event_id.clone(), bytes) {
            let _ = (pdu.content().get(), pdu.field("content"), pdu.redacted(&rules).content().get());
        }
    };
    for at in 0..whole.len() {
        check(&whole.as_bytes()[..at]);
        for byte in [b'"', b'\\', b'{', b'}', b',', b' ', b'x', 0, 0xff] {
            let mut damaged = whole.clone().into_bytes();
            damaged[at] = byte;
            check(&damaged);
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_json_is_read_as_serde_json_reads_it(value in any_json()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("JSON")] {
            let ours = gibbous_codec::json::Value::parse(text.as_bytes()).expect("JSON");
            prop_assert_eq!(ours.to_canonical(true).expect("canonical"), value.to_string());
        }
    }

    #[test]
    fn text_like_json_is_refused_where_serde_json_refuses_it(text in r#"[\[\]{}",:\\0-9eE.+truefalsn \n-]{0,12}"#) {
        let ours = gibbous_codec::json::Value::parse(text.as_bytes());
        let theirs = serde_json::from_str::<Value>(&text);
        match (&ours, &theirs) {
            (Err(JsonError::DuplicateKey { .. }), Ok(_)) => {}
            _ => prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}, {:?}", ours, theirs),
        }
    }

    #[test]
    fn the_shortest_digits_of_a_float_give_it_again(bits in any::<u64>()) {
        let float = f64::from_bits(bits);
        prop_assume!(float.is_finite());
        let text = gibbous_codec::json::Value::Float(float).to_canonical(false).expect("old rooms have floats");
        prop_assert_eq!(text.parse::<f64>().expect("a float").to_bits(), bits);
        prop_assert!(text.contains(['.', 'e']));
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Pdu::parse(&rules("10"), &bytes).is_err());
    }

    #[test]
    fn an_event_with_any_content_is_stored_and_redacted(content in any_json(), extra in any_json()) {
        prop_assume!(content.is_object());
        for version in [1, 5, 6, 11, 12] {
            let rules = rules(&version.to_string());
            let mut event = event(version);
            event["content"] = content.clone();
            event["extra"] = extra.clone();
            let pdu = Pdu::parse(&rules, event.to_string().as_bytes()).expect("an event");
            prop_assert_eq!(pdu.canonical_json(), event.to_string());
            prop_assert_eq!(pdu.content().get(), content.to_string());
            prop_assert_eq!(pdu.field("extra").map(|extra| extra.get().to_owned()), Some(extra.to_string()));
            let stored = Pdu::from_stored(&rules, pdu.event_id().to_owned(), pdu.canonical_json().as_bytes());
            prop_assert_eq!(stored.as_ref(), Ok(&pdu));
            let redacted = pdu.redacted(&rules);
            prop_assert_eq!(redacted.redacted(&rules), redacted.clone());
            let again = Pdu::parse(&rules, redacted.canonical_json().as_bytes());
            prop_assert_eq!(again, Ok(redacted));
        }
    }
}
