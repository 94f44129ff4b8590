//! State events by their key, and by what they cite: of events that come before or after those that cite them, come
//! again, or are dropped.

mod common;

use gibbous_codec::{
    Edge, EventId, EventNum, EventRecord, EventState, EventStatus, Judgement, LogRecord, OwnedEventId, RoomId,
    RoomOpened, RoomVersionId, Stage, StateKey, path,
};
use gibbous_storage::{MemoryBackend, StateEvents, Store, check, cited_and_missing};

fn id(name: &str) -> OwnedEventId {
    EventId::parse(format!("${name}")).expect("an event ID")
}

/// A room that events come to, one commit each.
struct Room {
    store: Store,
}

impl Room {
    fn new() -> Self {
        let store = common::open(&MemoryBackend::new());
        let room_id = RoomId::parse(common::ROOM).expect("a room ID");
        let room = store.number_room(&room_id).expect("the room is numbered");
        let mut txn = store.txn(room).expect("memory can be read");
        let opened = RoomOpened { room_id, room_version: RoomVersionId::V2 };
        txn.stage(&LogRecord::RoomOpened(opened)).expect("it is the first record");
        txn.commit().expect("memory can be written");
        Self { store }
    }

    fn event(&self, name: &str, is_state: bool, stage: Stage, cites: &[&str]) -> EventNum {
        let mut txn = self.store.txn(common::room(&self.store, common::ROOM)).expect("memory can be read");
        let edges = cites.iter().map(|cited| txn.edge_to(&id(cited)).expect("memory can be read"));
        let record = EventRecord {
            event_id: id(name),
            state_key: is_state.then(|| StateKey::new("m.room.topic", name)),
            depth: 1,
            prev_events: Vec::new(),
            auth_events: edges.collect(),
            state: EventState::new(stage, None),
            folded: None,
            json: b"{}".to_vec(),
        };
        let num = txn.stage_event(record).expect("it can be stored");
        txn.commit().expect("memory can be written");
        num
    }

    fn judge(&self, event: EventNum, stage: Stage) {
        let mut txn = self.store.txn(common::room(&self.store, common::ROOM)).expect("memory can be read");
        let state = EventState::new(stage, None);
        txn.stage(&LogRecord::Judged(vec![Judgement { event, was: None, state }])).expect("it can be stored");
        txn.commit().expect("memory can be written");
    }

    fn citing(&self, cited: &Edge) -> Vec<EventNum> {
        self.all(StateEvents::citing(common::room(&self.store, common::ROOM), cited))
    }

    fn at(&self, state_key: &str) -> Vec<EventNum> {
        let path = path(&StateKey::new("m.room.topic", state_key));
        self.all(StateEvents::at(common::room(&self.store, common::ROOM), &path))
    }

    /// Reads every page, and sees that every row is what the log says.
    fn all(&self, mut pages: StateEvents) -> Vec<EventNum> {
        let rows = self.store.snapshot(common::room(&self.store, common::ROOM)).expect("memory can be read");
        let mut all = Vec::new();
        while let Some(page) = pages.next_page(&rows).expect("memory can be read") {
            all.extend(page);
        }
        assert_eq!(check(&self.store).expect("memory can be read").findings, []);
        all
    }

    fn missing(&self) -> Vec<OwnedEventId> {
        let rows = self.store.snapshot(common::room(&self.store, common::ROOM)).expect("memory can be read");
        cited_and_missing(&rows).expect("memory can be read")
    }
}

fn outlier() -> Stage {
    Stage::Outlier { status: EventStatus::Accepted, provisional: false, states: None }
}

#[test]
fn state_events_count_and_others_do_not() {
    let room = Room::new();
    let create = room.event("create", true, outlier(), &[]);
    let topic = room.event("topic", true, outlier(), &["create", "create"]);
    room.event("message", false, outlier(), &["create", "nowhere"]);
    assert_eq!(room.citing(&Edge::Known(create)), [topic]);
    assert_eq!(room.missing(), Vec::<OwnedEventId>::new());
}

#[test]
fn many_are_read_page_by_page_in_order() {
    let room = Room::new();
    let create = room.event("create", true, outlier(), &[]);
    let citing: Vec<_> = (0..1_000).map(|n| room.event(&format!("e{n}"), true, outlier(), &["create"])).collect();
    assert_eq!(room.citing(&Edge::Known(create)), citing);
}

#[test]
fn a_state_event_is_found_by_its_key_for_as_long_as_it_counts() {
    let room = Room::new();
    room.event("message", false, outlier(), &[]);
    let copy = room.event("topic", true, Stage::Unverified, &[]);
    room.event("other", true, outlier(), &[]);
    assert_eq!((room.at("topic"), room.at("nobody")), (vec![copy], vec![]));
    let topic = room.event("topic", true, Stage::Waiting, &[]);
    assert_eq!(room.at("topic"), [topic]);
    room.judge(topic, Stage::Dropped);
    assert_eq!(room.at("topic"), []);
    room.judge(topic, outlier());
    assert_eq!(room.at("topic"), [topic]);
}

#[test]
fn an_event_that_comes_later_is_cited_by_those_that_cited_its_id() {
    let room = Room::new();
    let early = room.event("early", true, Stage::Waiting, &["late", "later", "late2"]);
    assert_eq!(room.missing(), [id("late"), id("late2"), id("later")]);
    assert_eq!(room.citing(&Edge::Unknown(id("late"))), [early]);
    let late = room.event("late", true, outlier(), &["early"]);
    let again = room.event("again", true, outlier(), &["late"]);
    assert_eq!(room.citing(&Edge::Known(late)), [early, again]);
    assert_eq!(room.citing(&Edge::Known(early)), [late]);
    assert_eq!(room.citing(&Edge::Unknown(id("late"))), []);
    assert_eq!(room.missing(), [id("late2"), id("later")]);
}

#[test]
fn a_verified_copy_takes_the_citations_of_the_one_before() {
    let room = Room::new();
    let create = room.event("create", true, outlier(), &[]);
    let early = room.event("early", true, Stage::Waiting, &["event"]);
    let copy = room.event("event", true, Stage::Unverified, &["create", "made_up"]);
    let citing = room.event("citing", true, Stage::Waiting, &["event"]);
    assert_eq!(room.citing(&Edge::Known(create)), [copy]);
    let event = room.event("event", true, outlier(), &["create"]);
    assert_eq!(room.citing(&Edge::Known(event)), [early, citing]);
    assert_eq!(room.citing(&Edge::Known(copy)), []);
    assert_eq!(room.citing(&Edge::Known(create)), [event]);
    assert_eq!(room.missing(), Vec::<OwnedEventId>::new());
}

#[test]
fn an_event_that_was_dropped_cites_nothing() {
    let room = Room::new();
    let create = room.event("create", true, outlier(), &[]);
    let event = room.event("event", true, Stage::Unverified, &["create", "nowhere"]);
    assert_eq!((room.citing(&Edge::Known(create)), room.missing()), (vec![event], vec![id("nowhere")]));
    room.judge(event, Stage::Dropped);
    assert_eq!((room.citing(&Edge::Known(create)), room.missing()), (vec![], vec![]));
    room.judge(event, Stage::Waiting);
    assert_eq!((room.citing(&Edge::Known(create)), room.missing()), (vec![event], vec![id("nowhere")]));
}

#[test]
fn an_event_that_cites_itself_is_one_that_does() {
    let room = Room::new();
    let ring = room.event("ring", true, outlier(), &["ring"]);
    assert_eq!(room.citing(&Edge::Known(ring)), [ring]);
}
