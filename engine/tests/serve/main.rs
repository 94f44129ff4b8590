//! What other servers are given of our rooms, and what they are refused.

mod handshake;
mod history;
mod state;

use std::collections::BTreeSet;

use gibbous::{
    OwnedEventId, RoomVersionId, ServerName,
    serve::{Answer, Refusal, Served},
    testing::Story,
};
use serde_json::Value;

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

/// Reads an answer that is given.
#[track_caller]
fn given(answer: Served<Answer>) -> Value {
    let body =
        answer.expect("the store works").expect("it is not refused").to_bytes().expect("every event can be read");
    serde_json::from_slice(&body).expect("a body is JSON")
}

/// Returns why an answer is refused: the HTTP status and the Matrix error code.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Served<T>) -> (u16, &'static str) {
    let refusal = answer.expect("the store works").expect_err("it is refused");
    let body: Value = serde_json::from_slice(&refusal.body()).expect("a body is JSON");
    assert_eq!(body["errcode"], refusal.errcode());
    (refusal.status(), refusal.errcode())
}

const PARTIAL: (u16, &str) = (403, "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE");
const NOT_FOUND: (u16, &str) = (404, "M_NOT_FOUND");
const FORBIDDEN: (u16, &str) = (403, "M_FORBIDDEN");

/// Reads a list of event IDs.
fn ids(list: &Value) -> BTreeSet<OwnedEventId> {
    serde_json::from_value(list.clone()).expect("it is a list of event IDs")
}

/// Returns the events of a story as they are sent.
fn values<'e>(story: &Story, event_ids: impl IntoIterator<Item = &'e OwnedEventId>) -> Vec<Value> {
    event_ids.into_iter().map(|event_id| story.room.value(event_id)).collect()
}

#[test]
fn an_incompatible_room_version_is_named_in_the_answer() {
    let refusal = Refusal::IncompatibleRoomVersion(RoomVersionId::V11);
    let body: Value = serde_json::from_slice(&refusal.body()).expect("a body is JSON");
    assert_eq!((refusal.status(), &body["room_version"]), (400, &Value::from("11")));
}
