//! To which servers an event of ours is to be sent.

use std::collections::BTreeSet;

use gibbous_codec::{
    EventId, EventNum, EventStatus, LogRecord, LogSeq, OwnedServerName, Pdu, RoomHead, Stage, StateGroup, StateKey,
    UserId, path,
};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error,
    members::hosts_of,
    room::{Context, Room},
    state::stage_of,
};

/// The servers that an event of ours is to be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// The servers; never ours.
    pub servers: BTreeSet<OwnedServerName>,
    /// Whether these are exactly the servers that were in the room before the event, and that of a user whom it invites
    /// or whose invite it takes back. While the room is partial they are as many as are known: some may be missing,
    /// some may have left.
    pub is_exact: bool,
}

/// Which servers get an event of ours while the room is partial. When it is full, both say the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendPolicy {
    /// Those that `send_join` responses named, and those whose users were seen to be in the room: as few as possible
    /// are left out, and some may have left before.
    #[default]
    Broad,
    /// The one that let us in, and those whose users were seen to be in the room: for rooms whose events nobody else
    /// may read.
    ProvenOnly,
}

impl Room {
    /// Returns to which servers an event is to be sent; `None` for one without a place in the room's history.
    pub(crate) fn destinations(
        &mut self,
        cx: Context<'_>,
        event_id: &EventId,
        policy: SendPolicy,
    ) -> Result<Option<Destinations>, Error> {
        let mut txn = cx.store.txn(self.num)?;
        let Some((num, Stage::Placed { status, states, .. })) = stage_of(&txn, event_id)? else { return Ok(None) };
        let Some(head) = txn.head()? else { return Ok(None) };
        let (pdu, _) = self.memory.events(&txn).with_stage(num)?;
        let is_ours = pdu.sender().server_name() == cx.our_server && status == EventStatus::Accepted;
        if !is_ours || is_join_by_handshake(&txn, &head, num, &pdu)? {
            return Ok(Some(Destinations { servers: BTreeSet::new(), is_exact: true }));
        }
        let mut servers = hosts_of(&self.members, &txn, states.before)?;
        match (&head.partial, policy) {
            (None, _) => {}
            (Some(_), SendPolicy::Broad) => servers.extend(self.servers_in_room(&mut txn)?.servers),
            (Some(partial), SendPolicy::ProvenOnly) => {
                let (_, current) = self.provisional(&mut txn)?;
                servers.extend(hosts_of(&self.members, &txn, current)?);
                servers.insert(partial.via.clone());
            }
        }
        servers.extend(self.server_of_target(&txn, &head, states.before, &pdu)?);
        servers.remove(cx.our_server);
        self.commit(txn)?;
        Ok(Some(Destinations { servers, is_exact: head.partial.is_none() }))
    }

    /// Returns the server of a user whom an event invites, or whose invite or knock it turns down: no other event tells
    /// that server of it. While the room is partial it may be that of anybody who is kicked or banned.
    fn server_of_target(
        &self,
        txn: &Txn<'_>,
        head: &RoomHead,
        before: StateGroup,
        pdu: &Pdu,
    ) -> Result<Option<OwnedServerName>, Error> {
        let Some(target) = pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok()) else { return Ok(None) };
        let is_told = match pdu.membership() {
            Some("invite") => true,
            Some("leave" | "ban") if target != pdu.sender() => {
                let member = txn.state_event(before, &path(&StateKey::new("m.room.member", target.as_str())))?;
                match member {
                    None => head.partial.is_some(),
                    Some(member) => {
                        let (member, _) = self.memory.events(txn).with_stage(member)?;
                        matches!(member.membership(), Some("invite" | "knock"))
                    }
                }
            }
            _ => false,
        };
        Ok(is_told.then(|| target.server_name().to_owned()))
    }
}

/// Tells whether an event is a join that another server has let in: that one sends it to the room, not we.
fn is_join_by_handshake(txn: &Txn<'_>, head: &RoomHead, num: EventNum, pdu: &Pdu) -> Result<bool, Error> {
    /// The record of such a join stands behind the join event and the servers that the response named: 250 a record.
    const RECORDS_BETWEEN: usize = 512;
    if pdu.membership() != Some("join") || pdu.state_key() != Some(pdu.sender().as_str()) {
        return Ok(false);
    }
    if head.partial.as_ref().is_some_and(|partial| partial.join == num) || head.handshakes.contains(&num) {
        return Ok(true);
    }
    let records = txn.records_from(LogSeq(num.0), RECORDS_BETWEEN)?;
    Ok(records
        .iter()
        .any(|(_, record)| matches!(record, LogRecord::Joined(join) if join.join == num && join.by_handshake)))
}
