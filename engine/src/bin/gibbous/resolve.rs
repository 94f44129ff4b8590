//! `gibbous resolve`: resolution vectors, resolved by the algorithm of their room version.

use std::collections::BTreeSet;

use gibbous::{
    Error, OwnedEventId, Pdu,
    gibbous_codec::{RoomRules, exchange::ResolveVector},
    resolution::{Events, ResolutionEvent},
};

use crate::vectors::{Mismatch, Vector};

impl Vector for ResolveVector {
    fn name(&self) -> &str {
        &self.name
    }

    fn disputed(&self) -> Option<&str> {
        self.disputed.as_deref()
    }

    fn judge(&self) -> Result<Option<Mismatch>, String> {
        let rules = RoomRules::of(&self.room_version)
            .ok_or_else(|| format!("expected a room version from 1 to 12, found {}", self.room_version))?;
        let expected: BTreeSet<OwnedEventId> = self.expected.iter().cloned().collect();
        let found = match resolve(&rules, self) {
            Ok(found) if found == expected => return Ok(None),
            Ok(found) => found,
            Err(error) => return Ok(Some(Mismatch { expected: "a state".to_owned(), found: format!("{error}") })),
        };
        Ok(Some(Mismatch { expected: list(expected.difference(&found)), found: list(found.difference(&expected)) }))
    }
}

fn resolve(rules: &RoomRules, vector: &ResolveVector) -> Result<BTreeSet<OwnedEventId>, Error> {
    // What is no event of the room version is as one that is not there.
    let events = vector.events.iter().filter_map(|event| {
        let pdu = Pdu::with_event_id(rules, event.event_id.clone(), event.pdu.get().as_bytes()).ok()?;
        Some(ResolutionEvent { pdu, rejected: event.rejected })
    });
    let events = Events::new(rules, events);
    let states = vector.state_sets.iter().map(|set| events.state(set)).collect::<Result<Vec<_>, _>>()?;
    Ok(events.state_map(&events.resolve(&states)?).into_values().collect())
}

/// Lists the events that one state has and another has not.
fn list<'e>(event_ids: impl Iterator<Item = &'e OwnedEventId>) -> String {
    let event_ids: Vec<&str> = event_ids.map(|event_id| event_id.as_str()).collect();
    match event_ids.as_slice() {
        [] => "nothing in their place".to_owned(),
        event_ids => event_ids.join(", "),
    }
}
