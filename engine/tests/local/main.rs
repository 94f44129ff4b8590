//! Events of our own: made by the engine, judged before they are stored, and sent to whom they concern.

mod destinations;
mod every_kind;
mod invites;
mod refused;
mod route;
mod scripts;

use gibbous::{
    CreateRefusal, Created, OwnedEventId, StateKey,
    testing::{ALICE, Story},
};
use serde_json::{Value, json};

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
}

fn message(story: &mut Story, sender: &str, body: &str) -> Result<Created, CreateRefusal> {
    story.create(sender, "m.room.message", None, json!({ "msgtype": "m.text", "body": body }))
}

fn membership(story: &mut Story, sender: &str, target: &str, membership: &str) -> Result<Created, CreateRefusal> {
    story.create(sender, "m.room.member", Some(target), json!({ "membership": membership }))
}

/// Says something that must be allowed, and returns its ID.
#[track_caller]
fn said(story: &mut Story, body: &str) -> OwnedEventId {
    let created = message(story, ALICE, body).expect("alice may speak");
    created.pdu.event_id().to_owned()
}

/// The servers that an event goes to.
fn servers(created: &Created) -> Vec<&str> {
    created.destinations.servers.iter().map(|server| server.as_str()).collect()
}

/// Asserts that an event is placed and allowed by just what a story teller who knows the rules would have taken, and
/// cites it in the same form.
#[track_caller]
fn assert_made_like(created: &Created, expected: &gibbous::Pdu) {
    let cited = |pdu: &gibbous::Pdu, key: &str| {
        let mut cited: Vec<Value> = serde_json::from_str(pdu.field(key).expect("it cites some").get()).expect("a list");
        cited.sort_by_key(ToString::to_string);
        cited
    };
    for key in ["prev_events", "auth_events"] {
        assert_eq!(cited(&created.pdu, key), cited(expected, key), "{key} of {}", created.pdu.canonical_json());
    }
    assert_eq!(created.pdu.depth(), expected.depth());
}
