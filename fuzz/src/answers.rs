//! Answers of other servers, changed, and whether what was changed can be told from the truth.

use std::collections::BTreeSet;

use gibbous::{
    EventId, OwnedEventId, Request, RequestError, RequestKind, Response,
    gibbous_codec::Pdu,
    testing::{RoomBuilder, history::RandomRoom},
};
use serde_json::{Value, json};

use crate::world::World;

/// Every list of an answer that a change may be about.
const LISTS: [&str; 6] = ["pdu_ids", "auth_chain_ids", "pdus", "auth_chain", "events", "state"];

/// Returns an answer changed in the way that two bytes say, or another, or one of raw bytes.
pub(crate) fn changed(random: &RandomRoom, honest: &Response, another: Response, how: [u8; 2], raw: &[u8]) -> Response {
    let at = usize::from(how[1]);
    let status = |status, errcode: &str| Response::Failed(RequestError::Status { status, errcode: errcode.into() });
    match (how[0] % 16, honest) {
        (0, _) => Response::Body(raw.to_vec()),
        (1, _) => status(404, "M_NOT_FOUND"),
        (2, _) => status(403, "M_FORBIDDEN"),
        (3, _) => status(429, "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE"),
        (4, _) => Response::Failed(RequestError::Timeout),
        (5, _) => another,
        (6, Response::Body(body)) => Response::Body(body[..at.min(body.len())].to_vec()),
        (7, Response::Body(_)) => Response::Events(Vec::new()),
        (what, Response::Body(body)) => {
            let mut body: Value = serde_json::from_slice(body).expect("servers answer in JSON");
            change_body(random, &mut body, what, at);
            Response::Body(body.to_string().into_bytes())
        }
        (what, Response::Events(answers)) => {
            let mut answers = answers.clone();
            change_list(&mut answers, what, at);
            let len = answers.len().max(1);
            if let (13.., Some((_, Ok(json)))) = (what, answers.get_mut(at % len)) {
                let mut value = serde_json::from_slice(json).expect("servers answer in JSON");
                change_event(random, &mut value, what, at);
                *json = value.to_string().into_bytes();
            }
            Response::Events(answers)
        }
        (_, Response::Failed(_) | Response::Spooled(_)) => honest.clone(),
    }
}

/// Changes the list of a body that the number picks, and that alone. A body without one gets a member of another type.
pub(crate) fn change_body(random: &RandomRoom, body: &mut Value, what: u8, at: usize) {
    let present: Vec<&str> = LISTS.into_iter().filter(|list| body[*list].is_array()).collect();
    let Some(list) = present.get(at % present.len().max(1)) else {
        body["server_name"] = json!(at);
        return;
    };
    let Some(list) = body[*list].as_array_mut() else { return };
    let at = at / present.len();
    change_list(list, what, at);
    let len = list.len().max(1);
    match (what, list.get_mut(at % len)) {
        (13.., Some(event @ Value::Object(_))) => change_event(random, event, what, at),
        (13, Some(id)) => *id = json!(format!("${}", "A".repeat(43))),
        (14.., Some(id)) => *id = json!(random.room.order()[at % random.room.order().len()]),
        _ => {}
    }
}

/// Drops, repeats, moves or removes all of the things in a list.
fn change_list<T: Clone>(list: &mut Vec<T>, what: u8, at: usize) {
    let at = at % list.len().max(1);
    match what {
        8 if !list.is_empty() => drop(list.remove(at)),
        9 if !list.is_empty() => list.push(list[at].clone()),
        10 => list.reverse(),
        11 => list.truncate(at),
        12 => list.clear(),
        _ => {}
    }
}

/// Puts another in the place of an event, or breaks its content or a signature.
fn change_event(random: &RandomRoom, event: &mut Value, what: u8, at: usize) {
    match (what, at % 4) {
        (13, 0) => {
            let other = RoomBuilder::new(random.room.rules().version(), "@mallory:s2.example");
            *event = other.value(&other.order()[0]);
        }
        (13, _) => *event = random.room.value(&random.room.order()[at % random.room.order().len()]),
        (14, 0) => event["content"]["added"] = json!("by somebody else"),
        (14, 1) => event["depth"] = json!(at),
        (14, 2) => drop(event.as_object_mut().map(|event| event.remove("prev_events"))),
        (14, _) => event["auth_events"] = json!([]),
        _ => {
            let signatures = event["signatures"].as_object_mut().into_iter().flat_map(|servers| servers.values_mut());
            for signature in signatures.filter_map(Value::as_object_mut).flat_map(|keys| keys.values_mut()) {
                *signature = json!("A".repeat(86));
            }
        }
    }
}

/// Tells whether an answer may make somebody believe what is not true: keys, another state, a copy of an event that is
/// not its own, or that a state rests on an event that nobody can verify: it is named as a hole then. What else is wrong
/// can be found out.
pub(crate) fn deceives(world: &World, request: &Request, honest: &Response, response: &Response) -> bool {
    let random = &world.random;
    if response == honest || matches!(response, Response::Failed(_)) {
        return false;
    }
    let state = |response: &Response| match response {
        Response::Body(body) => {
            let body: Value = serde_json::from_slice(body).ok()?;
            let lists = ["pdu_ids", "pdus"].into_iter().filter_map(|list| body[list].as_array());
            Some(lists.flatten().map(Value::to_string).collect::<BTreeSet<_>>())
        }
        _ => None,
    };
    let is_untrue_state = match request.kind {
        RequestKind::ServerKeys { .. } => return true,
        RequestKind::StateIds { .. } | RequestKind::State { .. } => {
            state(response).is_some_and(|told| Some(told) != state(honest))
        }
        _ => false,
    };
    let is_untrue_copy = |json: &[u8]| {
        let pdu = Pdu::parse(random.room.rules(), json).ok();
        let truth = pdu.as_ref().and_then(|pdu| random.room.find(pdu.event_id()));
        truth.map(Pdu::canonical_json) != pdu.as_ref().map(Pdu::canonical_json) && truth.is_some()
    };
    is_untrue_state
        || names_unverifiable(world, request, honest, response)
        || match response {
            Response::Events(answers) => answers.iter().flat_map(|(_, json)| json).any(|json| is_untrue_copy(json)),
            Response::Body(body) => {
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                let events = LISTS.into_iter().filter_map(|list| body[list].as_array()).flatten();
                events.into_iter().any(|event| is_untrue_copy(event.to_string().as_bytes()))
            }
            Response::Failed(_) | Response::Spooled(_) => false,
        }
}

/// Tells whether a state is said to rest on an event that it does not rest on, and that nobody can verify.
fn names_unverifiable(world: &World, request: &Request, honest: &Response, response: &Response) -> bool {
    let RequestKind::StateIds { .. } = request.kind else { return false };
    let chain = |response: &Response| {
        let Response::Body(body) = response else { return BTreeSet::new() };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let ids = body["auth_chain_ids"].as_array().cloned().unwrap_or_default();
        ids.iter().filter_map(|id| EventId::parse(id.as_str()?).ok()).collect()
    };
    let cannot_be_had = |id: &OwnedEventId| {
        let is_known = world.random.room.find(id).is_some();
        is_known && (world.is_unverifiable(id) || world.rests_on_unverifiable(id))
    };
    chain(response).difference(&chain(honest)).any(cannot_be_had)
}
