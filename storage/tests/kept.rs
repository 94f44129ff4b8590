//! What a room's writer keeps of its reads from one transaction to the next is never stale, and what is only a hint is
//! not worth a sync.

mod common;

use std::sync::Arc;

use common::{ROOM, room};
use gibbous_codec::{
    Edge, EventId, EventNum, EventRecord, EventState, EventStatus, Judgement, LogRecord, OwnedEventId, RoomId,
    RoomOpened, RoomVersionId, ServerKeysRow, ServerName, Stage, StateGroup, StateKey,
};
use gibbous_storage::{
    AuthEdges, AuthEvents, Faulty, MemoryBackend, RoomRows, StateEvents, Store, StoreError, Txn, check,
};
use proptest::prelude::*;

fn id() -> OwnedEventId {
    EventId::parse("$event").expect("an event ID")
}

/// Returns a store of a room that has been opened, no more.
fn store(backend: &MemoryBackend) -> Store {
    let store = common::open(backend);
    open_room(&store);
    store
}

fn open_room(store: &Store) {
    let room_id = RoomId::parse(ROOM).expect("a room ID");
    let num = store.number_room(&room_id).expect("the room is numbered");
    let mut txn = store.txn(num).expect("memory can be read");
    let opened = RoomOpened { room_id, room_version: RoomVersionId::V11 };
    txn.stage(&LogRecord::RoomOpened(opened)).expect("it is the first record");
    txn.commit().expect("memory can be written");
}

fn txn(store: &Store) -> Txn<'_> {
    store.txn(room(store, ROOM)).expect("memory can be read")
}

fn stage(txn: &mut Txn<'_>) -> EventNum {
    let record = EventRecord {
        event_id: id(),
        state_key: None,
        depth: 1,
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        state: EventState::new(Stage::Waiting, None),
        folded: None,
        json: b"{}".to_vec(),
    };
    txn.stage_event(record).expect("nothing contradicts it")
}

fn stored_as(txn: &Txn<'_>) -> Option<EventNum> {
    txn.event_num(&id()).expect("memory can be read")
}

#[test]
fn an_event_that_was_not_stored_is_found_once_it_is() {
    let store = store(&MemoryBackend::new());
    let mut discarded = txn(&store);
    assert_eq!(stored_as(&discarded), None);
    let num = stage(&mut discarded);
    assert_eq!(stored_as(&discarded), Some(num), "what is staged is read");
    discarded.discard();
    let mut committed = txn(&store);
    assert_eq!(stored_as(&committed), None, "what was discarded is not");
    stage(&mut committed);
    committed.commit().expect("memory can be written");
    assert_eq!(stored_as(&txn(&store)), Some(num));
}

#[test]
fn what_another_store_writes_to_the_same_database_is_seen() {
    let backend = MemoryBackend::new();
    let (store, other) = (store(&backend), common::open(&backend));
    assert_eq!(stored_as(&txn(&store)), None);
    let mut theirs = txn(&other);
    let num = stage(&mut theirs);
    theirs.commit().expect("memory can be written");
    assert_eq!(stored_as(&txn(&store)), Some(num));
}

#[test]
fn a_changed_verdict_is_seen_once_it_is_committed() {
    let store = store(&MemoryBackend::new());
    let mut stores = txn(&store);
    let num = stage(&mut stores);
    stores.commit().expect("memory can be written");
    let stage_of = |txn: &Txn<'_>| txn.stage_of(num).expect("memory can be read");
    let outlier = Stage::Outlier { status: EventStatus::Accepted, provisional: false, states: None };
    let judge = |txn: &mut Txn<'_>| {
        let judgement = Judgement { event: num, was: None, state: EventState::new(outlier.clone(), None) };
        txn.stage(&LogRecord::Judged(vec![judgement])).expect("nothing contradicts it");
        assert_eq!(stage_of(txn), outlier, "what is staged is read");
    };
    let mut discarded = txn(&store);
    assert_eq!(stage_of(&discarded), Stage::Waiting);
    judge(&mut discarded);
    discarded.discard();
    let mut committed = txn(&store);
    assert_eq!(stage_of(&committed), Stage::Waiting, "what was discarded is not");
    judge(&mut committed);
    committed.commit().expect("memory can be written");
    assert_eq!(stage_of(&txn(&store)), outlier);
}

/// Stores a state event that cites others, stored or not.
fn store_citing(store: &Store, name: &str, cites: &[OwnedEventId], commits: bool) -> EventNum {
    let stage = Stage::Outlier { status: EventStatus::Accepted, provisional: false, states: None };
    store_as(store, name, cites, stage, commits)
}

fn store_as(store: &Store, name: &str, cites: &[OwnedEventId], stage: Stage, commits: bool) -> EventNum {
    let mut txn = txn(store);
    let edges = cites.iter().map(|cited| txn.edge_to(cited).expect("memory can be read")).collect();
    let record = EventRecord {
        event_id: named(name),
        state_key: Some(StateKey::new("m.room.topic", name)),
        depth: 1,
        prev_events: Vec::new(),
        auth_events: edges,
        state: EventState::new(stage, None),
        folded: None,
        json: b"{}".to_vec(),
    };
    let num = txn.stage_event(record).expect("nothing contradicts it");
    match commits {
        true => drop(txn.commit().expect("memory can be written")),
        false => txn.discard(),
    }
    num
}

fn named(name: &str) -> OwnedEventId {
    EventId::parse(format!("${name}")).expect("an event ID")
}

fn citing(store: &Store, num: EventNum) -> Vec<EventNum> {
    let rows = store.snapshot(room(store, ROOM)).expect("memory can be read");
    let mut citing = StateEvents::citing(room(store, ROOM), &Edge::Known(num));
    citing.next_page(&rows).expect("memory can be read").unwrap_or_default()
}

#[test]
fn who_cited_an_event_before_it_came_is_found_by_its_number() {
    let store = store(&MemoryBackend::new());
    store_citing(&store, "first", &[], true);
    store_citing(&store, "discarded", &[named("late"), named("later")], false);
    let second = store_citing(&store, "second", &[named("late")], true);
    let late = store_citing(&store, "late", &[], true);
    assert_eq!(citing(&store, late), [second]);
    // The same where more are missing than are kept in mind.
    let many: Vec<_> = (0..1_500).map(|number| named(&format!("many{number}"))).collect();
    let third = store_citing(&store, "third", &many, true);
    let last = store_citing(&store, "many1499", &[], true);
    assert_eq!(citing(&store, last), [third]);
    assert_eq!(check(&store).expect("memory can be read").findings, []);
}

#[test]
fn an_auth_event_that_is_not_verified_is_looked_for_again() {
    let store = store(&MemoryBackend::new());
    let citing = store_citing(&store, "citing", &[named("cited")], true);
    let edges = AuthEdges::default();
    let auth_events = || {
        let rows = store.snapshot(room(&store, ROOM)).expect("memory can be read");
        let found = edges.auth_events(&rows, edges.index(citing)).expect("memory can be read");
        match found {
            AuthEvents::Stored(auth_events) => auth_events.iter().map(|index| edges.num(*index)).collect(),
            AuthEvents::Missing(_) => Vec::new(),
        }
    };
    assert_eq!(auth_events(), []);
    let made_up = store_as(&store, "cited", &[], Stage::Unverified, true);
    assert_eq!(auth_events(), [made_up]);
    let verified = store_citing(&store, "cited", &[], true);
    assert_eq!(auth_events(), [verified]);
}

/// Returns who cites some of the first events, as these rows tell it.
fn citing_first(store: &Store, rows: &impl RoomRows, first: &[EventNum]) -> Vec<Vec<EventNum>> {
    let citing = first.iter().map(|num| {
        let mut citing = StateEvents::citing(room(store, ROOM), &Edge::Known(*num));
        let pages = std::iter::from_fn(|| citing.next_page(rows).expect("memory can be read"));
        pages.flatten().collect()
    });
    citing.collect()
}

/// Stores events that nobody cites until the row of the next one is another.
fn fill_span(store: &Store, from: EventNum) {
    let mut num = from.0;
    while num / 64 == from.0 / 64 {
        num = store_citing(store, &format!("filler{num}"), &[], true).0;
    }
}

fn judge_dropped(txn: &mut Txn<'_>, event: EventNum) {
    let judgement = Judgement { event, was: None, state: EventState::new(Stage::Dropped, None) };
    txn.stage(&LogRecord::Judged(vec![judgement])).expect("nothing contradicts it");
}

/// Who cites some events is what stands, whatever the store's writer has kept.
#[track_caller]
fn assert_read_as_it_stands(store: &Store, cited: &[EventNum]) {
    let stands = citing_first(store, &store.snapshot(room(store, ROOM)).expect("it can be read"), cited);
    assert_eq!(citing_first(store, &txn(store), cited), stands);
}

#[test]
fn who_cites_an_event_is_read_as_it_stands_where_pages_begin_elsewhere_than_before() {
    let store = store(&MemoryBackend::new());
    let first = store_citing(&store, "first", &[], true);
    let cite = |nth: usize| store_citing(&store, &format!("citing{nth}"), &[named("first")], true);
    // Two pages and a row more, each row with one event.
    let cite_in_a_row_of_its_own = |nth| {
        let num = cite(nth);
        fill_span(&store, num);
        num
    };
    let citing: Vec<EventNum> = (0..8).map(cite_in_a_row_of_its_own).collect();
    cite(8);
    assert_read_as_it_stands(&store, &[first]);
    let mut txn = txn(&store);
    judge_dropped(&mut txn, citing[1]);
    txn.commit().expect("memory can be written");
    assert_read_as_it_stands(&store, &[first]);
    cite(9);
    assert_read_as_it_stands(&store, &[first]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn who_cites_an_event_is_read_as_it_stands_whatever_was_read_before(
        is_crowded in any::<bool>(),
        steps in proptest::collection::vec((0_usize..3, 0_usize..5, any::<prop::sample::Index>(), any::<bool>()), 1..40),
    ) {
        let backend = MemoryBackend::new();
        let (store, other) = (store(&backend), common::open(&backend));
        let first: Vec<_> = (0..3).map(|nth| store_citing(&store, &format!("first{nth}"), &[], true)).collect();
        // Enough of them that each has more pages than one: in rows of many, or of one.
        for nth in 0..if is_crowded { 1_000 } else { 36 } {
            let member = store_citing(&store, &format!("member{nth}"), &[named(&format!("first{}", nth % 3))], true);
            if !is_crowded {
                fill_span(&store, member);
            }
        }
        for (nth, (cited, what, which, reads)) in steps.into_iter().enumerate() {
            let (name, cites) = (format!("step{nth}"), [named(&format!("first{cited}"))]);
            let of_cited = &first[cited..=cited];
            match what {
                0 => drop(store_citing(&store, &name, &cites, true)),
                1 => drop(store_citing(&store, &name, &cites, false)),
                2 => drop(store_citing(&other, &name, &cites, true)),
                _ => {
                    let mut txn = txn(&store);
                    let citing = citing_first(&store, &txn, of_cited).remove(0);
                    if citing.is_empty() {
                        continue;
                    }
                    let dropped = *which.get(&citing);
                    // Somebody is reading meanwhile.
                    let mut pages = StateEvents::citing(txn.room(), &Edge::Known(first[cited]));
                    pages.next_page(&txn).expect("memory can be read");
                    judge_dropped(&mut txn, dropped);
                    while pages.next_page(&txn).expect("memory can be read").is_some() {}
                    let left = citing_first(&store, &txn, of_cited);
                    prop_assert!(!left[0].contains(&dropped), "what is staged is read");
                    match what {
                        3 => drop(txn.commit().expect("memory can be written")),
                        _ => txn.discard(),
                    }
                }
            }
            if reads {
                assert_read_as_it_stands(&store, &first);
            }
        }
        assert_read_as_it_stands(&store, &first);
        prop_assert_eq!(check(&store).expect("memory can be read").findings, []);
    }
}

#[test]
fn hints_alone_are_not_worth_a_sync_of_the_facts() {
    let faulty = Faulty::new();
    let store = Store::open(Arc::new(faulty.clone())).expect("the store opens");
    let before = faulty.syncs();
    let server = ServerName::parse("a.example").expect("a server name");
    store.put_server_keys(&server, &ServerKeysRow::default()).expect("nothing fails");
    store.sync_facts().expect("nothing fails");
    assert_eq!(faulty.syncs(), before);
    store.sync().expect("nothing fails");
    assert_eq!(faulty.syncs(), before + 1);
    let room_id = RoomId::parse(ROOM).expect("a room ID");
    store.number_room(&room_id).expect("the room is numbered");
    store.sync_facts().expect("nothing fails");
    assert_eq!(faulty.syncs(), before + 1, "nothing is stored of the room yet");
    open_room(&store);
    store.sync_facts().expect("nothing fails");
    assert_eq!(faulty.syncs(), before + 2);
}

#[test]
fn a_node_is_written_again_only_when_it_was_removed() {
    let backend = MemoryBackend::new();
    let (store, other) = (store(&backend), common::open(&backend));
    let event = store_citing(&store, "event", &[], true);
    let rows_written = |store: &Store| {
        let mut txn = txn(store);
        txn.stage_group(StateGroup::EMPTY, &[event], &[]).expect("memory can be read");
        txn.commit().expect("memory can be written").rows
    };
    // The log record, the head row, and a node.
    assert_eq!([rows_written(&store), rows_written(&store)], [3, 2]);
    let collect = || store.collect_garbage(room(&store, ROOM)).expect("memory can be written").nodes;
    assert_eq!([collect(), collect()], [1, 0], "no event has that state");
    assert_eq!([rows_written(&store), rows_written(&store)], [3, 2]);
    // The same where another store over the database removes it.
    assert_eq!([rows_written(&other), rows_written(&other)], [3, 2]);
    let mut begun = txn(&other);
    assert_eq!(collect(), 1);
    begun.stage_group(StateGroup::EMPTY, &[event], &[]).expect("memory can be read");
    assert!(matches!(begun.commit(), Err(StoreError::Conflict { .. })));
    assert_eq!([rows_written(&other), rows_written(&other)], [3, 2]);
    assert_eq!(check(&store).expect("memory can be read").findings, []);
}
