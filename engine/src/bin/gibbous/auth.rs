//! `gibbous auth`: authorisation vectors, judged by the rules of their room version.

use std::{collections::BTreeMap, convert::Infallible};

use gibbous::{
    authorisation::{Cited, authorise, authorise_citations},
    gibbous_codec::{
        Check, EventId, Pdu, RoomRules, StateKey, StateMap,
        exchange::{AuthVector, Decision, VectorEvent},
    },
};

use crate::vectors::{Mismatch, Vector};

impl Vector for AuthVector {
    fn name(&self) -> &str {
        &self.name
    }

    fn disputed(&self) -> Option<&str> {
        self.disputed.as_deref()
    }

    fn judge(&self) -> Result<Option<Mismatch>, String> {
        let expected = match (self.expected, &self.rule) {
            (Decision::Allow, _) => "allow".to_owned(),
            (Decision::Reject, None) => "reject".to_owned(),
            (Decision::Reject, Some(rule)) => format!("reject ({rule:?})"),
        };
        let found = match found(self)? {
            Ok(()) => "allow".to_owned(),
            Err(why) => format!("reject ({why:?})"),
        };
        let holds = found.starts_with("allow") == (self.expected == Decision::Allow);
        Ok((!holds).then_some(Mismatch { expected, found }))
    }
}

/// Returns what the rules say of a vector's event, or why the vector makes no sense.
fn found(vector: &AuthVector) -> Result<Result<(), String>, String> {
    let rules = RoomRules::of(&vector.room_version)
        .ok_or_else(|| format!("expected a room version from 1 to 12, found {}", vector.room_version))?;
    let parse = |event: &VectorEvent| Pdu::with_event_id(&rules, event.event_id.clone(), event.pdu.get().as_bytes());
    // What is malformed is no event: the room has none by that ID.
    let events: BTreeMap<&EventId, Cited> = vector
        .events
        .iter()
        .filter_map(|event| Some((&*event.event_id, Cited { pdu: parse(event).ok()?, rejected: event.rejected })))
        .collect();
    let mut state = StateMap::new();
    for event_id in &vector.state {
        let cited = events.get(&**event_id).ok_or_else(|| format!("the state has {event_id}, the events have not"))?;
        let key = cited.pdu.state_key().map(|state_key| StateKey::new(cited.pdu.event_type(), state_key));
        let key = key.ok_or_else(|| format!("{event_id} of the state is no state event"))?;
        state.insert(key, cited.pdu.clone());
    }
    let event = match parse(&vector.event) {
        Ok(event) => event,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let Ok(cited) = authorise_citations(&rules, &event, |id| Ok::<_, Infallible>(events.get(id).cloned()));
    let by_state = |key: &StateKey| Ok::<_, Infallible>(state.get(key).cloned());
    let decision = cited.decision.and_then(|()| {
        let Ok(authorization) = authorise(&rules, &event, Check::StateBefore, by_state);
        authorization.decision
    });
    Ok(decision.map_err(|rejection| rejection.to_string()))
}
