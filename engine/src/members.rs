//! Who is in a room: how many members each server has, and which members came first, counted once for a state and from
//! then on moved along by what differs between states.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gibbous_codec::{EventNum, EventRecord, Membership, OwnedServerName, Path, ServerName, StateGroup, UserId};
use gibbous_storage::{RoomRows, StoreError, Txn, diff, entries};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error,
    room::{Context, Room},
};

/// The servers that are in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServersInRoom {
    /// The servers; ours is among them while one of our users is in the room.
    pub servers: BTreeSet<OwnedServerName>,
    /// Whether these are exactly the servers with a joined member. While the room is partial they are those that
    /// `send_join` responses named and those of the members known so far: some may have left, some may be missing.
    pub is_exact: bool,
}

/// The members of a state, counted.
///
/// What is held in memory is a number for each server and some numbers of events, never a row for each member.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// The state; `None` where nothing has been counted.
    group: Option<StateGroup>,
    /// How many joined members each server has; none has 0.
    hosts: BTreeMap<OwnedServerName, u64>,
    /// How many invited users each server has; none has 0.
    invited_hosts: BTreeMap<OwnedServerName, u64>,
    joined: First,
    invited: First,
    /// Those who have left or are banned.
    gone: First,
}

/// [`Members`] that a room's writer and its views share. Each moves them to the state that it asks about: these mostly
/// differ by little.
pub(crate) type SharedMembers = Arc<Mutex<Members>>;

/// Some events, of which only the first are listed.
#[derive(Debug, Default)]
struct First {
    count: u64,
    /// The least numbers of them all.
    least: BTreeSet<EventNum>,
}

/// By how many members a room is named.
const HEROES_MAX: usize = 5;

/// How many events [`First`] lists: so many of the first members may go before the state is counted anew.
const FIRST_MAX: usize = 64;

/// Moves shared members to a state, which they stand at until they are let go.
pub(crate) fn members_of<'m, R: RoomRows>(
    shared: &'m SharedMembers,
    rows: &R,
    state: StateGroup,
) -> Result<MutexGuard<'m, Members>, Error> {
    let mut members = shared.lock().unwrap_or_else(PoisonError::into_inner);
    members.follow(rows, state)?;
    Ok(members)
}

/// Returns the servers with a joined member in a state.
pub(crate) fn hosts_of<R: RoomRows>(
    shared: &SharedMembers,
    rows: &R,
    state: StateGroup,
) -> Result<BTreeSet<OwnedServerName>, Error> {
    Ok(members_of(shared, rows, state)?.hosts().cloned().collect())
}

impl Members {
    /// Moves to a state, from wherever the last one asked about was.
    pub(crate) fn follow<R: RoomRows>(&mut self, rows: &R, to: StateGroup) -> Result<(), Error> {
        /// States that differ by more are counted anew, page by page, so that no long list of differences is made.
        const DIFFERENCES_MAX: u64 = 4_096;
        if self.group == Some(to) {
            return Ok(());
        }
        // Should it not come to its end, nothing is left: half of the way is no state.
        let mut members = mem::take(self);
        *self = match members.group {
            Some(from) if from.count.abs_diff(to.count) <= DIFFERENCES_MAX => match members.go(rows, from, to) {
                Ok(()) => members,
                // The state that they stood at was collected as garbage.
                Err(Error::Store(StoreError::MissingNode { .. })) => Self::count(rows, to)?,
                Err(error) => return Err(error),
            },
            _ => Self::count(rows, to)?,
        };
        Ok(())
    }

    /// Returns the servers of the joined members.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &OwnedServerName> {
        self.hosts.keys()
    }

    /// Tells whether a server has a joined member.
    pub(crate) fn is_joined(&self, server: &ServerName) -> bool {
        self.hosts.contains_key(server)
    }

    /// Tells whether a server has an invited user.
    pub(crate) fn is_invited(&self, server: &ServerName) -> bool {
        self.invited_hosts.contains_key(server)
    }

    /// Returns how many members have joined.
    pub(crate) fn joined(&self) -> u64 {
        self.joined.count
    }

    /// Returns how many members are invited.
    pub(crate) fn invited(&self) -> u64 {
        self.invited.count
    }

    /// Returns the events of the first members, by which a room can be named (MSC3943): of those who joined, then of
    /// those who are invited; where there are none, of those who are gone.
    pub(crate) fn heroes<R: RoomRows>(&mut self, rows: &R, but: Option<EventNum>) -> Result<Vec<EventNum>, Error> {
        if let Some(group) = self.group
            && [&self.joined, &self.invited, &self.gone].into_iter().any(First::is_worn)
        {
            *self = Self::count(rows, group)?;
        }
        let first = |of: [&First; 2]| -> Vec<EventNum> {
            let events = of.into_iter().flat_map(|first| &first.least).copied();
            events.filter(|num| Some(*num) != but).take(HEROES_MAX).collect()
        };
        let heroes = first([&self.joined, &self.invited]);
        Ok(if heroes.is_empty() { first([&self.gone, &First::default()]) } else { heroes })
    }

    fn go<R: RoomRows>(&mut self, rows: &R, from: StateGroup, to: StateGroup) -> Result<(), Error> {
        for difference in diff(rows, &from, &to)? {
            if let Some(num) = difference.a {
                self.take(num, &*rows.event_record(num)?, false)?;
            }
            if let Some(num) = difference.b {
                self.take(num, &*rows.event_record(num)?, true)?;
            }
        }
        self.group = Some(to);
        Ok(())
    }

    fn count<R: RoomRows>(rows: &R, group: StateGroup) -> Result<Self, Error> {
        const PAGE: usize = 1_024;
        let mut members = Self::default();
        let mut after: Option<Path> = None;
        loop {
            let page = entries(rows, &group, after, PAGE)?;
            for entry in &page {
                members.take(entry.event, &*rows.event_record(entry.event)?, true)?;
            }
            after = page.last().map(|last| last.path);
            if page.len() < PAGE {
                members.group = Some(group);
                return Ok(members);
            }
        }
    }

    /// Takes an event of the state in, or out.
    fn take(&mut self, num: EventNum, record: &EventRecord, is_in: bool) -> Result<(), Error> {
        let Some((user, membership)) = member(record)? else { return Ok(()) };
        let first = match membership {
            Membership::Join => {
                take_host(&mut self.hosts, user, is_in);
                &mut self.joined
            }
            Membership::Invite => {
                take_host(&mut self.invited_hosts, user, is_in);
                &mut self.invited
            }
            Membership::Leave | Membership::Ban => &mut self.gone,
            Membership::Knock | Membership::Other => return Ok(()),
        };
        if is_in {
            first.add(num)
        } else {
            first.remove(num)
        }
        Ok(())
    }
}

fn take_host(hosts: &mut BTreeMap<OwnedServerName, u64>, user: &UserId, is_in: bool) {
    let server = user.server_name();
    if is_in {
        *hosts.entry(server.to_owned()).or_default() += 1;
        return;
    }
    let Some(count) = hosts.get_mut(server) else { return };
    *count -= 1;
    if *count == 0 {
        hosts.remove(server);
    }
}

impl First {
    fn add(&mut self, num: EventNum) {
        let is_whole = self.count == self.least.len() as u64;
        self.count += 1;
        // Where not all are listed, an event behind the last that is listed may be behind others too.
        if is_whole || self.least.last().is_some_and(|last| num < *last) {
            self.least.insert(num);
        }
        if self.least.len() > FIRST_MAX {
            self.least.pop_last();
        }
    }

    fn remove(&mut self, num: EventNum) {
        self.count = self.count.saturating_sub(1);
        self.least.remove(&num);
    }

    /// Tells whether so many have gone that the list is too short for heroes, one of whom may be left out.
    fn is_worn(&self) -> bool {
        (self.least.len() as u64) < self.count.min(HEROES_MAX as u64 + 1)
    }
}

/// Returns whose membership an event tells and what it is, or `None` for other events, and for a member event of what
/// is no user: nobody can be in a room by it.
pub(crate) fn member(record: &EventRecord) -> Result<Option<(&UserId, Membership)>, Error> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content: Content<'a>,
    }
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: Option<&'a RawValue>,
    }
    let Some(key) = record.state_key.as_ref().filter(|key| key.event_type == "m.room.member") else { return Ok(None) };
    let Ok(user) = <&UserId>::try_from(key.state_key.as_str()) else { return Ok(None) };
    // A better copy of the event differs from the first one by what redaction removes, which a membership is not.
    let event: Event<'_> = serde_json::from_slice(&record.json)
        .map_err(|error| Error::DamagedEvent { event: record.event_id.to_string(), why: error.to_string() })?;
    // What is no string is no membership, as the rules have it.
    let membership = event.content.membership.and_then(|value| serde_json::from_str::<String>(value.get()).ok());
    Ok(Some((user, membership.map_or(Membership::Other, |membership| Membership::of(&membership)))))
}

impl Room {
    /// Returns the servers that are in the room, as far as is known: while the room is partial, also those that
    /// `send_join` responses named.
    pub(crate) fn servers_in_room(&mut self, txn: &mut Txn<'_>) -> Result<ServersInRoom, Error> {
        let Some(head) = txn.head()? else { return Ok(ServersInRoom::default()) };
        let is_exact = head.partial.is_none();
        let mut servers = BTreeSet::new();
        if !is_exact {
            servers.extend(self.resync.servers().named().iter().map(ToOwned::to_owned));
        }
        let (_, current) = self.provisional(txn)?;
        servers.extend(members_of(&self.members, txn, current)?.hosts().cloned());
        Ok(ServersInRoom { servers, is_exact })
    }

    /// Reads which servers have members here, to be asked when those that `send_join` responses named were asked in
    /// vain.
    pub(crate) fn ask_hosts_too(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let mut txn = cx.store.txn(self.num)?;
        let in_room = self.servers_in_room(&mut txn)?;
        self.commit(txn)?;
        let others = in_room.servers.into_iter().filter(|server| server != cx.our_server);
        self.resync.add_hosts(others.take(cx.limits.servers_max));
        Ok(())
    }

    /// Forgets how many members were counted: the state that they were counted in may be gone.
    pub(crate) fn forget_members(&self) {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = Members::default();
    }
}

#[cfg(test)]
mod tests;
