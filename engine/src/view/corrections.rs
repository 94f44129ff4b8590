//! What a host believed of a partial room and is to put right when every event has its full state.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use gibbous_codec::{
    Completing, EventNum, EventStatus, Judgement, LogRecord, LogSeq, Membership, OwnedEventId, OwnedServerName,
    OwnedUserId, Position, Stage, StateGroup, StateKey, UserId, path,
};
use gibbous_storage::{Difference, RoomRows, StateEvents, diff};

use super::{RoomView, changes::told_at};
use crate::{
    Error, UpdatePosition,
    members::{hosts_of, member},
};

/// What a host believed of a partial room, and what is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corrections {
    /// Servers with a joined member that no `send_join` response named.
    pub hosts_added: BTreeSet<OwnedServerName>,
    /// Servers that a response named, or that we joined by, and that have no joined member: they may have been sent
    /// events of ours that were not for them.
    pub hosts_removed: BTreeSet<OwnedServerName>,
    /// Servers to which all changes of device lists since the join are due: they have a member who is another than after
    /// the join, or are in the room though no response named them (MSC3902, "Handling requests and events in the
    /// partial-state room").
    pub hosts_changed: BTreeSet<OwnedServerName>,
    /// Who has missed the latest event of ours, if anybody has (D-7).
    pub catch_up: Option<CatchUp>,
    /// Users whose membership was believed to be another for a while.
    pub wrong_memberships: Vec<WrongMembership>,
}

/// Servers that had joined the room when an event of ours came into it, and are still there, but were not known to be. One
/// that has joined behind the event is none of them: what was said before is not for it by that alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The event: who gets it finds by its prev events what else it has missed.
    pub event_id: OwnedEventId,
    /// The servers to send it to.
    pub servers: BTreeSet<OwnedServerName>,
}

/// A while for which a user's membership was believed to be another than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongMembership {
    /// The user.
    pub user: OwnedUserId,
    /// The membership event whose verdict has changed.
    pub from: OwnedEventId,
    /// The accepted membership event that came next; `None` if none has come.
    pub until: Option<OwnedEventId>,
}

impl RoomView {
    /// Returns what [`Change::RoomFullStated`](crate::Change::RoomFullStated), which stands at this position, lets the
    /// host put right, device lists among it (MSC3902); `None` where no such update stands there.
    ///
    /// It is worked out of the log from the join on: events whose verdict has changed since are looked for there.
    ///
    /// # Errors
    ///
    /// If it could not be read; in particular if what was believed has been collected as garbage
    /// ([`Engine::collect_garbage`](crate::Engine::collect_garbage)).
    pub fn corrections(&self, position: UpdatePosition) -> Result<Option<Corrections>, Error> {
        let rows = self.store.snapshot(self.num)?;
        let Some(LogRecord::Completing(completing)) = rows.record(position.seq)? else { return Ok(None) };
        let current = told_at(&rows, position.seq)?;
        let in_room = hosts_of(&self.members, &rows, current)?;
        let mut named: BTreeSet<OwnedServerName> =
            rows.servers_at(completing.server_rows)?.iter().map(ToOwned::to_owned).collect();
        named.insert(completing.via.clone());
        named.insert(self.our_server.clone());

        let hosts_added: BTreeSet<_> = in_room.difference(&named).cloned().collect();
        let mut hosts_removed: BTreeSet<_> = named.difference(&in_room).cloned().collect();
        let mut hosts_changed = hosts_added.clone();
        if let Stage::Placed { states, .. } = rows.stage_of(completing.join)? {
            hosts_changed.extend(hosts_of_changes(&rows, states.after, current)?);
        }
        hosts_changed.remove(&self.our_server);
        hosts_removed.remove(&self.our_server);
        Ok(Some(Corrections {
            hosts_added,
            hosts_removed,
            hosts_changed,
            catch_up: self.catch_up(&rows, &completing, current, &in_room, &named)?,
            wrong_memberships: wrong_memberships(&rows, &completing, position.seq)?,
        }))
    }

    fn catch_up<R: RoomRows>(
        &self,
        rows: &R,
        completing: &Completing,
        current: StateGroup,
        in_room: &BTreeSet<OwnedServerName>,
        named: &BTreeSet<OwnedServerName>,
    ) -> Result<Option<CatchUp>, Error> {
        let Some(sent) = completing.sent else { return Ok(None) };
        let event = rows.event(sent)?;
        let Stage::Placed { status: EventStatus::Accepted, states, .. } = event.state.stage else { return Ok(None) };
        let told = told_at(rows, sent.into())?;
        let mut servers = hosts_of(&self.members, rows, states.before)?;
        servers.extend(hosts_not_after(rows, told, current, event.record.depth)?);
        let was_told = hosts_of(&self.members, rows, told)?;
        servers.retain(|server| in_room.contains(server) && !named.contains(server) && !was_told.contains(server));
        let event_id = event.record.event_id.clone();
        Ok((!servers.is_empty()).then_some(CatchUp { event_id, servers }))
    }
}

/// Returns the servers whose members differ between two states.
fn hosts_of_changes<R: RoomRows>(rows: &R, a: StateGroup, b: StateGroup) -> Result<BTreeSet<OwnedServerName>, Error> {
    let mut hosts = BTreeSet::new();
    for Difference { a, b, .. } in diff(rows, &a, &b)? {
        let Some(num) = b.or(a) else { continue };
        if let Some(user) = member_of(rows, num)? {
            hosts.insert(user.server_name().to_owned());
        }
    }
    Ok(hosts)
}

/// Returns the servers whose members have joined by one state but not by another, and not behind an event of this depth:
/// what follows an event is deeper.
fn hosts_not_after<R: RoomRows>(
    rows: &R,
    without: StateGroup,
    with: StateGroup,
    depth: u64,
) -> Result<BTreeSet<OwnedServerName>, Error> {
    let mut hosts = BTreeSet::new();
    for num in diff(rows, &without, &with)?.into_iter().filter_map(|difference| difference.b) {
        let record = rows.event_record(num)?;
        if let Some((user, Membership::Join)) = member(&record)?.filter(|_| record.depth <= depth) {
            hosts.insert(user.server_name().to_owned());
        }
    }
    Ok(hosts)
}

/// Returns of whom an event tells the membership, if it does of anybody.
fn member_of<R: RoomRows>(rows: &R, num: EventNum) -> Result<Option<OwnedUserId>, Error> {
    let record = rows.event_record(num)?;
    let key = record.state_key.as_ref().filter(|key| key.event_type == "m.room.member");
    Ok(key.and_then(|key| <&UserId>::try_from(key.state_key.as_str()).ok()).map(ToOwned::to_owned))
}

/// Finds the membership events whose verdict turned round between the join and the end of the resync.
fn wrong_memberships<R: RoomRows>(
    rows: &R,
    completing: &Completing,
    end: LogSeq,
) -> Result<Vec<WrongMembership>, Error> {
    const PAGE: usize = 256;
    let mut wrong = Vec::new();
    let mut histories: BTreeMap<OwnedUserId, Vec<(Option<Position>, u64, OwnedEventId)>> = BTreeMap::new();
    let mut from = LogSeq::from(completing.join);
    while from < end {
        let page = rows.records_from(from, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        from = LogSeq(last.0 + 1);
        for (_, record) in page.iter().filter(|(seq, _)| *seq < end) {
            let LogRecord::Judged(judgements) = record else { continue };
            for Judgement { event, was, state } in judgements {
                let Stage::Placed { status, .. } = &state.stage else { continue };
                let has_turned = was.as_ref().is_some_and(|was| was.is_rejected() != status.is_rejected());
                if !has_turned {
                    continue;
                }
                let Some(user) = member_of(rows, *event)? else { continue };
                let history = match histories.entry(user.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => unknown.insert(memberships(rows, &user)?),
                };
                let next = history.partition_point(|(position, ..)| *position <= state.position);
                let until = history.get(next).map(|(.., event_id)| event_id.clone());
                wrong.push(WrongMembership { user, from: rows.event_record(*event)?.event_id.clone(), until });
            }
        }
    }
    Ok(wrong)
}

/// Returns the accepted membership events of a user in canonical order.
fn memberships<R: RoomRows>(rows: &R, user: &UserId) -> Result<Vec<(Option<Position>, u64, OwnedEventId)>, Error> {
    let mut events = StateEvents::at(rows.room(), &path(&StateKey::new("m.room.member", user.as_str())));
    let mut memberships = Vec::new();
    while let Some(page) = events.next_page(rows)? {
        for num in page {
            let event = rows.event(num)?;
            if let Stage::Placed { status: EventStatus::Accepted, .. } = event.state.stage {
                memberships.push((event.state.position, event.record.depth, event.record.event_id.clone()));
            }
        }
    }
    memberships.sort();
    Ok(memberships)
}
