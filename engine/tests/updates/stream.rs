//! Each update once, from where the host has left off, and nobody sleeps through one.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Poll, Wake, Waker},
    thread,
    time::Duration,
};

use gibbous::{
    Backend, Change, Config, Engine, EventDraft, FullState, JoinStatus, Limits, MemoryBackend, NewRoom, OwnedRoomId,
    RequestError, Response, RoomId, RoomVersionId, ServerName, Update, UpdatePosition,
    gibbous_codec::LogSeq,
    gibbous_storage::{Batch, Row, Store, Table, rebuild},
    testing::{ALICE, BOB, CHARLIE, ELSIE, NEWEST_VERSIONS, S, SeededKeys, Storage, Story, US},
};
use serde_json::{json, value::to_raw_value};

use super::{now, told_since};

fn told(engine: &Engine) -> Vec<Update> {
    std::iter::from_fn(|| engine.poll_update().expect("the store works")).collect()
}

fn positions(updates: &[Update]) -> Vec<UpdatePosition> {
    updates.iter().map(|update| update.position).collect()
}

fn on_all(check: impl Fn(Story)) {
    let story = |storage| Story::with(&RoomVersionId::V11, &[], |_| {}, storage, Limits::default());
    check(story(Storage::Memory(MemoryBackend::new())));
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    check(story(Storage::Sled(dir.path().to_owned())));
    #[cfg(feature = "fjall")]
    {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        check(story(Storage::Fjall(dir.path().to_owned())));
    }
}

#[test]
fn what_was_told_and_not_acknowledged_is_told_again_after_a_restart_and_the_rest_is_not() {
    on_all(|story| {
        let mut story = story.join_held();
        story.release();
        let all = told_since(&story, None);
        let mid = all[all.len() / 2].position;
        let room = story.room.id().to_owned();
        story.engine().acknowledge(&room, mid, story.now_ms).expect("the store works");
        assert_eq!(story.engine().acknowledged(&room).expect("the store works"), Some(mid));
        for _ in 0..2 {
            story.restart();
            let again = told(story.engine());
            assert_eq!(positions(&again), positions(&told_since(&story, Some(mid))));
            assert_eq!(again, told_since(&story, Some(mid)), "the same changes under the same positions");
        }
        let last = all.last().expect("something was told").position;
        story.engine().acknowledge(&room, last, story.now_ms).expect("the store works");
        // An older one changes nothing.
        story.engine().acknowledge(&room, mid, story.now_ms).expect("the store works");
        story.restart();
        assert_eq!(told(story.engine()), []);
        let hello = story.room.message(CHARLIE, "hello").send();
        story.hand(S, &[&hello]);
        assert_eq!(told(story.engine()), told_since(&story, Some(last)));
    });
}

#[test]
fn what_is_not_there_yet_cannot_be_acknowledged() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let far = UpdatePosition { seq: LogSeq(u64::MAX), index: 0 };
    story.engine().acknowledge(story.room.id(), far, story.now_ms).expect("the store works");
    let before = now(&story);
    story.restart();
    let hello = story.room.message(CHARLIE, "hello").send();
    story.hand(S, &[&hello]);
    assert_eq!(told(story.engine()), told_since(&story, before));
}

#[test]
fn a_host_that_lags_is_told_so_and_finds_everything_in_the_log() {
    let limits = || {
        let mut limits = Limits::default();
        limits.updates_max = 3;
        limits
    };
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, limits()).join_full();
    let joined = now(&story).expect("something was told");
    story.engine().acknowledge(story.room.id(), joined, story.now_ms).expect("the store works");
    for number in 0..5 {
        let message = story.room.message(CHARLIE, &number.to_string()).send();
        story.hand(S, &[&message]);
    }
    story.restart();
    // What is in the log behind the acknowledged position is found there, and not told one by one.
    let lagged = told(story.engine());
    let [Update { change: Change::Lagged { from }, .. }] = &lagged[..] else { panic!("{lagged:?}") };
    assert!(*from <= LogSeq(joined.seq.0 + 1));
    let missed = told_since(&story, Some(joined));
    let persisted = missed.iter().filter(|update| matches!(update.change, Change::EventPersisted { .. }));
    assert_eq!(persisted.count(), 5);
    // Who acknowledges it is told only what is new.
    story.engine().acknowledge(story.room.id(), lagged[0].position, story.now_ms).expect("the store works");
    let before = now(&story);
    let message = story.room.message(CHARLIE, "new").send();
    story.hand(S, &[&message]);
    assert_eq!(told(story.engine()), told_since(&story, before));
}

/// Counts how often it was woken.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    heard: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().expect("nobody panics with it") += 1;
        self.heard.notify_all();
    }
}

impl Bell {
    fn count(&self) -> usize {
        *self.rung.lock().expect("nobody panics with it")
    }

    /// Waits for one more ring than there were. Returns whether it came.
    fn wait(&self, rings: usize) -> bool {
        let rung = self.rung.lock().expect("nobody panics with it");
        let (_rung, timeout) = self
            .heard
            .wait_timeout_while(rung, Duration::from_secs(60), |rung| *rung <= rings)
            .expect("nobody panics with it");
        !timeout.timed_out()
    }
}

#[test]
fn a_waker_is_woken_once_by_what_can_be_polled_and_not_by_reads() {
    let mut story = Story::joined(&RoomVersionId::V11);
    told(story.engine());
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    story.engine().register_waker(&waker);
    story.engine().register_waker(&waker);
    story.view();
    assert_eq!(bell.count(), 0, "a read is no news");
    let hello = story.room.message(CHARLIE, "hello").send();
    story.hand(S, &[&hello]);
    assert_eq!(bell.count(), 1);
    let hello = story.room.message(CHARLIE, "hello again").send();
    story.hand(S, &[&hello]);
    assert_eq!(bell.count(), 1, "it has not registered again");
}

#[test]
fn s02_a_room_becomes_visible_between_the_positions_around_its_completion() {
    // A client whose token lies before it is given the room as newly joined, one whose token lies behind it is not.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let hello = story.room.message(CHARLIE, "hello").send();
        story.receive(S, &[&hello]);
        let token = now(&story);
        let becomes_full = |story: &Story, token| {
            let is_full = |update: &&Update| matches!(update.change, Change::RoomUnPartialStated { .. });
            told_since(story, token).iter().filter(is_full).count()
        };
        assert_eq!(becomes_full(&story, token), 0);
        story.release();
        assert_eq!(becomes_full(&story, token), 1);
        assert_eq!(becomes_full(&story, now(&story)), 0);
        story.restart();
        assert_eq!(becomes_full(&story, token), 1);
    }
}

#[test]
fn s03_who_waits_for_the_full_state_is_woken_when_it_is_there() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let room = story.room.id().to_owned();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let poll =
            |story: &Story, event| story.engine().poll_full_state(&room, event, &waker).expect("the store works");
        assert_eq!(poll(&story, None), Poll::Pending);
        let join = story.join.clone();
        assert_eq!(poll(&story, Some(&join)), Poll::Pending);
        story.release();
        assert_ne!(bell.count(), 0);
        assert_eq!(poll(&story, None), Poll::Ready(FullState::Full));
        assert_eq!(poll(&story, Some(&join)), Poll::Ready(FullState::Full));
        story.engine().purge(&room).expect("the store works");
        assert_eq!(poll(&story, None), Poll::Ready(FullState::Gone));
    }
}

#[test]
fn s10_a_host_that_acknowledges_has_its_say_before_the_room_is_full() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version);
        story.complete_when_acknowledged();
        let mut story = story.join_held();
        let room = story.room.id().to_owned();
        story.release();
        let view = story.view();
        assert!(view.is_partial(), "the host has not acknowledged it");
        assert_eq!(&view.current_state().expect("the store works"), story.room.state_after(&story.join.clone()));
        let updates = told_since(&story, None);
        let full = updates.last().expect("something was told");
        assert_eq!(full.change, Change::RoomFullStated);
        assert!(view.corrections(full.position).expect("the store works").is_some());
        // It holds over a restart, and what comes meanwhile is taken in.
        story.restart();
        let hello = story.room.message(CHARLIE, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted");
        assert!(story.view().is_partial());
        story.engine().acknowledge(&room, full.position, story.now_ms).expect("the store works");
        assert!(!story.view().is_partial());
        let last = told_since(&story, Some(full.position)).pop().expect("something was told");
        assert_eq!(last.change, Change::RoomUnPartialStated { holes: Vec::new() });
        story.assert_converged();
    }
}

#[test]
fn nobody_sleeps_through_an_update_whatever_the_threads_do() {
    const WRITERS: usize = 4;
    const MESSAGES: usize = 25;
    let mut story = Story::new(&RoomVersionId::V11).join_full();
    told(story.engine());
    let messages: Vec<String> = (0..WRITERS * MESSAGES)
        .map(|number| {
            let join = story.join.clone();
            let event = story.room.message(CHARLIE, &number.to_string()).after(&[&join]).send();
            story.room.json(&event).to_owned()
        })
        .collect();
    let engine = story.engine().clone();
    let origin: &ServerName = S.try_into().expect("a server name");
    let seen = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let has_slept_through = AtomicBool::new(false);
    let bells = [Arc::new(Bell::default()), Arc::new(Bell::default())];
    thread::scope(|scope| {
        for bell in &bells {
            scope.spawn(|| {
                let waker = Waker::from(bell.clone());
                while seen.load(Ordering::SeqCst) < messages.len() {
                    let rings = bell.count();
                    engine.register_waker(&waker);
                    while let Some(update) = engine.poll_update().expect("the store works") {
                        if let Change::EventPersisted { .. } = update.change
                            && seen.fetch_add(1, Ordering::SeqCst) + 1 == messages.len()
                        {
                            // The other may go home too.
                            is_over.store(true, Ordering::SeqCst);
                            bells.iter().for_each(|bell| bell.clone().wake());
                        }
                    }
                    if !is_over.load(Ordering::SeqCst) && !bell.wait(rings) {
                        has_slept_through.store(true, Ordering::SeqCst);
                        break;
                    }
                }
            });
        }
        for part in messages.chunks(MESSAGES) {
            let engine = &engine;
            scope.spawn(move || {
                for message in part {
                    engine.receive(origin, &[message.as_bytes()], 1_000_000).expect("the store works");
                }
            });
        }
    });
    assert!(!has_slept_through.load(Ordering::SeqCst));
    assert_eq!(seen.load(Ordering::SeqCst), messages.len());
}

/// Makes a room of ours.
fn make_room(engine: &Engine, origin_server_ts: u64) -> OwnedRoomId {
    let signer = SeededKeys::new(0).signer_of(US.try_into().expect("a server name"));
    let creator = ALICE.try_into().expect("a user ID");
    let content = to_raw_value(&json!({ "membership": "join" })).expect("JSON");
    let join = EventDraft {
        sender: creator,
        event_type: "m.room.member",
        state_key: Some(ALICE),
        content: &content,
        redacts: None,
        origin_server_ts,
    };
    let new_room = NewRoom {
        room_version: &RoomVersionId::V12,
        room_id: None,
        creator,
        creation_content: &to_raw_value(&json!({})).expect("JSON"),
        origin_server_ts,
        initial: &[join],
    };
    engine.create_room(&new_room, &signer, 0).expect("the store works").expect("it may be made").room_id
}

/// Says something in a room of ours.
fn say(engine: &Engine, room_id: &RoomId, origin_server_ts: u64) {
    let signer = SeededKeys::new(0).signer_of(US.try_into().expect("a server name"));
    let draft = EventDraft {
        sender: ALICE.try_into().expect("a user ID"),
        event_type: "m.room.message",
        state_key: None,
        content: &to_raw_value(&json!({ "body": "hello" })).expect("JSON"),
        redacts: None,
        origin_server_ts,
    };
    drop(engine.create(room_id, &draft, &signer, 0).expect("the store works").expect("alice may speak"));
}

fn open(backend: &MemoryBackend) -> Engine {
    let config = Config::new(US.try_into().expect("a server name"));
    Engine::open(Arc::new(backend.clone()), config, 0).expect("the store can be opened")
}

fn log(backend: &MemoryBackend) -> Vec<Row> {
    backend.snapshot().expect("memory").scan(Table::Log, &[], &[], usize::MAX).expect("memory")
}

fn damage(backend: &MemoryBackend, (key, mut value): Row) {
    let middle = value.len() / 2;
    value[middle] ^= 0xff;
    let mut batch = Batch::new();
    batch.put(Table::Log, key, value);
    backend.commit(&batch).expect("memory");
}

#[test]
fn a_room_that_is_made_wakes() {
    let engine = open(&MemoryBackend::new());
    let bell = Arc::new(Bell::default());
    engine.register_waker(&Waker::from(bell.clone()));
    make_room(&engine, 1);
    assert_eq!(bell.count(), 1);
    assert_ne!(told(&engine), []);
}

#[test]
fn an_answer_that_makes_room_for_another_question_wakes() {
    let mut limits = Limits::default();
    limits.requests_max = 1;
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, limits).join_full();
    let join = story.join.clone();
    for number in 0..2 {
        let missing = story.room.message(CHARLIE, &format!("missing {number}")).after(&[&join]).send();
        let late = story.room.message(CHARLIE, &format!("late {number}")).after(&[&missing]).send();
        story.hand(S, &[&late]);
    }
    let poll = |story: &Story| story.engine().poll_request(story.now_ms).expect("the store works");
    let mut asked = 0;
    while let Some(request) = poll(&story) {
        assert_eq!(poll(&story), None, "one at a time");
        told(story.engine());
        let bell = Arc::new(Bell::default());
        story.engine().register_waker(&Waker::from(bell.clone()));
        let refused = RequestError::Status { status: 403, errcode: "M_FORBIDDEN".to_owned() };
        story.engine().handle_response(request.id, Response::Failed(refused), story.now_ms).expect("the store works");
        asked += 1;
        if bell.count() == 0 {
            assert_eq!(poll(&story), None, "nobody was woken after question {asked}");
        }
    }
    assert!(asked >= 4, "{asked} questions");
}

#[test]
fn a_room_whose_log_is_damaged_does_not_hold_up_the_updates_of_others() {
    let backend = MemoryBackend::new();
    let engine = open(&backend);
    let [damaged, sound] = [1, 2].map(|number| make_room(&engine, number));
    told(&engine);
    say(&engine, &damaged, 3);
    let rows = log(&backend);
    let first = rows[0].0[..8].to_vec();
    damage(&backend, rows.into_iter().rfind(|(key, _)| key.starts_with(&first)).expect("it has a log"));
    say(&engine, &sound, 4);
    let (mut errors, mut found) = (0, 0);
    for _ in 0..20 {
        match engine.poll_update() {
            Ok(Some(update)) => {
                assert_eq!(update.room_id, sound);
                found += 1;
            }
            Ok(None) => break,
            Err(_) => errors += 1,
        }
    }
    assert!(found > 0 && errors > 0, "{found} updates, {errors} errors");
}

#[test]
fn what_is_acknowledged_too_far_swallows_nothing_that_comes() {
    let mut story = Story::joined(&RoomVersionId::V11);
    told(story.engine());
    let hello = story.room.message(CHARLIE, "hello").send();
    story.hand(S, &[&hello]);
    let far = UpdatePosition { seq: LogSeq(1_000), index: 0 };
    story.engine().acknowledge(story.room.id(), far, story.now_ms).expect("the store works");
    let acknowledged = story.engine().acknowledged(story.room.id()).expect("the store works");
    let again = story.room.message(CHARLIE, "again").send();
    story.hand(S, &[&again]);
    let since = told_since(&story, acknowledged);
    assert_eq!((told(story.engine()), since.is_empty()), (since, false));
}

#[test]
fn a_store_that_was_rebuilt_from_a_part_of_its_log_tells_what_comes() {
    let backend = MemoryBackend::new();
    let engine = open(&backend);
    let room = make_room(&engine, 1);
    (10..15).for_each(|at| say(&engine, &room, at));
    let last = told(&engine).last().expect("something was told").position;
    engine.acknowledge(&room, last, 0).expect("the store works");
    drop(engine);
    let rows = log(&backend);
    damage(&backend, rows[rows.len() - 6].clone());
    let into = MemoryBackend::new();
    let from = Store::open_read_only(Arc::new(backend)).expect("it can be looked at");
    rebuild(&from, Arc::new(into.clone())).expect("memory");
    let engine = open(&into);
    assert!(engine.acknowledged(&room).expect("the store works") < Some(last));
    say(&engine, &room, 100);
    let told = told(&engine);
    assert!(told.iter().any(|update| matches!(update.change, Change::EventPersisted { .. })), "{told:?}");
}

#[test]
fn a_partial_join_before_the_acknowledgement_is_put_right_too() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version);
        story.complete_when_acknowledged();
        let mut story = story.join_held();
        story.release();
        let room = story.room.id().to_owned();
        let full = |story: &Story| {
            let is_full = |update: &Update| update.change == Change::RoomFullStated;
            told_since(story, None).into_iter().filter(is_full).map(|update| update.position).collect::<Vec<_>>()
        };
        let corrections = |story: &Story, position| story.view().corrections(position).expect("the store works");
        let [first] = full(&story)[..] else { panic!("it is told once") };
        let was = corrections(&story, first);
        // Others go on without us, and bob joins through them.
        story.room.join(ELSIE).send();
        story.room.message(ELSIE, "in the gap").send();
        let bob = story.room.join(BOB).send();
        story.hold_resync();
        let status = story.join_partially(&bob, S);
        assert_eq!(status, JoinStatus::Joined { event_id: bob, partial: true });
        story.engine().acknowledge(&room, first, story.now_ms).expect("the store works");
        story.release();
        let [_, second] = full(&story)[..] else { panic!("it is told again") };
        assert!(story.view().is_partial(), "that is not acknowledged");
        assert_eq!(corrections(&story, first), was, "what stands at a position stays as it was");
        story.engine().acknowledge(&room, second, story.now_ms).expect("the store works");
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}
