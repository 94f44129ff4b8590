//! Big rooms made of a seed, written as recordings: truly hashed and signed, with what a server that has always been in
//! the room expects of one that joins.
//!
//! The same [`Synth`] writes the same bytes. A room has a long past, in which members of many servers came and went,
//! and which does not fork; then our user joins, partially, and what follows is pushed to us: talk by members whom we
//! do not know yet, changes of state, forks that are merged, and what is not allowed. What is expected comes from the
//! naive [`oracle`](super::oracle), not from the engine. The oracle is told what no event changes any more once for all
//! states, so that a room of 200,000 members costs it no more than a small one.

mod later;
mod past;
mod recording;
mod room;

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use gibbous_codec::{OwnedEventId, RoomRules, RoomVersionId, ServerName, exchange::ExpectedStatus};

use self::{
    later::{EVENTS_A_FORK_MIN, Later},
    past::{OURS, Past},
    recording::{Joined, Line, Raw, Raws, StateIds, States, Writer},
};
use super::oracle::{Outcome, State};

/// The members of a room at most: with all who have gone they stay below the million events that a state may name.
pub const MEMBERS_MAX: usize = 900_000;

/// The events after the join at most: the oracle takes some ten minutes for them.
pub const EVENTS_MAX: usize = 20_000;

/// So many of the merges have the state before them compared; in a great room each is a walk over all members.
const MERGES_COMPARED_MAX: usize = 10;

/// A room that is to be made up.
#[derive(Clone, Debug)]
pub struct Synth {
    /// Its version.
    pub room_version: RoomVersionId,
    /// How many members it has when our user joins.
    pub members: usize,
    /// How many events happen after that.
    pub events: usize,
    /// How many forks are among them: two heads, each of a state event, that are merged.
    pub forks: usize,
    /// What chance is made of.
    pub seed: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The servers that have an event in the room.
    pub servers: usize,
    /// The events before the join.
    pub past: usize,
    /// The state events before the join.
    pub state_events: usize,
    /// Of the events after the join, those that are accepted.
    pub accepted: usize,
    /// Of the events after the join, those that are soft-failed.
    pub soft_failed: usize,
    /// Of the events after the join, those that are rejected.
    pub rejected: usize,
    /// What must hold at the end.
    pub expectations: usize,
}

/// Why no recording was written.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    /// The room version is none that the engine knows.
    #[error("expected a room version from 1 to 12, found {0}")]
    UnknownVersion(RoomVersionId),
    /// There are no members, or too many.
    #[error("expected from 1 to {MEMBERS_MAX} members, found {0}")]
    Members(usize),
    /// There are too many events: what the oracle does grows with their square.
    #[error("expected at most {EVENTS_MAX} events, found {0}")]
    Events(usize),
    /// There are more forks than events make.
    #[error("expected at most {} forks in {events} events, found {forks}: each takes {EVENTS_A_FORK_MIN}", events / EVENTS_A_FORK_MIN)]
    Forks {
        /// The forks.
        forks: usize,
        /// The events.
        events: usize,
    },
    /// The recording could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Synth {
    /// Tells whether there can be such a room.
    ///
    /// # Errors
    ///
    /// [`SynthError`] if not.
    pub fn check(&self) -> Result<RoomRules, SynthError> {
        let rules = RoomRules::of(&self.room_version);
        let rules = rules.ok_or_else(|| SynthError::UnknownVersion(self.room_version.clone()))?;
        if !(1..=MEMBERS_MAX).contains(&self.members) {
            return Err(SynthError::Members(self.members));
        }
        if self.events > EVENTS_MAX {
            return Err(SynthError::Events(self.events));
        }
        if self.forks > self.events / EVENTS_A_FORK_MIN {
            return Err(SynthError::Forks { forks: self.forks, events: self.events });
        }
        Ok(rules)
    }

    /// Writes the recording of the room, as JSON Lines.
    ///
    /// # Errors
    ///
    /// [`SynthError`] if there can be no such room, or `out` cannot be written.
    pub fn write(&self, out: &mut impl Write) -> Result<Written, SynthError> {
        let past = Past::tell(self, self.check()?);
        let told = [(past.last.clone(), past.before_last.clone()), (past.early.clone(), past.before_early.clone())];
        let mut written = Written { past: past.room.len(), state_events: past.state.len(), ..Written::default() };
        let before_join = past.state.clone();
        let later = Later::tell(past, self);
        let mut writer = Writer(out);
        self.write_events(&later, &before_join, &mut writer)?;
        write_answers(&later, &told, &mut writer)?;
        write_expectations(&later, &mut writer, &mut written)?;
        written.servers = later.room.servers.len();
        Ok(written)
    }

    /// Writes what happened.
    fn write_events(&self, later: &Later, state: &State, out: &mut Writer<'_, impl Write>) -> io::Result<()> {
        let room = &later.room;
        let (join, create) = (room.pdu(&later.join), room.pdu(&room.create));
        let our_server = join.sender().server_name();
        let (room_id, room_version) = (&*room.room_id, &self.room_version);
        out.line(&Line::Room { room_id, room_version, our_server, users: [OURS] })?;
        let is_member = |id: &OwnedEventId| room.pdu(id).event_type() == "m.room.member";
        let kept: Vec<&OwnedEventId> = state.values().filter(|id| !is_member(id)).collect();
        let chain: Vec<&OwnedEventId> =
            room.auth_chain(kept.iter().copied().chain([&later.join])).into_iter().collect();
        let joined = state.values().map(|id| room.pdu(id)).filter(|pdu| pdu.membership() == Some("join"));
        let servers: BTreeSet<&ServerName> = joined.map(|pdu| pdu.sender().server_name()).collect();
        let response = Joined {
            event: Raw(join),
            state: Raws(room, &kept),
            auth_chain: Raws(room, &chain),
            members_omitted: true,
            servers_in_room: &servers,
        };
        let joined_via = create.sender().server_name();
        out.line(&Line::SendJoin { joined_via, event_id: &later.join, pdu: Raw(join), response })?;
        for event_id in &later.order {
            let pdu = room.pdu(event_id);
            let origin = pdu.sender().server_name();
            out.line(&match origin == our_server {
                true => Line::Local { event_id, pdu: Raw(pdu) },
                false => Line::Pdu { origin, event_id, pdu: Raw(pdu) },
            })?;
        }
        out.line(&Line::Resync)
    }
}

/// Writes what other servers answer: their keys, and the states before the events that we have not got, of which those
/// pushed to us follow. The first of these states stands there whole; of the others, what is not in it.
fn write_answers(later: &Later, told: &[(OwnedEventId, State)], out: &mut Writer<'_, impl Write>) -> io::Result<()> {
    let room = &later.room;
    for server in &room.servers {
        out.keys(room, server)?;
    }
    let mut known: BTreeSet<&OwnedEventId> = BTreeSet::new();
    for (nth, (event_id, state)) in told.iter().enumerate() {
        let ids: Vec<&OwnedEventId> = state.values().collect();
        let chain: Vec<&OwnedEventId> = room.auth_chain(state.values()).into_iter().collect();
        out.line(&Line::Event { event_id, pdu: Raw(room.pdu(event_id)) })?;
        out.line(&Line::StateIds { event_id, response: StateIds { pdu_ids: &ids, auth_chain_ids: &chain } })?;
        if nth == 0 {
            let response = States { pdus: Raws(room, &ids), auth_chain: Raws(room, &chain) };
            out.line(&Line::State { event_id, response })?;
        }
        for event_id in ids.into_iter().chain(chain) {
            if known.insert(event_id) && nth > 0 {
                out.line(&Line::Event { event_id, pdu: Raw(room.pdu(event_id)) })?;
            }
        }
    }
    Ok(())
}

/// Writes what must hold at the end, as the oracle has it.
fn write_expectations(later: &Later, out: &mut Writer<'_, impl Write>, written: &mut Written) -> io::Result<()> {
    let truth = &later.truth;
    let order: Vec<OwnedEventId> = [&later.join].into_iter().chain(&later.order).cloned().collect();
    let outcome = truth.fold(&order, &BTreeSet::from([later.join.clone()]));
    for event_id in &order {
        let status = status(later, &outcome, event_id);
        out.status(event_id, status)?;
        match status {
            _ if *event_id == later.join => {}
            ExpectedStatus::Rejected => written.rejected += 1,
            ExpectedStatus::SoftFailed => written.soft_failed += 1,
            _ => written.accepted += 1,
        }
    }
    let merges = later.merges.iter().step_by(later.merges.len() / MERGES_COMPARED_MAX + 1);
    let compared: BTreeSet<&OwnedEventId> =
        merges.chain(later.order.first()).chain(later.order.last()).chain([&later.join]).collect();
    for event_id in &compared {
        let states = truth.judged(event_id).and_then(|judged| judged.states.as_ref());
        let (before, _) = states.expect("every event after the join has its place in the history");
        out.state(Some(event_id), truth.common().values().chain(before.values()))?;
    }
    out.state(None, truth.common().values().chain(outcome.current.values()))?;
    written.expectations = order.len() + compared.len() + 1;
    Ok(())
}

fn status(later: &Later, outcome: &Outcome, event_id: &OwnedEventId) -> ExpectedStatus {
    match later.truth.judged(event_id) {
        Some(judged) if judged.is_rejected() => ExpectedStatus::Rejected,
        Some(_) if outcome.soft_failed.contains(event_id) => ExpectedStatus::SoftFailed,
        Some(_) => ExpectedStatus::Accepted,
        None => unreachable!("the truth knows every event"),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::testing::oracle::Oracle;

    #[test]
    fn an_oracle_that_is_told_whole_states_says_the_same() {
        for version in 1..=12 {
            let room_version = version.to_string().as_str().try_into().unwrap();
            let synth = Synth { room_version, members: 60, events: 60, forks: 12, seed: 7 };
            let past = Past::tell(&synth, synth.check().unwrap());
            let told = [(past.last.clone(), past.before_last.clone()), (past.early.clone(), past.before_early.clone())];
            let later = Later::tell(past, &synth);
            assert!(later.truth.common().len() > 20, "too little is in common");

            let mut whole = Oracle::new(later.room.rules.clone());
            later.room.pdus().for_each(|pdu| whole.learn(pdu.clone()));
            told.into_iter().for_each(|(event_id, state)| whole.tell(&event_id, state));
            let order: Vec<OwnedEventId> = [&later.join].into_iter().chain(&later.order).cloned().collect();
            order.iter().for_each(|event_id| whole.add(later.room.pdu(event_id).clone()));
            whole.judge();

            let with_common = |state: &State| {
                let common = later.truth.common().iter().chain(state);
                common.map(|(key, event_id)| (key.clone(), event_id.clone())).collect::<State>()
            };
            for event_id in &order {
                let (expected, found) = (whole.judged(event_id).unwrap(), later.truth.judged(event_id).unwrap());
                assert_eq!(found.refusal, expected.refusal, "v{version} {event_id}");
                let before = |states: &Option<(Rc<State>, Rc<State>)>| states.as_ref().unwrap().0.clone();
                assert_eq!(with_common(&before(&found.states)), *before(&expected.states), "v{version} {event_id}");
            }
            let join = BTreeSet::from([later.join.clone()]);
            let (expected, mut found) = (whole.fold(&order, &join), later.truth.fold(&order, &join));
            found.current = with_common(&found.current);
            assert_eq!(found, expected, "v{version}");
        }
    }
}
