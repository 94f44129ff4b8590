//! A join's response: whatever it says, a usable room comes of it, or a reason, and then nothing has changed.

use std::{collections::BTreeMap, sync::Arc};

use gibbous::{
    Backend, JoinStatus, OwnedEventId, RequestKind, SendJoin, StateKey,
    gibbous_storage::{Row, Store, Table, check},
    testing::{BOB, S},
};
use serde_json::{Value, json};

use crate::{
    answers::change_body,
    simulation::{kept_room, rest},
    world::World,
};

/// Edits of one response at most.
const EDITS_MAX: usize = 24;
/// Questions that a join asks at most: keys of a handful of servers, and an auth chain.
const STEPS_MAX: usize = 100;

/// Makes a room of two bytes and a `send_join` response as the third says, edited by two bytes each, or of raw bytes.
pub fn send_join_response(bytes: &[u8]) {
    join_by(bytes);
}

/// What has come of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Refused,
    Joined,
    /// And its state, which was partial, has become the true one.
    PutRight,
}

/// Returns what has come of the join, if there is one.
fn join_by(bytes: &[u8]) -> Option<End> {
    let (&[room, later, how], edits) = bytes.split_first_chunk()?;
    let (seed, random) = kept_room(room, later);
    let mut world = World::around(random, seed, false);
    let join = joining(&mut world, seed, how & 4 != 0)?;
    let before = dump(&world);
    let is_full = how & 1 != 0;
    let mut response = if is_full { full(&world, &join) } else { world.random.send_join(&join, seed) };
    let mut is_tampered = false;
    for &[what, at] in edits.as_chunks().0.iter().take(EDITS_MAX) {
        is_tampered |= what % 32 == 14;
        edit(&world, &mut response, what, at.into());
    }
    let body = if how & 2 != 0 { edits.to_vec() } else { response.to_string().into_bytes() };
    let end = match handshake(&mut world, &join, &body, !is_full, how & 8 == 0) {
        JoinStatus::Joined { partial, .. } => {
            assert_usable(&world, &join);
            let is_known = before.iter().any(|(table, _)| *table == Table::Head);
            rest(&mut world).unwrap_or_else(|why| panic!("{}\n{why}", world.told.join("\n")));
            // What was untrue of a partial state is put right by the full one.
            let view = world.host.view();
            let is_put_right = partial && !view.is_partial() && !is_known && !is_tampered && world.keyless.is_none();
            if is_put_right && world.picture.holes.is_empty() {
                assert_eq!(world.host.state_before(&join), world.random.state_before(&join));
                End::PutRight
            } else {
                End::Joined
            }
        }
        JoinStatus::Failed(error) => {
            assert_eq!(dump(&world), before, "{error}");
            End::Refused
        }
        other => panic!("the join ended as {other:?}"),
    };
    let store = Store::open(Arc::new(world.backend.clone())).expect("the store opens");
    assert_eq!(check(&store).expect("the store can be read").findings, []);
    Some(end)
}

/// Returns the join that is answered: the first in the room, or another after it.
fn joining(world: &mut World, seed: u64, is_second: bool) -> Option<OwnedEventId> {
    if !is_second {
        return Some(world.random.join.clone());
    }
    if !world.begin(seed).expect("a true response ends a join as it should") {
        return None;
    }
    let join = world.random.join_by_handshake(BOB, seed);
    let told = world.random.room.order().last().cloned()?;
    world.publish(&told);
    join
}

/// Returns the honest response with all members.
fn full(world: &World, join: &OwnedEventId) -> Value {
    let room = &world.random.room;
    let state: Vec<OwnedEventId> = world.random.state_before(join).into_values().collect();
    let chain = room.auth_chain(state.iter().chain([join]));
    let values = |ids: &mut dyn Iterator<Item = &OwnedEventId>| ids.map(|id| room.value(id)).collect::<Vec<_>>();
    json!({ "event": room.value(join), "state": values(&mut state.iter()), "auth_chain": values(&mut chain.iter()) })
}

/// Changes a response in one place.
fn edit(world: &World, response: &mut Value, what: u8, at: usize) {
    const NAMES: [&str; 5] = ["event", "state", "auth_chain", "members_omitted", "servers_in_room"];
    let name = NAMES[at % NAMES.len()];
    let odd =
        [json!(null), json!([]), json!({}), json!(true), json!(false), json!(["", "x", "s2.example"]), json!([0])];
    match what % 32 {
        0 => drop(response.as_object_mut().map(|response| response.remove(name))),
        1..=3 => response[name] = odd[at / NAMES.len() % odd.len()].clone(),
        4 => {
            let order = world.random.room.order();
            response["event"] = world.random.room.value(&order[at % order.len()]);
        }
        5 => response["auth_chain"] = response["state"].take(),
        6 => response["state"] = response["auth_chain"].clone(),
        what => change_body(&world.random, response, what.max(8) % 16, at),
    }
}

/// Gives the response, and answers what is asked for the join's sake.
fn handshake(
    world: &mut World,
    join: &OwnedEventId,
    body: &[u8],
    asked_partial: bool,
    tells_chain: bool,
) -> JoinStatus {
    let room = &world.random.room;
    let send_join = SendJoin {
        room_id: room.id(),
        room_version: room.rules().version(),
        via: S.try_into().expect("a server's name"),
        event: room.json(join).as_bytes(),
        response: body,
        asked_partial,
    };
    let ticket = world.host.engine().begin_join(send_join, world.host.now_ms).expect("the store works");
    for _ in 0..STEPS_MAX {
        match world.host.engine().join_status(ticket) {
            JoinStatus::Checking => world.poll(),
            status => return status,
        }
        let is_chain = |kind: &RequestKind| matches!(kind, RequestKind::EventAuth { .. });
        if let Some(at) = world.asked.iter().position(|request| is_chain(&request.kind)) {
            world.answer(at, if tells_chain { crate::script::How::Well } else { crate::script::How::Refuse });
        }
    }
    JoinStatus::Checking
}

/// The room can be read, and says that who has joined is in it, unless what is known otherwise speaks against it.
fn assert_usable(world: &World, join: &OwnedEventId) {
    let view = world.host.view();
    assert!(view.forward_extremities().contains(join) || !world.handed.is_empty());
    let user = world.random.room.pdu(join).sender();
    let after = view.state_after(join).expect("the store works").expect("the join is placed");
    assert_eq!(after.get(&StateKey::new("m.room.member", user.as_str())), Some(join));
    view.current_state().expect("the store works");
    view.servers_in_room().expect("the store works");
}

/// Returns every row that belongs to a room. A room's number is not given again, keys are kept whatever comes of the
/// join, and what is known of questions is no fact.
fn dump(world: &World) -> BTreeMap<Table, Vec<Row>> {
    let snapshot = world.backend.snapshot().expect("memory can be read");
    let tables = Table::ALL.into_iter();
    let tables = tables.filter(|table| !matches!(table, Table::Format | Table::ServerKeys | Table::Questions));
    let rows = |table: Table| (table, snapshot.scan(table, &[], &[], usize::MAX).expect("memory can be read"));
    tables.map(rows).filter(|(_, rows)| !rows.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Were all refused, or none, little would be held.
    #[test]
    fn joins_end_in_every_way() {
        let mut ends: BTreeMap<End, usize> = BTreeMap::new();
        for room in 0..96_u8 {
            let mut bytes = [0; 13];
            blake3::Hasher::new().update(&[room]).finalize_xof().fill(&mut bytes);
            [bytes[0], bytes[1]] = [room, 0];
            bytes[2] &= 0xfd;
            for edits in [1, 5] {
                if let Some(end) = join_by(&bytes[..3 + 2 * edits]) {
                    *ends.entry(end).or_default() += 1;
                }
            }
        }
        assert!(ends.len() == 3 && ends.values().all(|count| *count > 20), "{ends:?}");
    }
}
