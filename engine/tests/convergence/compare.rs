//! The end of a story, compared with what the naive oracle makes of the same events in the prescribed order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gibbous::{
    OwnedEventId, StateMap,
    gibbous_codec::{EventState, LogRecord, LogSeq, Stage},
    gibbous_storage::{RoomRows, Store, check},
    testing::oracle::{Oracle, State},
};

use crate::{order::Prescribed, world::World};

/// Compares a room at rest with what promise 1 says of it.
pub(crate) fn compare(world: &mut World) -> Result<(), String> {
    let mut counts = Vec::new();
    let result = differences(world, &mut counts);
    for count in counts {
        world.count(count);
    }
    result
}

fn differences(world: &World, counts: &mut Vec<&'static str>) -> Result<(), String> {
    let view = world.host.view();
    if world.is_dormant() {
        counts.push("rooms that nobody of ours could join again");
        return Ok(());
    }
    if view.is_partial() {
        let waiting = world.host.engine().room_in_words(world.random.room.id()).expect("the store works");
        return Err(format!("the room is still partial: {:?}\n  {}", view.resync(), waiting.join("\n  ")));
    }
    let Stored { events: stored, log } = stored(world);
    let pdu = |event_id: &OwnedEventId| world.random.room.pdu(event_id).clone();
    let prescribed = Prescribed::of(&log, pdu)?;
    prescribed.check_receipts(&world.pushed)?;
    let order = &prescribed.order;
    for (event_id, state) in &stored {
        if let Stage::Placed { .. } = state.stage {
            if !world.handed.contains(event_id) {
                counts.push("pulled");
            }
            if !order.contains(event_id) {
                return Err(format!("{event_id} is placed and was not folded"));
            }
        }
    }
    for event_id in &world.handed {
        match (order.contains(event_id), world.is_hopeless(event_id)) {
            (true, _) => {}
            (false, true) => counts.push("events without a place for want of a key"),
            (false, false) => return Err(format!("{event_id} has no place: {}", world.host.verdict(event_id))),
        }
    }

    let (oracle, predicted) = oracle(world, &stored, &prescribed, counts);
    let outcome = oracle.fold(order, &prescribed.handshakes);
    let mut differences = Vec::new();
    let mut verdicts = BTreeMap::new();
    for event_id in order {
        let judged = oracle.judged(event_id).ok_or_else(|| format!("the oracle has not judged {event_id}"))?;
        let (before, after) = judged.states.clone().ok_or_else(|| format!("no state before {event_id}"))?;
        let status = match &judged.refusal {
            Some(_) => "rejected",
            None if outcome.soft_failed.contains(event_id) => "soft_failed",
            None => "accepted",
        };
        counts.push(status);
        let found = world.host.verdict(event_id);
        if found != status {
            differences.push(format!("{event_id} is {found}, to the oracle {status}, {:?}", judged.refusal));
        }
        let states = (view.state_before(event_id), view.state_after(event_id));
        for (which, found, expected) in [("before", states.0, before), ("after", states.1, after)] {
            let found = found.expect("the store works").expect("it is placed");
            let rejected = found.values().filter(|id| world.host.verdict(id).ends_with("rejected"));
            differences.extend(rejected.map(|id| format!("a state has {id}, which is rejected")));
            differences.extend(difference(&format!("the state {which} {event_id}"), &found, &expected));
        }
        if let Some(Stage::Placed { status, .. }) = stored.get(event_id).map(|state| &state.stage) {
            verdicts.insert(event_id.clone(), status.clone());
        }
    }
    let extremities: BTreeSet<_> = view.forward_extremities().into_iter().collect();
    if extremities != outcome.extremities {
        differences.push(format!("the extremities are {extremities:?}, to the oracle {:?}", outcome.extremities));
    }
    let current = view.current_state().expect("the store works");
    differences.extend(difference("the current state", &current, &outcome.current));

    let holes = &world.picture.holes;
    counts.extend(holes.iter().map(|_| "holes"));
    if !predicted.must.is_subset(holes) || !holes.is_subset(&predicted.may) {
        differences.push(format!("the holes are {holes:?}, to the simulator {predicted:?}"));
    }
    counts.extend(prescribed.aside.iter().map(|_| "set aside"));
    differences.extend(world.picture.differences(world.host.engine(), &view, &verdicts));

    let store = Store::open(Arc::new(world.backend.clone())).expect("the store opens");
    let findings = check(&store).expect("the store can be read").findings;
    differences.extend(findings.iter().map(|finding| format!("check: {finding}")));
    let names = |id: &OwnedEventId| format!("  {id} after {:?}", world.random.room.pdu(id).prev_events());
    let in_words: Vec<String> = order.iter().map(names).collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!("{}\nin this order:\n{}", differences.join("\n"), in_words.join("\n")))
}

/// What is stored of a room.
struct Stored {
    events: BTreeMap<OwnedEventId, EventState>,
    log: Vec<(LogSeq, LogRecord)>,
}

fn stored(world: &World) -> Stored {
    let store = Store::open(Arc::new(world.backend.clone())).expect("the store opens");
    let num = store.room_num(world.random.room.id()).expect("the store works").expect("the room is stored");
    let rows = store.snapshot(num).expect("the store works");
    let mut events = BTreeMap::new();
    for event_id in world.random.room.order() {
        if let Some(num) = rows.event_num(event_id).expect("the store works") {
            events.insert(event_id.clone(), rows.event(num).expect("the store works").state);
        }
    }
    let log = rows.records_from(LogSeq(0), usize::MAX).expect("the store works");
    Stored { events, log }
}

/// Returns the oracle that knows what the engine was told: the full state before the join, and the states that servers
/// told of what the history leaves out; and the holes that these have.
fn oracle(
    world: &World,
    stored: &BTreeMap<OwnedEventId, EventState>,
    prescribed: &Prescribed<'_>,
    counts: &mut Vec<&'static str>,
) -> (Oracle, Holes) {
    let random = &world.random;
    let view = world.host.view();
    let mut oracle = Oracle::new(random.room.rules().clone());
    for event_id in random.room.order() {
        // What cannot be verified, or rests on what cannot be, is known to nobody.
        if world.is_unverifiable(event_id) || world.rests_on_unverifiable(event_id) {
            continue;
        }
        let mut pdu = random.room.pdu(event_id).clone();
        // The copy that came first is kept: the redacted one, it may be.
        if let Some(info) = view.event(event_id).expect("the store works")
            && info.pdu.canonical_json() != pdu.canonical_json()
        {
            counts.push("redacted copies kept");
            pdu = info.pdu;
        }
        match prescribed.order.contains(event_id) {
            true => oracle.add(pdu),
            false => oracle.learn(pdu),
        }
    }
    let has_state = |event_id: &OwnedEventId| match stored.get(event_id).map(|state| &state.stage) {
        Some(Stage::Placed { .. } | Stage::Outlier { states: Some(_), .. } | Stage::History { .. }) => true,
        Some(Stage::Outlier { .. } | Stage::Waiting | Stage::Unverified | Stage::Dropped) | None => false,
    };
    let mut holes = Holes::default();
    for (event_id, state) in stored {
        let is_told = match &state.stage {
            // What it was placed with counts, though the states after its prev events may have been told later. Where
            // there are holes, the two differ.
            Stage::Placed { .. } => prescribed.placed_as_told.contains(event_id),
            // It may have come since, and wait for what it rests on; what was told served those that follow it.
            _ => prescribed.told.contains(event_id),
        };
        if is_told {
            counts.push("bridged");
            let mut before = random.state_before(event_id);
            before.retain(|_, id| !world.is_unverifiable(id) && !world.rests_on_unverifiable(id));
            match world.is_unverifiable(event_id) || world.rests_on_unverifiable(event_id) {
                true => oracle.tell_unverifiable(random.room.pdu(event_id), before),
                false => oracle.tell(event_id, before),
            }
        }
        if has_state(event_id) || state.stage == Stage::Waiting {
            let named = holes_of(world, event_id, &random.state_before(event_id));
            if prescribed.told.contains(event_id) {
                holes.must.extend(named.iter().cloned());
            }
            holes.may.extend(named);
        }
    }
    oracle.judge();
    (oracle, holes)
}

/// The events that are named as holes.
#[derive(Debug, Default)]
struct Holes {
    /// These are named: those of states that were told of what the history leaves out.
    must: BTreeSet<OwnedEventId>,
    /// These may be: a state may have been told that was not needed any more in the end.
    may: BTreeSet<OwnedEventId>,
}

/// Returns what cannot be had of the state at an event: the state's events and their auth chain's that cannot be
/// verified, the state's events that rest on such, and the event itself.
fn holes_of(world: &World, event_id: &OwnedEventId, state: &State) -> BTreeSet<OwnedEventId> {
    let chain = world.random.room.auth_chain(state.values());
    let at_it = state.values().chain([event_id]);
    let resting = at_it.clone().filter(|id| world.rests_on_unverifiable(id)).cloned();
    let unverifiable = chain.iter().chain(at_it.clone()).filter(|id| world.is_unverifiable(id)).cloned();
    resting.chain(unverifiable).collect()
}

fn difference(what: &str, found: &StateMap<OwnedEventId>, expected: &StateMap<OwnedEventId>) -> Option<String> {
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differing = keys.into_iter().filter(|key| found.get(key) != expected.get(key));
    let named = |key| format!("  {key}: {:?}, to the oracle {:?}", found.get(key), expected.get(key));
    let differing: Vec<_> = differing.map(named).collect();
    (!differing.is_empty()).then(|| format!("{what} differs:\n{}", differing.join("\n")))
}
