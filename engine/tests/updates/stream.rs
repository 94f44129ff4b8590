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
    Change, Engine, FullState, Limits, MemoryBackend, RoomVersionId, ServerName, Update, UpdatePosition,
    testing::{CHARLIE, NEWEST_VERSIONS, S, Storage, Story},
};

use super::{now, told_since};

fn told(engine: &Engine) -> Vec<Update> {
    std::iter::from_fn(|| engine.poll_update().expect("the store works")).collect()
}

fn positions(updates: &[Update]) -> Vec<UpdatePosition> {
    updates.iter().map(|update| update.position).collect()
}

fn on_both(check: impl Fn(Story)) {
    let story = |storage| Story::with(&RoomVersionId::V11, &[], |_| {}, storage, Limits::default());
    check(story(Storage::Memory(MemoryBackend::new())));
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    check(story(Storage::Sled(dir.path().to_owned())));
}

#[test]
fn what_was_told_and_not_acknowledged_is_told_again_after_a_restart_and_the_rest_is_not() {
    on_both(|story| {
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
    let far = UpdatePosition { seq: gibbous::gibbous_codec::LogSeq(u64::MAX), index: 0 };
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
    let is_lagging = |updates: &[Update]| matches!(updates, [Update { change: Change::Lagged { from }, .. }] if from.0 == joined.seq.0 + 1);
    story.restart();
    // What is in the log behind the acknowledged position is found there, and not told one by one.
    let lagged = told(story.engine());
    assert!(matches!(&lagged[..], [Update { change: Change::Lagged { .. }, .. }]), "{lagged:?}");
    let missed = told_since(&story, Some(joined));
    let persisted = missed.iter().filter(|update| matches!(update.change, Change::EventPersisted { .. }));
    assert_eq!(persisted.count(), 5, "{}", is_lagging(&lagged));
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
