//! Answers that are not true. Every lie told here can be found out, so that it must change nothing in the end; a state that
//! merely leaves somebody out cannot be told from a true one, and is not told.

use gibbous::{
    OwnedEventId, Request, RequestKind, Response,
    testing::{
        RoomBuilder,
        history::{Dice, RandomRoom},
    },
};
use serde_json::{Value, json};

/// Returns an untrue answer to a question; `None` where none comes to mind.
pub(crate) fn lie(random: &RandomRoom, request: &Request, honest: &Response, seed: u64) -> Option<Response> {
    let mut dice = Dice::new(seed);
    match (&request.kind, honest) {
        (RequestKind::StateIds { event_id }, Response::Body(body)) => {
            let mut ids: Value = serde_json::from_slice(body).ok()?;
            untrue_ids(random, event_id, &mut ids, &mut dice)?;
            Some(Response::Body(ids.to_string().into_bytes()))
        }
        (RequestKind::Events { .. }, Response::Events(answers)) => {
            let mut answers = answers.clone();
            let at = dice.below(answers.len().max(1));
            let (_, answer) = answers.get_mut(at)?;
            *answer = match dice.below(3) {
                0 => Ok(another_room(random).canonical_json().as_bytes().to_vec()),
                kind => {
                    let mut event = serde_json::from_slice(answer.as_deref().ok()?).ok()?;
                    spoil(&mut event, kind == 1);
                    Ok(event.to_string().into_bytes())
                }
            };
            Some(Response::Events(answers))
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
                kind => spoil(list.get_mut(at)?, kind == 2),
            }
            Some(Response::Body(body.to_string().into_bytes()))
        }
        _ => None,
    }
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

fn untrue_ids(random: &RandomRoom, event_id: &OwnedEventId, ids: &mut Value, dice: &mut Dice) -> Option<()> {
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
            // Two events for one key: both are true ones that were accepted where they stand.
            let second = random.room.order().iter().find(|id| {
                let pdu = random.room.pdu(id);
                let key = pdu.state_key().map(|key| gibbous::StateKey::new(pdu.event_type(), key));
                let first = key.and_then(|key| state.get(&key));
                first.is_some_and(|first| first != *id) && !random.is_rejected(id)
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
