//! What a host is told while a room is partial and when it is full: how the current state changes, what it has believed
//! wrongly, and all of it once. `s41` and the like are the scripts of Complement's tests of partial joins.

mod corrections;
mod current_state;
mod stream;

use gibbous::{
    Change, Corrections, OwnedEventId, StateChange, StateKey, Update, UpdatePosition,
    testing::{ALICE, CHARLIE, DEREK, ELSIE, Host, S, Story},
};
use serde_json::json;

/// A user who was in the room before, and has left it.
const FRED: &str = "@fred:s.example";

fn member(user: &str) -> StateKey {
    StateKey::new("m.room.member", user)
}

/// Returns what a host is told behind a position.
fn told_since(host: &Host, position: Option<UpdatePosition>) -> Vec<Update> {
    host.engine().updates_since(host.room.id(), position, usize::MAX).expect("the store works")
}

/// Returns the position of what was told last.
fn now(host: &Host) -> Option<UpdatePosition> {
    told_since(host, None).last().map(|update| update.position)
}

/// Returns how the events at a key have changed by the updates behind a position.
fn changes_at(host: &Host, position: Option<UpdatePosition>, key: &StateKey) -> Vec<StateChange> {
    let view = host.view();
    let changes =
        told_since(host, position).into_iter().flat_map(|update| view.changes_of(&update).expect("it is there"));
    changes.filter(|change| change.key == *key).collect()
}

fn change(
    key: &StateKey,
    was: Option<&OwnedEventId>,
    is: Option<&OwnedEventId>,
) -> (StateKey, Option<OwnedEventId>, Option<OwnedEventId>) {
    (key.clone(), was.cloned(), is.cloned())
}

#[track_caller]
fn assert_changes(found: Vec<StateChange>, expected: &[(StateKey, Option<OwnedEventId>, Option<OwnedEventId>)]) {
    let found: Vec<_> = found.into_iter().map(|change| (change.key, change.was, change.is)).collect();
    assert_eq!(found, expected);
}

/// Returns where the room was said to have its full state, and what that lets the host put right.
#[track_caller]
fn corrections(host: &Host) -> Corrections {
    let updates = told_since(host, None);
    let full: Vec<_> = updates.iter().filter(|update| update.change == Change::RoomFullStated).collect();
    let [full] = full.as_slice() else { panic!("the room has its full state once, and not {} times", full.len()) };
    host.view().corrections(full.position).expect("the store works").expect("it is such a position")
}

/// Scripts 45 to 48: derek is banned by fred, who has left; elsie, who has joined meanwhile, is kicked by derek. The ban
/// is accepted by the partial state and the kick is not; the full state has it the other way round.
struct WronglyInRoom {
    story: Story,
    elsie: OwnedEventId,
    ban: OwnedEventId,
    kick: OwnedEventId,
}

fn wrongly_in_room(version: &gibbous::RoomVersionId) -> WronglyInRoom {
    let mut fred = None;
    let mut story = Story::joined_with(version, &[(DEREK, 50), (FRED, 100)], |room| {
        fred = Some(room.join(FRED).send());
        room.leave(FRED).send();
    });
    let fred = fred.expect("fred has joined");
    let elsie = story.room.join(ELSIE).send();
    let levels = story.power_levels.clone();
    let ban = story.room.member(FRED, DEREK, "ban").auth(&[&levels, &fred]).without_effect().send();
    let kick = story.room.member(DEREK, ELSIE, "leave").after(&[&ban]).send();
    let on = story.room.message(CHARLIE, "on it goes").after(&[&kick]).send();
    story.receive(S, &[&elsie, &ban, &kick, &on]);
    assert_eq!(story.verdict(&ban), "accepted, partial");
    assert_eq!(story.verdict(&kick), "rejected, partial");
    WronglyInRoom { story, elsie, ban, kick }
}

/// Says something of ours.
fn speak(story: &mut Story, body: &str) -> OwnedEventId {
    let content = json!({ "msgtype": "m.text", "body": body });
    let created = story.create(ALICE, "m.room.message", None, content).expect("alice may speak");
    created.pdu.event_id().to_owned()
}
