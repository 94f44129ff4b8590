#![allow(clippy::disallowed_types)]
use std::time::Instant;
use gibbous_codec::{exchange::*, *};
struct K(std::collections::BTreeMap<(String, String), VerifyKey>);
impl KeySource for K { fn key(&self, s: &ServerName, k: &str) -> Option<VerifyKey> { self.0.get(&(s.to_string(), k.to_owned())).cloned() } }
#[test]
fn perf() {
    let mut k = K(Default::default()); let mut ev = vec![]; let mut rules = None;
    for r in RecordReader::new(open(concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/data/simple-v12.recording.jsonl.zst")).unwrap()) {
        match r.unwrap().1 {
            Record::Room { room_version, .. } => rules = RoomRules::of(&room_version),
            Record::ServerKeys { server, verify_keys, old_verify_keys, valid_until_ts } => for (id, key) in verify_keys.into_iter().chain(old_verify_keys.into_iter().map(|(i, o)| (i, o.key))) { k.0.insert((server.to_string(), id), VerifyKey::from_base64(&key, valid_until_ts).unwrap()); },
            Record::Pdu { pdu, .. } | Record::Event { answer: Answer::Response(pdu), .. } => ev.push(pdu),
            _ => {}
        }
    }
    let rules = rules.unwrap();
    let bytes: usize = ev.iter().map(|e| e.get().len()).sum();
    let mut best = [f64::MAX; 3]; for _ in 0..40 {
        let n = 1;
        let t = Instant::now();
        for _ in 0..n { for e in &ev { std::hint::black_box(Pdu::parse(&rules, e.get().as_bytes()).unwrap()); } }
        let parse = t.elapsed() / (n * ev.len() as u32);
        let pdus: Vec<_> = ev.iter().map(|e| Pdu::parse(&rules, e.get().as_bytes()).unwrap()).collect();
        let t = Instant::now();
        for _ in 0..n { for p in &pdus { std::hint::black_box(Pdu::from_stored(&rules, p.event_id().to_owned(), p.canonical_json().as_bytes()).unwrap()); } }
        let stored = t.elapsed() / (n * ev.len() as u32);
        let t = Instant::now();
        for p in &pdus { std::hint::black_box(verify(&rules, p.clone(), &k).unwrap()); }
        let ver = t.elapsed() / ev.len() as u32;
        eprintln!("{} events avg {} bytes: parse {parse:?} stored {stored:?} verify {ver:?}", ev.len(), bytes / ev.len());
    }
}
