//! State resolution of great conflicts, against ruma's in the same run.
//!
//! The vectors in `data/large.jsonl.zst` are rooms of about 4,300 events and some 1,500 in the full conflicted set, of
//! six room versions; `GIBBOUS_VECTORS` names another file. Each is resolved in turn by ruma, cold and warm, some
//! times, and the least time of each counts. Every answer is compared with what the vector expects.
//!
//! - *ruma* starts from events in a hash map, state maps, auth chains and the conflicted state subgraph.
//! - *cold* starts from parsed PDUs and state maps: numbers, chains, the subgraph and the parsing of contents count.
//! - *warm* starts from what the first resolution has left: numbers, edges and parsed contents, as over a room in use.

use std::{collections::BTreeSet, path::Path, sync::OnceLock, time::Duration};

use gibbous::{
    OwnedEventId, Pdu, StateKey, StateMap,
    gibbous_codec::{
        RoomRules,
        exchange::{self, ResolveVector, Vectors},
    },
    resolution::{Events, ResolutionEvent, State},
    testing::ruma_resolution::{RumaStates, from_ruma},
};

use super::clock::{median_ratio, over, timed};

/// How often each is resolved by each.
const RUNS: usize = 9;
/// Where ruma takes less, it may be faster.
const LEAST: Duration = Duration::from_millis(1);

/// The least times of one vector.
struct Times {
    ruma: Duration,
    cold: Duration,
    warm: Duration,
}

/// Returns how many times as fast a resolution from parsed PDUs is: the median.
pub(super) fn cold() -> Result<f64, String> {
    Ok(median_ratio(times()?.iter().map(|times| over(times.ruma, times.cold))))
}

/// Returns how many times as fast a resolution of a room in use is: the median.
pub(super) fn warm() -> Result<f64, String> {
    Ok(median_ratio(times()?.iter().map(|times| over(times.ruma, times.warm))))
}

/// Returns how many times as fast the slowest cold resolution is, of those that take ruma some time.
pub(super) fn slowest() -> Result<f64, String> {
    let slow = times()?.iter().filter(|times| times.ruma > LEAST).map(|times| over(times.ruma, times.cold));
    slow.min_by(f64::total_cmp).ok_or_else(|| "no vector takes ruma over a millisecond".to_owned())
}

/// Measures every vector, once for all figures.
fn times() -> Result<&'static [Times], String> {
    static TIMES: OnceLock<Result<Vec<Times>, String>> = OnceLock::new();
    TIMES.get_or_init(measure_all).as_deref().map_err(Clone::clone)
}

fn measure_all() -> Result<Vec<Times>, String> {
    let file = std::env::var("GIBBOUS_VECTORS").unwrap_or_else(|_| {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/large.jsonl.zst");
        data.to_string_lossy().into_owned()
    });
    let input = exchange::open(&file).map_err(|error| format!("{file}: {error}"))?;
    let mut all = Vec::new();
    for vector in Vectors::<_, ResolveVector>::new(input) {
        let (_, vector) = vector.map_err(|error| format!("{file}: {error}"))?;
        let rules = RoomRules::of(&vector.room_version).ok_or("the room version is not known")?;
        if rules.ruma().state_res.v2_rules().is_none() {
            continue; // ruma has no resolution of room version 1.
        }
        let times = measure(&rules, &vector)?;
        let [ruma, cold, warm] = [times.ruma, times.cold, times.warm].map(|time| time.as_secs_f64() * 1e3);
        eprintln!("{}: ruma {ruma:.2} ms, cold {cold:.2} ms, warm {warm:.2} ms", vector.name);
        all.push(times);
    }
    if all.is_empty() { Err(format!("{file}: there is no vector")) } else { Ok(all) }
}

fn measure(rules: &RoomRules, vector: &ResolveVector) -> Result<Times, String> {
    let parsed = || vector.events.iter().map(|event| parse(rules, event)).collect::<Result<Vec<_>, _>>();
    let events = parsed()?;
    let maps: Vec<StateMap<OwnedEventId>> = vector.state_sets.iter().map(|set| state_map(set, &events)).collect();
    let of_ruma = RumaStates::new(rules, &maps, events.iter().cloned());
    let in_use = Events::new(rules, events.iter().cloned());
    let states: Vec<State> = states(&in_use, &maps)?;

    let mut times = Times { ruma: Duration::MAX, cold: Duration::MAX, warm: Duration::MAX };
    for _ in 0..RUNS {
        let chains = of_ruma.chains();
        let (time, found) = timed(|| of_ruma.resolve(chains));
        times.ruma = times.ruma.min(time);
        compare(vector, "ruma", &from_ruma(found.map_err(|error| error.to_string())?))?;

        // Parsed anew: a PDU keeps what was read of its content.
        let given = parsed()?;
        let (time, found) = timed(|| {
            let events = Events::new(rules, given);
            let states = states_of(&events, &maps)?;
            events.resolve(&states).map(|state| (events.state_map(&state), events))
        });
        times.cold = times.cold.min(time);
        compare(vector, "gibbous, cold", &found.map_err(|error| error.to_string())?.0)?;

        let (time, found) = timed(|| in_use.resolve(&states));
        times.warm = times.warm.min(time);
        compare(vector, "gibbous, warm", &in_use.state_map(&found.map_err(|error| error.to_string())?))?;
    }
    Ok(times)
}

fn parse(rules: &RoomRules, event: &exchange::VectorEvent) -> Result<ResolutionEvent, String> {
    let pdu = Pdu::with_event_id(rules, event.event_id.clone(), event.pdu.get().as_bytes());
    Ok(ResolutionEvent { pdu: pdu.map_err(|error| error.to_string())?, rejected: event.rejected })
}

fn state_map(set: &[OwnedEventId], events: &[ResolutionEvent]) -> StateMap<OwnedEventId> {
    let set: BTreeSet<&OwnedEventId> = set.iter().collect();
    let of_set = events.iter().map(|event| &event.pdu).filter(|pdu| set.contains(&pdu.event_id().to_owned()));
    let entry = |pdu: &Pdu| Some((StateKey::new(pdu.event_type(), pdu.state_key()?), pdu.event_id().to_owned()));
    of_set.filter_map(entry).collect()
}

fn states(events: &Events, maps: &[StateMap<OwnedEventId>]) -> Result<Vec<State>, String> {
    states_of(events, maps).map_err(|error| error.to_string())
}

fn states_of(events: &Events, maps: &[StateMap<OwnedEventId>]) -> Result<Vec<State>, gibbous::Error> {
    maps.iter().map(|map| events.state(map.values())).collect()
}

fn compare(vector: &ResolveVector, who: &str, found: &StateMap<OwnedEventId>) -> Result<(), String> {
    let expected: BTreeSet<&OwnedEventId> = vector.expected.iter().collect();
    let holds = found.values().collect::<BTreeSet<_>>() == expected;
    if holds { Ok(()) } else { Err(format!("{}: {who} finds another state than expected", vector.name)) }
}
