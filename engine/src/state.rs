//! The state before an event: from the states after its prev events (one group, a fork, or what another server told of
//! a gap).

use std::cell::RefCell;

use gibbous_codec::{EventNum, Stage, StateGroup, States};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    room::{Resolved, RoomMemory},
};

/// The state after a prev event, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateAfter {
    /// Nothing is known of it.
    Unknown,
    /// It is known, and may still change.
    Partial(StateGroup),
    /// It is known for good.
    Full(StateGroup),
}

/// Returns the states before and after an event of which this is held, and whether they may still change; `None` where
/// nothing is known of them.
pub(crate) fn states_of(stage: &Stage) -> Option<(States, bool)> {
    match stage {
        Stage::Placed { partial, states, .. } => Some((*states, *partial)),
        Stage::History { states, .. } => Some((*states, false)),
        Stage::Outlier { states, provisional, .. } => states.map(|states| (states, *provisional)),
        Stage::Unverified | Stage::Waiting | Stage::Dropped => None,
    }
}

/// Returns the state after an event of which this is held.
pub(crate) fn state_after(stage: &Stage) -> StateAfter {
    match states_of(stage) {
        Some((states, true)) => StateAfter::Partial(states.after),
        Some((states, false)) => StateAfter::Full(states.after),
        None => StateAfter::Unknown,
    }
}

/// Resolves states into one, which is then stored.
pub(crate) fn resolve_groups(
    memory: &RoomMemory,
    txn: &mut Txn<'_>,
    groups: &[StateGroup],
) -> Result<StateGroup, Error> {
    Ok(resolve_noting(memory, txn, groups)?.state)
}

/// The same, and says which events have been read for it whose verdicts may still change.
pub(crate) fn resolve_noting(memory: &RoomMemory, txn: &mut Txn<'_>, groups: &[StateGroup]) -> Result<Resolved, Error> {
    let mut distinct = groups.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    if let [] | [_] = distinct.as_slice() {
        let state = distinct.first().copied().unwrap_or(StateGroup::EMPTY);
        return Ok(Resolved { state, unsettled: Vec::new() });
    }
    if let Some(resolved) = memory.resolved(&distinct) {
        return Ok(resolved);
    }
    let unsettled = RefCell::default();
    let mut resolver = memory.resolver(txn);
    resolver.events.unsettled = Some(&unsettled);
    let span = tracing::debug_span!("resolve", states = distinct.len()).entered();
    let resolution = resolver.resolve(&distinct)?;
    drop(span);
    let state = txn.stage_group(resolution.base, &resolution.set, &resolution.removed)?;
    let resolved = Resolved { state, unsettled: unsettled.into_inner().into_iter().collect() };
    memory.remember_resolved(distinct, resolved.clone());
    Ok(resolved)
}

/// Returns the state after an event whose state before is known: with itself at its key, if it is an accepted state
/// event.
///
/// `num` may be the number that the event is about to take.
pub(crate) fn with_event(
    txn: &mut Txn<'_>,
    before: StateGroup,
    pdu: &gibbous_codec::Pdu,
    num: EventNum,
    accepted: bool,
) -> Result<StateGroup, Error> {
    match pdu.state_key() {
        Some(state_key) if accepted => {
            let key = gibbous_codec::StateKey::new(pdu.event_type(), state_key);
            Ok(txn.state_with(before, &key, pdu.event_id(), num)?)
        }
        _ => Ok(before),
    }
}

/// Returns what is held of an event, or `None` if it is not stored.
pub(crate) fn stage_of<R: RoomRows>(
    rows: &R,
    event_id: &gibbous_codec::EventId,
) -> Result<Option<(EventNum, Stage)>, Error> {
    let Some(num) = rows.event_num(event_id)? else { return Ok(None) };
    Ok(Some((num, rows.stage_of(num)?)))
}

/// Tells whether an event is stored and verified.
pub(crate) fn is_stored<R: RoomRows>(rows: &R, event_id: &gibbous_codec::EventId) -> Result<bool, Error> {
    Ok(stage_of(rows, event_id)?.is_some_and(|(_, stage)| stage.is_verified()))
}
