//! PDUs that are handed in, by other servers or as our own: each goes to its room, or is refused where there is none.

use std::collections::BTreeMap;

use gibbous_codec::{Failure, FailureCode, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;

use super::Engine;
use crate::{Error, Outcome, Receipt};

impl Engine {
    /// Takes in the PDUs of a federation transaction, in their order. Returns, in the same order, what became of each;
    /// it is durable by then.
    ///
    /// Each goes through the checks on receipt (server-server specification, "Checks performed on receipt of a PDU").
    /// While the room is partial, check 5 asks the partial state resolved with the event's auth events (MSC3902,
    /// "Handling requests and events in the partial-state room"), and check 6 is put off until the room is full.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn receive(&self, origin: &ServerName, pdus: &[&[u8]], now_ms: u64) -> Result<Vec<Receipt>, Error> {
        let mut by_room: BTreeMap<OwnedRoomId, Vec<(usize, &[u8])>> = BTreeMap::new();
        let mut receipts: Vec<Option<Receipt>> = vec![None; pdus.len()];
        for (index, (json, receipt)) in pdus.iter().zip(&mut receipts).enumerate() {
            match serde_json::from_slice(json) {
                Ok(RoomOfPdu { room_id: Some(room_id) }) => by_room.entry(room_id).or_default().push((index, json)),
                Ok(RoomOfPdu { room_id: None }) => *receipt = Some(bad_format("it names no room")),
                Err(error) => *receipt = Some(bad_format(&error.to_string())),
            }
        }
        for (room_id, of_room) in by_room {
            let json: Vec<&[u8]> = of_room.iter().map(|(_, json)| *json).collect();
            let answers = self.receive_in_room(origin, &room_id, &json, now_ms)?;
            for ((index, _), answer) in of_room.into_iter().zip(answers) {
                if let Some(receipt) = receipts.get_mut(index) {
                    *receipt = Some(answer);
                }
            }
        }
        // Every PDU has its receipt by now, from its room or for naming none. What skips some cannot tell how many come, and
        // the list would grow by doubling.
        let mut all = Vec::with_capacity(receipts.len());
        all.extend(receipts.into_iter().flatten());
        Ok(all)
    }

    fn receive_in_room(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: &[&[u8]],
        now_ms: u64,
    ) -> Result<Vec<Receipt>, Error> {
        let _span = tracing::debug_span!("receive", room = %room_id, %origin, pdus = pdus.len()).entered();
        let refuse = |code| Ok(vec![Receipt::refused(Failure::new(code)); pdus.len()]);
        if self.refuse_damaged(room_id).is_err() {
            return refuse(FailureCode::DamagedRoom);
        }
        let Some(slot) = self.known_slot(room_id) else { return refuse(FailureCode::UnknownRoom) };
        let mut slot = self.enter(&slot);
        if let Some(joining) = &mut slot.joining {
            return Ok(joining.queue(origin, pdus, &self.inner.config.limits));
        }
        match self.read(room_id, &mut slot) {
            Err(Error::DamagedRoom { .. }) => return refuse(FailureCode::DamagedRoom),
            read => read?,
        }
        let Some(room) = &mut slot.room else { return refuse(FailureCode::UnknownRoom) };
        let cx = self.context(now_ms);
        let receipts = room.receive(cx, origin, pdus.to_vec());
        for Receipt { event_id, outcome, .. } in receipts.iter().flatten() {
            if let Outcome::Refused(failure) = outcome {
                let event = event_id.as_ref().map(tracing::field::display);
                tracing::debug!(event, code = failure.code.number(), reason = failure.reason, "refused");
            }
        }
        self.settle(cx, room_id, &mut slot, receipts)
    }

    /// Takes in an event of ours, complete and signed. It is checked like any (server-server specification, "Checks
    /// performed on receipt of a PDU"), and never refused only because the state is partial.
    ///
    /// # Errors
    ///
    /// If the store fails, the room is not known or damaged, or the bytes are no event.
    pub fn submit(&self, pdu: &[u8], now_ms: u64) -> Result<Receipt, Error> {
        let peek: RoomOfPdu = serde_json::from_slice(pdu).map_err(|error| Error::BadLocalEvent(error.to_string()))?;
        let room_id = peek.room_id.ok_or_else(|| Error::BadLocalEvent("it names no room".to_owned()))?;
        self.refuse_damaged(&room_id)?;
        let our_server = self.inner.config.our_server.clone();
        let receipts = self.receive_in_room(&our_server, &room_id, &[pdu], now_ms)?;
        match receipts.into_iter().next() {
            Some(Receipt { outcome: Outcome::Refused(failure), .. }) if failure.code == FailureCode::UnknownRoom => {
                Err(Error::UnknownRoom(room_id))
            }
            Some(Receipt { outcome: Outcome::Refused(failure), .. }) if failure.code == FailureCode::BadFormat => {
                Err(Error::BadLocalEvent(failure.reason))
            }
            Some(receipt) => Ok(receipt),
            None => Err(Error::UnknownRoom(room_id)),
        }
    }

    /// Takes in an event by which one of our users leaves, complete and signed. We are in the room, so that no
    /// handshake is needed (server-server specification, "Leaving Rooms (Rejecting Invites)"), nor is a resync waited
    /// for.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`], and if the event is no such event.
    pub fn leave(&self, pdu: &[u8], now_ms: u64) -> Result<Receipt, Error> {
        #[derive(Deserialize)]
        struct Leave {
            #[serde(rename = "type")]
            event_type: String,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            membership: String,
        }
        match serde_json::from_slice::<Leave>(pdu) {
            Ok(leave) if leave.event_type == "m.room.member" && leave.content.membership == "leave" => {}
            _ => return Err(Error::BadLocalEvent("it is no membership `leave`".to_owned())),
        }
        self.submit(pdu, now_ms)
    }
}

/// What tells the room of a PDU.
#[derive(Deserialize)]
struct RoomOfPdu {
    room_id: Option<OwnedRoomId>,
}

fn bad_format(reason: &str) -> Receipt {
    Receipt::refused(Failure::new(FailureCode::BadFormat).because(reason))
}
