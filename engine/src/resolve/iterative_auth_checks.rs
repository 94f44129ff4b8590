//! The iterative auth checks.
//!
//! "The iterative auth checks algorithm takes as input an initial room state and a sorted list of state events, and
//! constructs a new room state by iterating through the event list and applying the state event to the room state if the
//! state event is allowed by the authorization rules. If the state event is not allowed by the authorization rules, then
//! the event is ignored."

use std::sync::Arc;

use gibbous_codec::{Check, StateKey};

use super::{
    source::{Candidate, EventIndex, KeyIndex, Source},
    v2::{Keys, PartialState, create_event_of},
};
use crate::{Error, auth::check_state, lookup::AuthEvent};

/// Applies the sorted events to the state.
///
/// "Events that have been rejected due to failing auth based on the state at the event (rather than based on their auth
/// chain) are handled as usual": one in the list is tried again, as ruma has it too; Synapse skips it. Those that failed by
/// their auth chain "should not appear"; the engine has none such in a state.
pub(super) fn iterative_auth_checks(
    source: &impl Source,
    keys: &Keys<'_>,
    sorted: &[EventIndex],
    state: &mut PartialState<'_>,
) -> Result<(), Error> {
    for event in sorted {
        let candidate = source.event(*event)?;
        // Only state events have a key; those that authorise others without being any are of no use to the state.
        let Some(key) = source.key(*event)? else { continue };
        if is_allowed(source, keys, (*event, &candidate), state)? {
            state.set(key, *event);
        }
    }
    Ok(())
}

fn is_allowed(
    source: &impl Source,
    keys: &Keys<'_>,
    (event, candidate): (EventIndex, &Candidate),
    state: &PartialState<'_>,
) -> Result<bool, Error> {
    let reads = candidate.reads(keys.rules, source);
    let at = |key: &StateKey| -> Result<Option<Arc<AuthEvent>>, Error> {
        // v12 on: the create event is that of the room's ID, whatever a state says.
        if keys.rules.room_id_is_create_hash() && key.event_type == "m.room.create" {
            let create = create_event_of(source, keys, event, candidate)?;
            return Ok(create.map(|create| accepted(source, create)).transpose()?.flatten());
        }
        let Some((_, index)) = reads.iter().find(|(read, _)| read == key) else { return Ok(None) };
        // "If a (event_type, state_key) key that is required for checking the authorization rules is not present in the
        // state, then the appropriate state event from the event's auth_events is used if the auth event is not rejected."
        if let Some(found) = state.get(*index)?.map(|found| accepted(source, found)).transpose()?.flatten() {
            return Ok(Some(found));
        }
        cited(source, event, *index)
    };
    Ok(check_state(keys.rules, &candidate.event, Check::StateBefore, at)?.is_allowed())
}

/// Returns the auth event at a key that an event cites, unless it was rejected; where it cites several, the last.
fn cited(source: &impl Source, event: EventIndex, key: KeyIndex) -> Result<Option<Arc<AuthEvent>>, Error> {
    for auth_event in source.auth_events(event)?.iter().rev() {
        if source.key(*auth_event)? == Some(key)
            && let Some(found) = accepted(source, *auth_event)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A rejected event never serves in a check. Of those among the auth events the specification says so; that one in the state,
/// which was tried again and passed, does not serve either is ruma's reading.
fn accepted(source: &impl Source, event: EventIndex) -> Result<Option<Arc<AuthEvent>>, Error> {
    let candidate = source.event(event)?;
    Ok((!candidate.event.is_rejected()).then(|| candidate.event.clone()))
}
