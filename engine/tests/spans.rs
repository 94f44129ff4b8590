//! What an operator sees of an engine as it works: spans and events. It is the only test here: all threads of a program
//! share what it is looked at with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use gibbous::{
    Limits, MemoryBackend, RoomVersionId,
    testing::{DEREK, RoomBuilder, S, Storage, Story},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::set_global_default,
};

/// Everything that was seen: spans and messages, with the names of their fields.
#[derive(Clone, Debug, Default)]
struct Seen {
    by_name: Arc<Mutex<BTreeMap<String, BTreeSet<&'static str>>>>,
    next: Arc<AtomicU64>,
}

impl Seen {
    fn note(&self, name: String, fields: BTreeSet<&'static str>) {
        self.by_name.lock().expect("nobody has panicked").entry(name).or_default().extend(fields);
    }
}

#[derive(Default)]
struct Read {
    message: Option<String>,
    fields: BTreeSet<&'static str>,
}

impl Visit for Read {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = Some(format!("{value:?}")),
            name => drop(self.fields.insert(name)),
        }
    }
}

impl Subscriber for Seen {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut read = Read::default();
        span.record(&mut read);
        self.note(format!("span {}", span.metadata().name()), read.fields);
        Id::from_u64(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut read = Read::default();
        event.record(&mut read);
        self.note(read.message.unwrap_or_default(), read.fields);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A partial join, a message and a member event while the room is partial, and a resync.
fn tell() {
    let members = |room: &mut RoomBuilder| (0..9).for_each(|n| drop(room.join(&format!("@u{n}:s2.example")).send()));
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], members, storage, Limits::default()).join_held();
    let hello = story.room.message(DEREK, "hello").send();
    story.receive(S, &[&hello]);
    story.release();
}

#[test]
fn a_resync_is_seen_from_its_beginning_to_its_end() {
    let seen = Seen::default();
    set_global_default(seen.clone()).expect("it is the first");
    tell();
    let seen = seen.by_name.lock().expect("nobody has panicked").clone();
    for (name, fields) in [
        ("span open", &[][..]),
        ("span begin_join", &["room", "via", "bytes"]),
        ("joined", &["room", "event", "partial", "auth_events"]),
        ("span receive", &["room", "origin", "pdus"]),
        ("placed", &["room", "event", "status", "partial"]),
        ("asks", &["room", "to", "kind"]),
        ("span handle_response", &["room", "from", "kind"]),
        ("span verify", &["events"]),
        ("span adopt", &["room", "event", "events"]),
        ("state adopted", &["room", "event", "from", "events", "holes"]),
        ("flipped", &["room", "event", "status", "was", "anew"]),
        ("the room has its full state", &["room", "holes"]),
        ("span commit", &["records", "rows", "bytes"]),
        ("span sync", &[]),
    ] {
        let of_it = seen.get(name).unwrap_or_else(|| panic!("{name} is not among {:?}", seen.keys()));
        assert!(fields.iter().all(|field| of_it.contains(field)), "{name} has {of_it:?}");
    }
}
