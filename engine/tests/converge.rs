//! A partial room does not end otherwise when the same events come in the same order, but answers at other times
//! (promise 1). What one run ends with is compared with the oracle in `convergence/`.
//!
//! Each story is made of a seed. A failure names the seed; `GIBBOUS_SEED=<seed>` runs that one alone.

use gibbous::{
    Limits, MemoryBackend, OwnedEventId, RoomVersionId,
    testing::{CHARLIE, DEREK, ELSIE, RoomBuilder, S, Storage, Story},
};
use serde_json::json;

const FRED: &str = "@fred:s.example";
const GRETA: &str = "@greta:s2.example";
const USERS: [&str; 5] = [CHARLIE, DEREK, ELSIE, FRED, GRETA];
const SEEDS: u64 = 40;
const HOUR: u64 = 3_600_000;

/// SplitMix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("it is less than a usize")
    }

    fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.roll(of.len())]
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// What a user's membership was before, so that a stale one can be cited.
fn memberships(room: &RoomBuilder, user: &str) -> Vec<OwnedEventId> {
    let is_of = |id: &&OwnedEventId| {
        let pdu = room.pdu(id);
        pdu.event_type() == "m.room.member" && pdu.state_key() == Some(user)
    };
    room.order().iter().filter(is_of).cloned().collect()
}

/// Things that happened before alice joins, all of them allowed.
fn before(room: &mut RoomBuilder, dice: &mut Dice) {
    for user in [ELSIE, FRED, GRETA] {
        room.join(user).send();
    }
    for user in [DEREK, ELSIE, FRED, GRETA] {
        match dice.roll(4) {
            0 => drop(room.leave(user).send()),
            1 => drop(room.member(CHARLIE, user, if dice.one_in(2) { "ban" } else { "leave" }).send()),
            _ => {}
        }
    }
}

/// Tells one more event, allowed or not, and returns it.
fn tell(room: &mut RoomBuilder, first: usize, dice: &mut Dice) -> OwnedEventId {
    let sender = *dice.pick(&USERS);
    let target = *dice.pick(&USERS);
    let order = room.order();
    let fork = dice.one_in(3).then(|| dice.pick(&order[first..]).clone());
    let merge = dice.one_in(6).then(|| dice.pick(&order[first..]).clone());
    let prevs: Vec<OwnedEventId> = match (fork, merge) {
        (Some(fork), Some(merge)) if fork != merge => vec![fork, merge],
        (Some(fork), _) => vec![fork],
        (None, _) => room.tips().iter().rev().take(3).cloned().collect(),
    };
    let at = room.state_after(&prevs[0]).clone();
    let of = |event_type: &str, state_key: &str| at.get(&gibbous::StateKey::new(event_type, state_key)).cloned();
    let stale = memberships(room, sender);
    let number = room.order().len();
    let draft = match dice.roll(9) {
        0 | 1 => room.message(sender, &number.to_string()),
        2 => room.state(sender, "m.room.topic", "", json!({ "topic": number })),
        3 => room.state(sender, "m.room.test", target, json!({ "n": number })),
        4 => room.member(sender, target, "leave").content("n", json!(number)),
        5 => room.member(sender, target, "ban").content("n", json!(number)),
        6 => room.leave(sender).content("n", json!(number)),
        7 => room.join(sender).content("n", json!(number)),
        _ => {
            let levels = [(DEREK, 50), (ELSIE, dice.roll(2) as i64 * 50), (FRED, 50)];
            room.power_levels(&levels).content("n", json!(number))
        }
    };
    let draft = draft.after(&prevs.iter().collect::<Vec<_>>());
    // Half of the senders cite a membership of their own choice, and leave out the target's.
    if dice.one_in(2) && !stale.is_empty() {
        let cited = dice.pick(&stale).clone();
        let levels = of("m.room.power_levels", "");
        let rules = of("m.room.join_rules", "");
        let mut auth: Vec<&OwnedEventId> = levels.iter().collect();
        auth.push(&cited);
        if dice.one_in(2) {
            auth.extend(rules.iter());
        }
        let draft = draft.auth(&auth);
        return if dice.one_in(2) { draft.without_effect().send() } else { draft.send() };
    }
    if dice.one_in(3) { draft.without_effect().send() } else { draft.send() }
}

fn story(version: &RoomVersionId, dice: &mut Dice) -> Story {
    let levels = [(DEREK, 50), (ELSIE, 50), (FRED, 75)];
    let storage = Storage::Memory(MemoryBackend::new());
    Story::with(version, &levels, |room| before(room, dice), storage, Limits::default()).join_held()
}

/// Tells some events; returns them in their order, and in the one in which they arrive.
fn tell_and_shuffle(room: &mut RoomBuilder, first: usize, dice: &mut Dice) -> (Vec<OwnedEventId>, Vec<OwnedEventId>) {
    let told: Vec<OwnedEventId> = (0..20).map(|_| tell(room, first, dice)).collect();
    let mut arriving = told.clone();
    for at in (1..told.len()).rev() {
        // Neighbours mostly, so that not everything is one gap.
        let other = if dice.one_in(3) { dice.roll(at + 1) } else { at.saturating_sub(dice.roll(3)) };
        arriving.swap(at, other);
    }
    (told, arriving)
}

/// The same events arrive in the same order; only the answers come at other times and in another order, and there are
/// restarts. Everything must be the same.
fn check_any_answers(version: &RoomVersionId, seed: u64) {
    let ends = [true, false].map(|is_prompt| {
        let mut dice = Dice(seed);
        let mut story = story(version, &mut dice);
        let first = story.room.order().len() - 1;
        let (in_order, arriving) = tell_and_shuffle(&mut story.room, first, &mut dice);
        for event in &arriving {
            if is_prompt {
                story.receive(S, &[event]);
                continue;
            }
            story.hand(S, &[event]);
            for _ in 0..dice.roll(4) {
                story.deliver_one(dice.roll(100));
            }
            match dice.roll(10) {
                0 => story.restart(),
                1 => story.deliver_held(),
                _ => {}
            }
        }
        story.servers.be_honest();
        story.deliver_held();
        while story.deliver_one(if is_prompt { 0 } else { dice.roll(100) }) {}
        assert!(story.pass_time_until_full(HOUR), "{:?}", story.view().resync());
        let verdicts: Vec<String> = in_order.iter().map(|event| story.verdict(event)).collect();
        let states: Vec<_> = in_order.iter().map(|event| story.state_before(event)).collect();
        let view = story.view();
        (verdicts, states, view.forward_extremities(), view.current_state().expect("the store works"))
    });
    let [prompt, late] = ends;
    assert_eq!(prompt.0, late.0, "verdicts");
    assert_eq!(prompt.1, late.1, "states");
    let sorted = |mut ids: Vec<OwnedEventId>| {
        ids.sort();
        ids
    };
    assert_eq!(sorted(prompt.2), sorted(late.2), "forward extremities");
    assert_eq!(prompt.3, late.3, "current state");
}

/// Runs a check for every seed and version, or the one that is named; names every seed that fails.
fn check_all(check: fn(&RoomVersionId, u64)) {
    let only = std::env::var("GIBBOUS_SEED").ok().map(|seed| seed.parse::<u64>().expect("GIBBOUS_SEED is a number"));
    let mut failed = Vec::new();
    for seed in 0..SEEDS {
        for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
            if only.is_some_and(|only| only != seed) {
                continue;
            }
            let result = std::panic::catch_unwind(|| check(&version, seed));
            if result.is_err() {
                failed.push(format!("seed {seed} in version {version}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_room_does_not_end_otherwise_when_answers_come_at_other_times() {
    check_all(check_any_answers);
}
