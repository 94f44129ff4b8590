//! What a host has believed of a partial room, and puts right when it is full (R-39, D-7).

use std::collections::BTreeSet;

use gibbous::{
    CatchUp, OwnedEventId, OwnedServerName, RoomVersionId, WrongMembership,
    testing::{DEREK, ELSIE, NEWEST_VERSIONS, RoomBuilder, S, S2, Story, US},
};
use serde_json::json;

use super::{WronglyInRoom, corrections, speak, wrongly_in_room};

fn servers(names: &[&str]) -> BTreeSet<OwnedServerName> {
    names.iter().map(|name| (*name).try_into().expect("a server name")).collect()
}

/// Returns the servers that are in the room as far as is known.
fn in_room(story: &Story) -> BTreeSet<OwnedServerName> {
    story.view().servers_in_room().expect("the store works").servers
}

/// Alice joins; the response names these servers, whoever else is there. The resync is held back.
fn joined_naming(version: &RoomVersionId, named: &[&str], meanwhile: impl FnOnce(&mut RoomBuilder)) -> Story {
    let mut story = Story::with(
        version,
        &[(DEREK, 100)],
        meanwhile,
        gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new()),
        gibbous::Limits::default(),
    );
    story.hold_resync();
    let join = story.join.clone();
    let mut response = story.room.send_join(&join, true);
    response["servers_in_room"] = json!(named);
    story.join_with(&join, S, &response, true);
    assert!(story.view().is_partial());
    story
}

/// Derek, who has left before alice joined, kicks elsie, who has joined after it.
fn kicked_wrongly(version: &RoomVersionId) -> (Story, OwnedEventId) {
    let mut story = joined_naming(version, &[S], |room| drop(room.leave(DEREK).send()));
    let elsie = story.room.join(ELSIE).send();
    story.receive(S, &[&elsie]);
    assert_eq!(in_room(&story), servers(&[S, S2, US]));
    let (levels, derek) = (story.power_levels.clone(), story.derek.clone());
    let kick = story.room.member(DEREK, ELSIE, "leave").auth(&[&levels, &derek, &elsie]).without_effect().send();
    story.receive(S, &[&kick]);
    assert_eq!(story.verdict(&kick), "accepted, partial");
    (story, kick)
}

#[test]
fn s32_a_server_that_was_named_and_is_there_needs_no_correction() {
    for version in &NEWEST_VERSIONS {
        let mut story = joined_naming(version, &[S, S2], |room| drop(room.join(ELSIE).send()));
        assert_eq!(in_room(&story), servers(&[S, S2, US]));
        story.release();
        assert_eq!(in_room(&story), servers(&[S, S2, US]));
        assert_eq!(corrections(&story), gibbous::Corrections::default());
    }
}

#[test]
fn s33_a_server_that_joins_while_the_room_is_partial_is_there_at_once() {
    for version in &NEWEST_VERSIONS {
        let mut story = joined_naming(version, &[S], |_| {});
        assert_eq!(in_room(&story), servers(&[S, US]));
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        assert_eq!(in_room(&story), servers(&[S, S2, US]));
        story.release();
        assert_eq!(in_room(&story), servers(&[S, S2, US]));
        let corrections = corrections(&story);
        assert_eq!((corrections.hosts_added, corrections.hosts_removed), (servers(&[S2]), servers(&[])));
    }
}

#[test]
fn s34_a_server_that_leaves_is_gone_with_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let mut story = joined_naming(version, &[S, S2], |room| drop(room.join(ELSIE).send()));
        let leave = story.room.leave(ELSIE).send();
        story.receive(S, &[&leave]);
        assert_eq!(in_room(&story), servers(&[S, S2, US]), "others of it may be there");
        story.release();
        assert_eq!(in_room(&story), servers(&[S, US]));
        assert_eq!(corrections(&story).hosts_removed, servers(&[S2]));
    }
}

#[test]
fn s35_a_server_that_was_wrongly_kicked_is_due_what_has_changed() {
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = kicked_wrongly(version);
        assert_eq!(in_room(&story), servers(&[S, US]));
        story.release();
        assert_eq!(story.verdict(&kick), "rejected");
        assert_eq!(in_room(&story), servers(&[S, S2, US]));
        let corrections = corrections(&story);
        assert_eq!(corrections.hosts_changed, servers(&[S2]));
        let user = ELSIE.try_into().expect("a user ID");
        assert_eq!(corrections.wrong_memberships, [WrongMembership { user, from: kick, until: None }]);
    }
}

#[test]
fn s36_a_server_that_was_wrongly_kicked_and_then_left_is_due_what_has_changed() {
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = kicked_wrongly(version);
        let leave = story.room.leave(ELSIE).after(&[&kick]).send();
        story.receive(S, &[&leave]);
        story.release();
        assert_eq!(in_room(&story), servers(&[S, US]));
        let corrections = corrections(&story);
        assert_eq!(corrections.hosts_changed, servers(&[S2]));
        assert_eq!(corrections.wrong_memberships[0].until, Some(leave));
    }
}

#[test]
fn s37_a_server_that_the_response_did_not_name_is_due_what_has_changed() {
    for version in &NEWEST_VERSIONS {
        let mut story = joined_naming(version, &[S], |room| drop(room.join(ELSIE).send()));
        assert_eq!(in_room(&story), servers(&[S, US]));
        let said = speak(&mut story, "who hears me?");
        story.release();
        assert_eq!(in_room(&story), servers(&[S, S2, US]));
        let corrections = corrections(&story);
        assert_eq!((corrections.hosts_added, corrections.hosts_changed), (servers(&[S2]), servers(&[S2])));
        assert_eq!(corrections.catch_up, Some(CatchUp { event_id: said, servers: servers(&[S2]) }));
    }
}

#[test]
fn s38_a_server_that_the_response_did_not_name_and_that_left_is_due_what_has_changed() {
    for version in &NEWEST_VERSIONS {
        let mut story = joined_naming(version, &[S], |room| drop(room.join(ELSIE).send()));
        let _said = speak(&mut story, "who hears me?");
        let leave = story.room.leave(ELSIE).send();
        story.receive(S, &[&leave]);
        story.release();
        assert_eq!(in_room(&story), servers(&[S, US]));
        let corrections = corrections(&story);
        assert_eq!(corrections.hosts_changed, servers(&[S2]));
        assert_eq!(corrections.catch_up, None, "who has left needs nothing more");
    }
}

#[test]
fn s46_s48_for_how_long_a_user_was_wrongly_believed_to_be_in_the_room_is_told() {
    for version in &NEWEST_VERSIONS {
        let WronglyInRoom { mut story, ban, kick, .. } = wrongly_in_room(version);
        let again = story.room.join(ELSIE).after(&[&kick]).send();
        story.receive(S, &[&again]);
        story.release();
        assert_eq!(story.verdict(&again), "accepted");
        let mut wrong = corrections(&story).wrong_memberships;
        wrong.sort_by_key(|wrong| (wrong.user.clone(), wrong.until.is_none()));
        let [derek, elsie] = [DEREK, ELSIE].map(|user| user.try_into().expect("a user ID"));
        let expected = [
            WrongMembership { user: derek, from: ban, until: None },
            WrongMembership { user: elsie.clone(), from: kick, until: Some(again.clone()) },
            // That she came back was not believed either.
            WrongMembership { user: elsie, from: again, until: None },
        ];
        assert_eq!(wrong, expected);
    }
}

#[test]
fn x11_a_server_that_joined_and_never_spoke_is_sent_our_latest_event() {
    for version in &NEWEST_VERSIONS {
        let mut story = joined_naming(version, &[S], |_| {});
        // Elsie's join reaches us only when alice has spoken; who joins after that has missed nothing.
        let join = story.join.clone();
        let elsie = story.room.join(ELSIE).after(&[&join]).send();
        speak(&mut story, "one");
        let latest = speak(&mut story, "two");
        let late = story.room.join("@late:s3.example").send();
        story.receive(S, &[&elsie, &late]);
        assert_eq!(in_room(&story), servers(&[S, S2, "s3.example", US]));
        story.release();
        assert_eq!(story.verdict(&elsie), "accepted");
        let expected = CatchUp { event_id: latest, servers: servers(&[S2]) };
        assert_eq!(corrections(&story).catch_up, Some(expected));
        // A restart knows it too.
        story.restart();
        assert!(corrections(&story).catch_up.is_some());
    }
}

#[test]
fn no_correction_stands_at_any_other_update() {
    let mut story = joined_naming(&RoomVersionId::V11, &[S], |_| {});
    story.release();
    let full = super::told_since(&story, None);
    let with_corrections =
        full.iter().filter(|update| story.view().corrections(update.position).expect("the store works").is_some());
    assert_eq!(with_corrections.count(), 1);
}
