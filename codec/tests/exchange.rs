//! The exchange formats: compression, broken lines, large lines, every kind of record, and vectors.

use std::io::{self, BufRead, BufReader, Read, Write};

use gibbous_codec::{
    Pdu, RoomRules,
    exchange::{
        Answer, AnswerError, AuthVector, Decision, ExchangeError, ExpectedState, ExpectedStatus, Record, RecordReader,
        ResolveVector, Vectors, Why, open, reader,
    },
};

const RECORDING: &str = r##"{"kind":"room","room_id":"!r:a.example","room_version":"10","our_server":"b.example","users":["@u:b.example"]}
{"kind":"send_join","joined_via":"a.example","event_id":"$j","pdu":{"a": 1 },"response":{"members_omitted":true},"later":[1]}

{"kind":"pdu","origin":"a.example","event_id":"$p","pdu":{}}
{"kind":"local","event_id":"$l","pdu":{}}
  	
{"kind":"resync","rounds":3}
{"kind":"resync"}
{"kind":"restart"}
{"kind":"leave","user_id":"@u:b.example","event_id":"$x","pdu":{}}
{"kind":"purge"}
{"kind":"server_keys","server":"a.example","verify_keys":{"ed25519:1":{"key":"AA"}},"old_verify_keys":{"ed25519:0":{"key":"BB","expired_ts":5}},"valid_until_ts":7}
{"kind":"server_keys","server":"a.example","verify_keys":{},"valid_until_ts":7}
{"kind":"state_ids","event_id":"$p","response":{"pdu_ids":[],"auth_chain_ids":[]}}
{"kind":"state_ids","server":"a.example:8448","event_id":"$p","error":{"timeout":true}}
{"kind":"state","event_id":"$p","error":{"errcode":"M_NOT_FOUND","status":404}}
{"kind":"event","event_id":"$p","pdu":{"a":2}}
{"kind":"event","event_id":"$p","error":{"timeout":true}}
{"kind":"missing_events","earliest":["$e"],"latest":["$l"],"response":{"events":[]}}
{"kind":"backfill","event_ids":["$e"],"limit":10,"response":{"pdus":[]}}
{"kind":"expect_state_before","event_id":"$p","state":["$b","$a"]}
{"kind":"expect_current_state","sha256":"0b3b7a4fd77069c9a5f9104d9d9793ead66a9692efeb14d75931611d2d3048aa","count":2}
{"kind":"expect_status","event_id":"$p","status":"soft_failed","disputed":true}
{"kind":"expect_status","event_id":"$p","status":"dropped"}
{"kind":"expect_partial","state":[]}"##;

fn records(bytes: impl Into<Vec<u8>>) -> Vec<Result<(u64, Record), ExchangeError>> {
    RecordReader::new(reader(io::Cursor::new(bytes.into())).expect("a reader")).collect()
}

#[track_caller]
fn refused(line: &str) -> Why {
    let mut found = records(format!("{{\"kind\":\"restart\"}}\n\n{line}\n{{\"kind\":\"restart\"}}\n"));
    let error = found.pop().expect("a record").expect_err(line);
    assert_eq!(found.len(), 1);
    assert_eq!(error.line, 3);
    assert!(error.to_string().starts_with("line 3: "), "{error}");
    error.why
}

#[test]
fn every_kind_of_record_is_read() {
    let records: Vec<_> = records(RECORDING).into_iter().map(|record| record.expect("a record")).collect();
    let lines: Vec<u64> = records.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2].into_iter().chain(4..=5).chain(7..=25).collect::<Vec<_>>());
    let mut records = records.into_iter().map(|(_, record)| record);
    let mut next = || records.next().expect("a record");

    let Record::Room { room_id, room_version, our_server, users } = next() else { panic!() };
    assert_eq!((room_id.as_str(), room_version.as_str()), ("!r:a.example", "10"));
    assert_eq!((our_server.as_str(), users[0].as_str(), users.len()), ("b.example", "@u:b.example", 1));
    let Record::SendJoin { joined_via, event_id, pdu, response } = next() else { panic!() };
    assert_eq!((joined_via.as_str(), event_id.as_str()), ("a.example", "$j"));
    // Byte for byte as they stand.
    assert_eq!((pdu.get(), response.get()), (r#"{"a": 1 }"#, r#"{"members_omitted":true}"#));
    assert!(matches!(next(), Record::Pdu { origin, event_id, .. } if origin == "a.example" && event_id == "$p"));
    assert!(matches!(next(), Record::Local { event_id, .. } if event_id == "$l"));
    assert!(matches!(next(), Record::Resync { rounds: Some(3) }));
    assert!(matches!(next(), Record::Resync { rounds: None }));
    assert!(matches!(next(), Record::Restart));
    assert!(matches!(next(), Record::Leave { user_id, .. } if user_id == "@u:b.example"));
    assert!(matches!(next(), Record::Purge));
    let Record::ServerKeys { verify_keys, old_verify_keys, valid_until_ts, .. } = next() else { panic!() };
    assert_eq!((verify_keys["ed25519:1"].as_str(), valid_until_ts), ("AA", 7));
    assert_eq!((old_verify_keys["ed25519:0"].key.as_str(), old_verify_keys["ed25519:0"].expired_ts), ("BB", 5));
    assert!(matches!(next(), Record::ServerKeys { old_verify_keys, .. } if old_verify_keys.is_empty()));
    assert!(matches!(next(), Record::StateIds { server: None, answer: Answer::Response(_), .. }));
    let Record::StateIds { server, answer: Answer::Error(error), .. } = next() else { panic!() };
    assert_eq!((server.expect("a server").as_str(), error), ("a.example:8448", AnswerError::Timeout));
    let Record::State { answer: Answer::Error(error), .. } = next() else { panic!() };
    assert_eq!(error, AnswerError::Status { status: 404, errcode: "M_NOT_FOUND".to_owned() });
    assert!(matches!(next(), Record::Event { answer: Answer::Response(pdu), .. } if pdu.get() == r#"{"a":2}"#));
    assert!(matches!(next(), Record::Event { answer: Answer::Error(AnswerError::Timeout), .. }));
    assert!(matches!(next(), Record::MissingEvents { earliest, .. } if earliest[0] == "$e"));
    assert!(matches!(next(), Record::Backfill { limit: Some(10), .. }));
    let Record::ExpectStateBefore { state, .. } = next() else { panic!() };
    assert_eq!(state, ExpectedState::Ids(vec!["$b".to_owned(), "$a".to_owned()]));
    let Record::ExpectCurrentState { state } = next() else { panic!() };
    assert!(matches!(state, ExpectedState::Digest { count: Some(2), .. }));
    let status = |record| match record {
        Record::ExpectStatus { status, disputed, .. } => (status, disputed),
        _ => panic!(),
    };
    assert_eq!(status(next()), (ExpectedStatus::SoftFailed, true));
    assert_eq!(status(next()), (ExpectedStatus::Dropped, false));
    assert!(matches!(next(), Record::ExpectPartial { state: ExpectedState::Ids(ids) } if ids.is_empty()));
}

#[test]
fn a_broken_line_is_named_by_its_number() {
    assert!(matches!(refused("{\"kind\":\"resync\""), Why::Json(_)));
    assert!(matches!(refused("[]"), Why::Json(_)));
    assert!(matches!(refused("{\"kind\":1}"), Why::Json(_)));
    assert!(matches!(refused("{\"kind\":\"restart\"} {}"), Why::Json(_)));
    assert!(matches!(refused("{\"kind\":\"unheard\"}"), Why::UnknownKind(kind) if kind == "unheard"));
    assert!(matches!(refused("{}"), Why::UnknownKind(kind) if kind.is_empty()));
    for (line, field) in [
        (r#"{"kind":"leave","event_id":"$x","pdu":{}}"#, "user_id"),
        (r#"{"kind":"leave","user_id":"u","event_id":"$x","pdu":{}}"#, "user_id"),
        (r#"{"kind":"resync","rounds":-1}"#, "rounds"),
        (r#"{"kind":"state","event_id":"$x"}"#, "response"),
        (r#"{"kind":"event","event_id":"$x","response":{}}"#, "pdu"),
        (r#"{"kind":"state","event_id":"$x","error":{"status":404}}"#, "error"),
        (r#"{"kind":"expect_partial"}"#, "state"),
        (r#"{"kind":"expect_status","event_id":"$x","status":"fine"}"#, "status"),
    ] {
        assert!(matches!(refused(line), Why::Field { field: found, .. } if found == field), "{line}");
    }
    assert!(matches!(refused("\"\u{1}"), Why::Json(_)));
    assert!(records("").is_empty());
}

#[test]
fn expected_states_are_compared_as_sets() {
    let ids = ExpectedState::Ids(vec!["$b".to_owned(), "$a".to_owned()]);
    assert!(ids.is(["$a", "$b"]));
    assert!(!ids.is(["$a"]));
    // printf '$a\n$b' | sha256sum
    let sha256 = "0b3b7a4fd77069c9a5f9104d9d9793ead66a9692efeb14d75931611d2d3048aa".to_owned();
    let digest = ExpectedState::Digest { sha256, count: Some(2) };
    assert!(digest.is(["$b", "$a"]));
    assert!(!digest.is(["$b", "$a", "$c"]));
}

/// Gives one byte at a time, as a slow pipe may.
struct Trickle<R>(R);

impl<R: Read> Read for Trickle<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(1);
        self.0.read(&mut buffer[..len])
    }
}

#[test]
fn compression_is_told_by_the_first_bytes() {
    let zstd = zstd::encode_all(RECORDING.as_bytes(), 3).expect("zstd");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(RECORDING.as_bytes()).expect("gzip");
    let gzip = gzip.finish().expect("gzip");
    // Files put end to end are one file, in either compression.
    let twice = |bytes: &[u8]| [bytes, bytes].concat();
    for (bytes, times) in
        [(RECORDING.as_bytes().to_vec(), 1), (zstd.clone(), 1), (gzip.clone(), 1), (twice(&zstd), 2), (twice(&gzip), 2)]
    {
        let mut read = String::new();
        reader(Trickle(io::Cursor::new(bytes))).and_then(|mut input| input.read_to_string(&mut read)).expect("a text");
        assert_eq!(read, RECORDING.repeat(times));
    }
    for short in ["", "a", "{}", "\u{1f}"] {
        let mut read = String::new();
        reader(io::Cursor::new(short)).and_then(|mut input| input.read_to_string(&mut read)).expect("a text");
        assert_eq!(read, short);
    }
}

#[test]
fn damaged_compression_is_an_error_of_its_line() {
    let mut zstd = zstd::encode_all(RECORDING.as_bytes(), 3).expect("zstd");
    zstd.truncate(zstd.len() / 2);
    let last = records(zstd).pop().expect("a record");
    assert!(matches!(last, Err(ExchangeError { why: Why::Io(_), .. })), "{last:?}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let error = open("/nonexistent/recording.jsonl").err().expect("no file");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_line_of_many_megabytes_is_read() {
    // 64 MiB of white space inside one record, never in memory but as the line itself.
    let head = &b"{\"kind\":\"resync\","[..];
    let tail = &b"\"rounds\":2}\n{\"kind\":\"restart\"}\n"[..];
    let line = head.chain(io::repeat(b' ').take(64 << 20)).chain(tail);
    let mut records = RecordReader::new(BufReader::new(line));
    assert!(matches!(records.next(), Some(Ok((1, Record::Resync { rounds: Some(2) })))));
    assert!(matches!(records.next(), Some(Ok((2, Record::Restart)))));
    assert!(records.next().is_none());
}

const RESOLVE: &str = r#"{"name":"n","source":"s","room_version":"11","events":[
  {"event_id":"$a:example.org","rejected":true,"pdu":{"x":1}},
  {"event_id":"$b","pdu":{}}],
 "state_sets":[["$a:example.org"],[]],"expected":["$b"],"disputed":"so","expected_literal":[]}"#;

#[test]
fn a_vector_may_stand_on_one_line_or_over_many() {
    let check = |text: &str, lines: &[u64]| {
        let vectors: Vec<(u64, ResolveVector)> =
            Vectors::new(text.as_bytes()).collect::<Result<_, _>>().expect("vectors");
        assert_eq!(vectors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), lines);
        let (_, vector) = vectors.first().expect("a vector");
        assert_eq!((vector.events[0].rejected, vector.events[1].rejected), (true, false));
        assert_eq!(vector.events[0].pdu.get(), r#"{"x":1}"#);
        assert_eq!((vector.state_sets.len(), vector.expected.len()), (2, 1));
        assert_eq!((vector.disputed.as_deref(), vector.expected_literal.as_ref().map(Vec::len)), (Some("so"), Some(0)));
    };
    check(RESOLVE, &[1]);
    check(&format!("\n\n{RESOLVE}\n"), &[3]);
    let line = RESOLVE.replace('\n', "");
    check(&format!("{line}\n\n{line}"), &[1, 3]);
}

#[test]
fn a_broken_vector_is_named_by_its_line() {
    let check = |text: &str, line| {
        let vectors: Vec<_> = Vectors::<_, ResolveVector>::new(text.as_bytes()).collect();
        let last = vectors.last().expect("an error").as_ref().expect_err(text);
        assert_eq!(last.line, line, "{last}");
    };
    let one = RESOLVE.replace('\n', "");
    check(&format!("{one}\n{one}\n{{\"name\":\n"), 3);
    check(&format!("{one}\n[]"), 2);
    check(&RESOLVE.replace("\"$b\",", "\"$b\";"), 3);
    check(&RESOLVE.replace("\"expected\"", "\"expects\""), 4);
}

#[test]
fn authorisation_vectors_are_read() {
    let text = r#"{"name":"n","source":"s","room_version":"10","events":[],"state":["$a"],"event":{"event_id":"$b","pdu":{}},"expected":"reject","rule":"r"}"#;
    let (_, vector) = Vectors::<_, AuthVector>::new(text.as_bytes()).next().expect("one").expect("a vector");
    assert_eq!((vector.expected, vector.rule.as_deref(), vector.disputed), (Decision::Reject, Some("r"), None));
    assert!(Vectors::<_, AuthVector>::new(text.replace("reject", "no").as_bytes()).next().expect("one").is_err());
}

/// Over more vectors than the repository holds: `GIBBOUS_VECTORS="FILE …" cargo test … -- --ignored`.
#[test]
#[ignore = "reads files that are named in the environment"]
fn events_of_vector_files_are_read() {
    for path in std::env::var("GIBBOUS_VECTORS").expect("GIBBOUS_VECTORS names files").split_whitespace() {
        let input = open(path).expect("a file");
        let events: Vec<_> = if path.contains("auth") {
            vectors::<AuthVector>(input)
                .flat_map(|vector| {
                    let judged = (vector.event, vector.expected == Decision::Allow);
                    let events = vector.events.into_iter().map(|event| (event, false)).chain([judged]);
                    events
                        .map(move |(event, allow)| (vector.room_version.clone(), event, allow, vector.name.clone()))
                        .collect::<Vec<_>>()
                })
                .collect()
        } else {
            vectors::<ResolveVector>(input)
                .flat_map(|vector| {
                    let (version, name) = (vector.room_version, vector.name);
                    vector.events.into_iter().map(move |event| (version.clone(), event, false, name.clone()))
                })
                .collect()
        };
        let (mut same_id, mut other_id, mut refused) = (0, 0, 0);
        for (version, event, allow, name) in &events {
            let Some(rules) = RoomRules::of(version) else { panic!("{name}: version {version}") };
            match Pdu::with_event_id(&rules, event.event_id.clone(), event.pdu.get().as_bytes()) {
                Ok(_) => match Pdu::parse(&rules, event.pdu.get().as_bytes()) {
                    Ok(pdu) if *pdu.event_id() == event.event_id => same_id += 1,
                    other => {
                        other_id += 1;
                        eprintln!("{name} (v{version}): {:?}", other.map(|pdu| pdu.event_id().to_owned()));
                    }
                },
                Err(error) => {
                    refused += 1;
                    assert!(!allow, "{name}: {error}");
                    eprintln!("{name} (v{version}): {error}");
                }
            }
        }
        eprintln!(
            "{path}: {} events, {same_id} with their ID, {other_id} with another, {refused} refused",
            events.len()
        );
    }
}

fn vectors<T: serde::de::DeserializeOwned>(input: impl BufRead) -> impl Iterator<Item = T> {
    Vectors::new(input).map(|vector| vector.expect("a vector").1)
}
