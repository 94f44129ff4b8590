//! From a `send_join` response that leaves out the members to a room that is usable and durable.
//!
//! The *floor* is what checking the events of the response costs ([`gibbous_benches::floor`]); beside it stands one
//! durable batch of the rows that the join writes. Keys are answered as soon as they are asked for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gibbous::{
    Backend, Config, Engine, JoinStatus, OwnedRoomId, OwnedServerName, RequestKind, Response, RoomVersionId, SendJoin,
    gibbous_codec::exchange::{self, Record, RecordReader},
};
use gibbous_benches::floor::Keys;
use serde_json::json;

use super::{
    clock::{Clock, floor, median, median_ratio, over},
    resync::{
        open_fjall,
        raw::{Op, Recorder, write_as_one},
        room::{MEMBERS, Recorded, decode, of_response},
    },
};

const ROUNDS: usize = 9;

/// The time of the join over fjall, over its floor and one durable batch of the same rows.
pub(super) fn usable() -> Result<f64, String> {
    let join = Handshake::read(MEMBERS)?;
    let events: Vec<String> = of_response(&join.response)?.into_iter().collect();
    let recorder = Arc::new(Recorder::default());
    join.through(recorder.clone())?;
    let ops: Vec<Op> = recorder.take();
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (took, floor) = (join.over_fjall()?, floor(&events, &join.keys)?);
        let raw = write_as_one(&ops, &open_fjall(dir.path())?)?;
        eprintln!("join {took:.1?}, floor of its {} events {floor:.1?}, its rows {raw:.1?}", events.len());
        ratios.push(over(took, floor + raw));
    }
    Ok(median_ratio(ratios.into_iter()))
}

/// The time of the join of a room with 100,000 members over that of one with 1,000, over fjall.
pub(super) fn usable_in_a_great_room() -> Result<f64, String> {
    let (great, small) = (Handshake::read(2 * MEMBERS)?, Handshake::read(MEMBERS / 50)?);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (join, times) in [&great, &small].into_iter().zip(&mut times) {
            times.push(join.over_fjall()?);
        }
    }
    eprintln!("joins of the great room and the small one: {times:.1?}");
    let [great, small] = times.map(median);
    Ok(over(great, small))
}

/// A join as it was answered.
struct Handshake {
    us: OwnedServerName,
    room_id: OwnedRoomId,
    room_version: RoomVersionId,
    via: OwnedServerName,
    event: String,
    response: String,
    keys: Keys,
    /// The bodies of the answers to questions for keys.
    answers: BTreeMap<OwnedServerName, Vec<u8>>,
}

impl Handshake {
    fn read(members: usize) -> Result<Self, String> {
        let path = Recorded::at_hand(members)?.path;
        let input = exchange::open(&path.display().to_string()).map_err(|error| error.to_string())?;
        let (mut room, mut handshake) = (None, None);
        let (mut keys, mut answers) = (Keys::new(), BTreeMap::new());
        for record in RecordReader::new(input) {
            match record.map_err(|error| error.to_string())?.1 {
                Record::Room { room_id, room_version, our_server, .. } => {
                    room = Some((our_server, room_id, room_version));
                }
                Record::SendJoin { joined_via, pdu, response, .. } => {
                    handshake = Some((joined_via, pdu.get().to_owned(), response.get().to_owned()));
                }
                Record::ServerKeys { server, verify_keys, valid_until_ts, .. } => {
                    let told: BTreeMap<_, _> =
                        verify_keys.iter().map(|(id, key)| (id, json!({ "key": key }))).collect();
                    let body = json!({ "verify_keys": told, "valid_until_ts": valid_until_ts });
                    for (key_id, key) in &verify_keys {
                        keys.insert((server.to_string(), key_id.clone()), decode(key)?);
                    }
                    answers.insert(server, body.to_string().into_bytes());
                }
                _ => {}
            }
        }
        let (us, room_id, room_version) = room.ok_or("the recording names no room")?;
        let (via, event, response) = handshake.ok_or("nobody joins")?;
        Ok(Self { us, room_id, room_version, via, event, response, keys, answers })
    }

    fn over_fjall(&self) -> Result<Duration, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        self.through(Arc::new(open_fjall(dir.path())?))
    }

    /// Joins by an engine that knows nothing. Returns the time.
    fn through(&self, backend: Arc<dyn Backend>) -> Result<Duration, String> {
        let words = |error: gibbous::Error| error.to_string();
        let engine = Engine::open(backend, Config::new(self.us.clone()), 0).map_err(words)?;
        let send_join = SendJoin {
            room_id: &self.room_id,
            room_version: &self.room_version,
            via: &self.via,
            event: self.event.as_bytes(),
            response: self.response.as_bytes(),
            asked_partial: true,
        };
        let clock = Clock::start();
        let ticket = engine.begin_join(send_join, 0).map_err(words)?;
        while let JoinStatus::Checking = engine.join_status(ticket) {
            let request = engine.poll_request(0).map_err(words)?.ok_or("nothing is asked for")?;
            let RequestKind::ServerKeys { server } = &request.kind else {
                return Err(format!("something else is asked for: {:?}", request.kind));
            };
            let answer = self.answers.get(server).ok_or("keys are asked for that are not recorded")?;
            engine.handle_response(request.id, Response::Body(answer.clone()), 0).map_err(words)?;
        }
        let took = clock.time();
        match engine.join_status(ticket) {
            JoinStatus::Joined { partial: true, .. } => Ok(took),
            other => Err(format!("the join ends otherwise: {other:?}")),
        }
    }
}
