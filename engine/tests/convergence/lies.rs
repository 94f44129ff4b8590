//! Answers that are not true. Every lie told here can be found out, so that it must change nothing in the end. What
//! cannot be told from the truth is not told:
//!
//! - a state that merely leaves somebody out;
//! - a state that names two events for one key, one of which nobody can verify: what is left names one;
//! - from a second server, a signature that does not hold: that is believed on the word of two.

use gibbous::{
    OwnedEventId, Request, RequestKind, Response,
    gibbous_codec::Pdu,
    testing::{
        RoomBuilder,
        history::{Dice, RandomRoom},
    },
};
use serde_json::{Value, json};

use crate::world::World;

/// An untrue answer.
pub(crate) struct Lie {
    pub(crate) response: Response,
    /// The event of which it has a copy with a signature that does not hold.
    pub(crate) bad_copy_of: Option<OwnedEventId>,
}

/// Returns an untrue answer to a question; `None` where none comes to mind.
pub(crate) fn lie(world: &World, request: &Request, honest: &Response, seed: u64) -> Option<Lie> {
    let mut dice = Dice::new(seed);
    let random = &world.random;
    let mut bad_copy_of = None;
    let response = match (&request.kind, honest) {
        (RequestKind::StateIds { event_id }, Response::Body(body)) => {
            let mut ids: Value = serde_json::from_slice(body).ok()?;
            untrue_ids(world, event_id, &mut ids, &mut dice)?;
            Response::Body(ids.to_string().into_bytes())
        }
        (RequestKind::Events { .. }, Response::Events(answers)) => {
            let mut answers = answers.clone();
            let at = dice.below(answers.len().max(1));
            let (_, answer) = answers.get_mut(at)?;
            *answer = match dice.below(3) {
                0 => Ok(another_room(random).canonical_json().as_bytes().to_vec()),
                kind => {
                    let mut event = serde_json::from_slice(answer.as_deref().ok()?).ok()?;
                    bad_copy_of = spoil_for(world, request, &mut event, kind == 1)?;
                    Ok(event.to_string().into_bytes())
                }
            };
            Response::Events(answers)
        }
        (_, Response::Body(body)) => {
            let mut body: Value = serde_json::from_slice(body).ok()?;
            let lists = ["events", "auth_chain", "pdus"];
            let present: Vec<&str> = lists.into_iter().filter(|list| body[*list].is_array()).collect();
            let list = body[*present.get(dice.below(present.len().max(1)))?].as_array_mut()?;
            let at = dice.below(list.len().max(1));
            match dice.below(4) {
                0 => list.push(serde_json::from_str(another_room(random).canonical_json()).ok()?),
                1 => drop((!list.is_empty()).then(|| list.remove(at))?),
                kind => bad_copy_of = spoil_for(world, request, list.get_mut(at)?, kind == 2)?,
            }
            Response::Body(body.to_string().into_bytes())
        }
        _ => return None,
    };
    Some(Lie { response, bad_copy_of })
}

/// Breaks an event's signature or content hash in an answer, but not the signature that another server has broken
/// before. Returns the event whose signature it is.
fn spoil_for(world: &World, request: &Request, event: &mut Value, is_signature: bool) -> Option<Option<OwnedEventId>> {
    let pdu = Pdu::parse(world.random.room.rules(), event.to_string().as_bytes()).ok()?;
    let event_id = pdu.event_id().to_owned();
    let by_another = world.bad_copies.get(&event_id).is_some_and(|server| *server != request.destination);
    if is_signature && by_another {
        return None;
    }
    spoil(event, is_signature);
    Some(is_signature.then_some(event_id))
}

/// Breaks an event's signature, or only its content hash, so that what is left of it is its redacted copy.
fn spoil(event: &mut Value, is_signature: bool) {
    if is_signature {
        let signatures = event["signatures"].as_object_mut().into_iter().flat_map(|servers| servers.values_mut());
        for signature in signatures.filter_map(Value::as_object_mut).flat_map(|keys| keys.values_mut()) {
            *signature = json!("A".repeat(86));
        }
    } else {
        event["content"]["added"] = json!("by somebody else");
    }
}

/// Returns the copy of an event that is left when its content has been tampered with.
pub(crate) fn tampered(event: &Value) -> Value {
    let mut event = event.clone();
    spoil(&mut event, false);
    event
}

fn untrue_ids(world: &World, event_id: &OwnedEventId, ids: &mut Value, dice: &mut Dice) -> Option<()> {
    let random = &world.random;
    let state = random.state_before(event_id);
    let named = ids["pdu_ids"].as_array_mut()?;
    match dice.below(4) {
        0 if random.room.rules().explicit_event_id() => named.push(json!("$invented:s2.example")),
        0 => named.push(json!(format!("${}", "A".repeat(43)))),
        1 => named.push(json!(another_room(random).event_id())),
        2 => {
            let create = json!(random.room.order()[0]);
            named.retain(|id| *id != create);
        }
        _ => {
            // Two events for one key: both are true ones that were accepted where they stand, and that can be verified.
            let can_be_had = |id: &OwnedEventId| !world.is_unverifiable(id) && !world.rests_on_unverifiable(id);
            let second = random.room.order().iter().find(|id| {
                let pdu = random.room.pdu(id);
                let key = pdu.state_key().map(|key| gibbous::StateKey::new(pdu.event_type(), key));
                let first = key.and_then(|key| state.get(&key));
                let is_other = |first: &&OwnedEventId| first != id && can_be_had(first);
                first.filter(is_other).is_some() && !random.is_rejected(id) && can_be_had(id)
            });
            named.push(json!(second?));
        }
    }
    Some(())
}

/// Returns the create event of another room.
fn another_room(random: &RandomRoom) -> gibbous::gibbous_codec::Pdu {
    let other = RoomBuilder::new(random.room.rules().version(), "@mallory:s2.example");
    other.pdu(&other.order()[0]).clone()
}
