//! Which servers are in a room.

use std::collections::BTreeSet;

use gibbous::{
    JoinStatus, Limits, MemoryBackend,
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Storage, Story, US, history::Dice},
};
use serde_json::json;

use crate::hosts_counted_whole;

/// Asserts that these servers are in the room, exactly or as far as is known.
#[track_caller]
fn check_servers(story: &Story, expected: &[&str], is_exact: bool) {
    let in_room = story.view().servers_in_room().expect("the store works");
    let servers: Vec<&str> = in_room.servers.iter().map(|server| server.as_str()).collect();
    assert_eq!((servers.as_slice(), in_room.is_exact), (expected, is_exact));
}

#[test]
fn s32_device_list_updates_reach_all_servers_in_a_partial_room() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[], |room| drop(room.join(ELSIE).send()));
        check_servers(&story, &[S, S2, US], false);
        story.release();
        check_servers(&story, &[S, S2, US], true);
    }
}

#[test]
fn s33_device_list_updates_reach_newly_joined_servers_in_a_partial_room() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        check_servers(&story, &[S, US], false);
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        check_servers(&story, &[S, S2, US], false);
        story.release();
        check_servers(&story, &[S, S2, US], true);
    }
}

#[test]
fn s34_device_list_updates_no_longer_reach_departed_servers_once_the_join_is_complete() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[], |room| drop(room.join(ELSIE).send()));
        let leave = story.room.leave(ELSIE).send();
        story.receive(S, &[&leave]);
        assert_eq!(story.verdict(&leave), "accepted, partial");
        // Nobody knows whether she was the last one there.
        check_servers(&story, &[S, S2, US], false);
        story.release();
        check_servers(&story, &[S, US], true);
    }
}

#[test]
fn s49_room_aliases_can_be_added_and_queried_while_the_room_is_partial() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        // The answer to who asks for an alias names the servers, without waiting.
        check_servers(&story, &[S, US], false);
        story.release();
        check_servers(&story, &[S, US], true);
    }
}

#[test]
fn s06_typing_notices_are_taken_from_servers_that_may_be_in_a_partial_room() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        // No member of S is known: what it sends counts all the same.
        assert!(!hosts_counted_whole(&story).contains(S));
        check_servers(&story, &[S, US], false);
        let hello = story.room.message(CHARLIE, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted, partial");
        check_servers(&story, &[S, US], false);
        story.release();
        check_servers(&story, &[S, US], true);
    }
}

#[test]
fn s07_presence_is_due_to_servers_whose_members_are_not_known_yet() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[], |room| drop(room.join(ELSIE).send()));
        // Who is to hear of alice, or may tell of somebody she shares the room with, is known by server, not by user.
        assert_eq!(story.view().servers(), [S, S2]);
        check_servers(&story, &[S, S2, US], false);
        let members = |story: &Story| {
            let page = story.view().members(None, 10).expect("the store works");
            (page.known.into_iter().map(|member| member.user.to_string()).collect::<BTreeSet<_>>(), page.is_complete)
        };
        let users = |users: &[&str]| users.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(members(&story), (users(&[ALICE]), false));
        story.release();
        check_servers(&story, &[S, S2, US], true);
        assert_eq!(members(&story), (users(&[ALICE, CHARLIE, DEREK, ELSIE]), true));
    }
}

#[test]
fn s09_receipts_are_taken_from_servers_that_may_be_in_a_partial_room_and_from_no_others() {
    for version in &NEWEST_VERSIONS {
        let story = Story::joined(version);
        let in_room = story.view().servers_in_room().expect("the store works");
        assert!(in_room.servers.contains(story.view().servers()[0].as_str()));
        assert!(!in_room.servers.iter().any(|server| server == S2));
    }
}

#[test]
fn a_room_without_our_users_has_our_server_no_longer() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let leave = story.room.leave(ALICE).send();
        story.submit(&leave);
        check_servers(&story, &[S], true);
    }
}

#[test]
fn a_server_that_joined_later_is_asked_when_those_that_were_named_have_refused() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        story.servers.be_honest();
        for asked in Asked::RESYNC {
            story.servers.set(S, asked, Reply::Status(403, "M_FORBIDDEN"));
        }
        story.restart();
        story.run();
        assert!(!story.view().is_partial(), "{:?}", story.view().resync());
        story.assert_converged();
    }
}

#[test]
fn the_servers_of_a_room_with_full_state_are_those_of_its_members_after_every_change() {
    for (seed, version) in (0..).zip(&NEWEST_VERSIONS) {
        let mut dice = Dice::new(seed);
        let storage = Storage::Memory(MemoryBackend::new());
        let mut story = Story::with(version, &[(DEREK, 100)], |_| {}, storage, Limits::default());
        let join = story.join.clone();
        let status = story.join_fully(&join, S);
        assert_eq!(status, JoinStatus::Joined { event_id: join, partial: false });
        let mut views = Vec::new();
        for number in 0..150 {
            let user = format!("@user{}:s{}.example", dice.below(30), dice.below(6));
            let event = match dice.below(6) {
                0..=2 => story.room.join(&user),
                3 => story.room.leave(&user),
                4 => story.room.member(CHARLIE, &user, "invite"),
                _ => story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": number })),
            };
            let event = event.send();
            story.receive(S, &[&event]);
            let counted = hosts_counted_whole(&story);
            let view = story.view();
            let told = |view: &gibbous::RoomView| {
                let in_room = view.servers_in_room().expect("the store works");
                in_room.servers.iter().map(ToString::to_string).collect::<BTreeSet<_>>()
            };
            assert_eq!(told(&view), counted, "seed {seed}, event {number}");
            views.push((view, counted));
            // An older view is still right: what they share goes back, and forth again.
            let (view, counted) = dice.pick(&views);
            assert_eq!(&told(view), counted, "seed {seed}, event {number}, an older view");
            if dice.percent(3) {
                story.engine().collect_garbage(story.room.id()).expect("the store works");
            }
        }
    }
}
