//! What a replay tells of, moment by moment: everything that its report counts, in an order that can be.
#![cfg(feature = "replay")]

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    time::Duration,
};

use gibbous::{
    Change, RequestKind,
    gibbous_codec::exchange,
    replay::{Happening, Host, Moment, Report, Storage, Trouble, watch},
};

/// What was told.
#[derive(Debug, Default)]
struct Told {
    steps: BTreeMap<&'static str, u64>,
    requests: u64,
    asked: BTreeSet<u64>,
    answers: u64,
    flips: u64,
    reopened: u64,
    full: bool,
    last: (Duration, u64),
}

impl Told {
    fn note(&mut self, moment: Moment<'_>) {
        assert!(moment.spent >= self.last.0 && moment.now_ms >= self.last.1, "time goes backwards: {moment:?}");
        self.last = (moment.spent, moment.now_ms);
        match moment.happening {
            Happening::Step { kind, .. } => *self.steps.entry(kind).or_default() += 1,
            Happening::Asked(request) => {
                self.asked.insert(request.id.0);
                self.requests += match &request.kind {
                    RequestKind::Events { event_ids } => event_ids.len() as u64,
                    _ => 1,
                };
            }
            Happening::Answered { id, is_given, bytes, .. } => {
                assert!(self.asked.contains(&id.0), "{id:?} was never asked");
                assert!(!is_given || bytes > 0, "{moment:?}");
                self.answers += 1;
            }
            Happening::Told(update) => {
                self.flips += u64::from(matches!(update.change, Change::EventUnPartialStated { .. }));
                self.full |= matches!(update.change, Change::RoomUnPartialStated { .. });
            }
            Happening::Reopened => self.reopened += 1,
        }
    }
}

fn watched(trouble: Trouble) -> (Report, Told) {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bans-v11.recording.jsonl.zst");
    let now = Cell::new(Duration::ZERO);
    // Each look at the watch takes a millisecond.
    let elapsed = || now.replace(now.get() + Duration::from_millis(1));
    let mut host = Host { elapsed: &elapsed, progress: &mut |_| {}, trouble };
    let mut told = Told::default();
    let (input, spill) = (exchange::open(recording).unwrap(), tempfile::tempfile().unwrap());
    let report = watch(input, &Storage::in_memory(), spill, &mut host, &mut |moment| told.note(moment)).unwrap();
    assert!(report.passed(), "{report:?}");
    (report, told)
}

#[test]
fn everything_that_a_report_counts_is_told_in_order() {
    let (report, told) = watched(Trouble::default());
    let steps = [("local", 3), ("pdu", 41), ("resync", 1), ("send_join", 1)];
    assert_eq!(told.steps, BTreeMap::from(steps));
    assert_eq!((told.requests, told.flips), (report.requests, report.flipped));
    assert_eq!(told.answers, told.asked.len() as u64, "each is answered, once");
    assert!(told.full && told.reopened == 0, "{told:?}");
}

#[test]
fn restarts_are_told_and_answers_that_come_twice() {
    let trouble = Trouble { restart_every: NonZeroU64::new(5), shuffle_answers: Some(1) };
    let (report, told) = watched(trouble);
    assert_eq!((told.requests, told.reopened), (report.requests, report.restarts));
    assert!(told.full && told.reopened > 5, "{told:?}");
}
