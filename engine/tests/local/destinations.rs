//! To whom events of ours go, while the room is partial and when it is full.

use gibbous::{
    Created, Destinations, EventId, SendPolicy,
    testing::{ALICE, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, S2, Story},
};
use serde_json::json;

use super::{membership, message, servers};

const S3: &str = "s3.example";
const FRED: &str = "@fred:s3.example";

/// Asks anew where an event goes.
#[track_caller]
fn destinations(story: &Story, event_id: &EventId, policy: SendPolicy) -> Destinations {
    let found = story.engine().destinations(story.room.id(), event_id, policy).expect("the store works");
    found.unwrap_or_else(|| panic!("{event_id} has no place"))
}

#[track_caller]
fn check(story: &Story, created: &Created, expected: &[&str], is_exact: bool) {
    assert_eq!((servers(created), created.destinations.is_exact), (expected.to_vec(), is_exact));
    assert_eq!(destinations(story, created.pdu.event_id(), SendPolicy::Broad), created.destinations, "asked again");
}

#[test]
fn a_server_whose_user_joined_after_us_gets_what_we_say_while_the_room_is_partial() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let created = message(&mut story, ALICE, "who is there?").expect("alice may speak");
        check(&story, &created, &[S], false);
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        let created = message(&mut story, ALICE, "hello elsie").expect("alice may speak");
        check(&story, &created, &[S, S2], false);
        // That she has left is no proof that she was the last of her server; but nobody has named it either.
        let leave = story.room.leave(ELSIE).send();
        story.receive(S, &[&leave]);
        let created = message(&mut story, ALICE, "gone").expect("alice may speak");
        check(&story, &created, &[S], false);
        story.release();
        let created = message(&mut story, ALICE, "now I know").expect("alice may speak");
        check(&story, &created, &[S], true);
    }
}

#[test]
fn the_servers_that_the_response_named_get_what_we_say_unless_only_proven_ones_may() {
    for version in &NEWEST_VERSIONS {
        // Elsie's server is named, but she has been left out of the response.
        let mut story = Story::joined_with(version, &[], |room| drop(room.join(ELSIE).send()));
        let created = message(&mut story, ALICE, "hello").expect("alice may speak");
        check(&story, &created, &[S, S2], false);
        let proven = destinations(&story, created.pdu.event_id(), SendPolicy::ProvenOnly);
        assert_eq!(proven.servers.iter().map(|server| server.as_str()).collect::<Vec<_>>(), [S]);
        story.release();
        // When the room is full it is known who was in it.
        for policy in [SendPolicy::Broad, SendPolicy::ProvenOnly] {
            let found = destinations(&story, created.pdu.event_id(), policy);
            assert_eq!(found, Destinations { servers: created.destinations.servers.clone(), is_exact: true });
        }
    }
}

#[test]
fn whom_we_invite_kick_or_ban_is_told_of_it_too() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(ALICE, 60)], |_| {});
        let invite = membership(&mut story, ALICE, FRED, "invite").expect("alice may invite");
        check(&story, &invite, &[S, S3], false);
        let back = membership(&mut story, ALICE, FRED, "leave").expect("alice may take it back");
        check(&story, &back, &[S, S3], false);
        // What is not known of elsie might be that she is in the room.
        let ban = membership(&mut story, ALICE, ELSIE, "ban").expect("alice may ban");
        check(&story, &ban, &[S, S2], false);
        story.release();
        let invite = membership(&mut story, ALICE, FRED, "invite").expect("alice may invite");
        check(&story, &invite, &[S, S3], true);
        let created = message(&mut story, ALICE, "not for fred").expect("alice may speak");
        check(&story, &created, &[S], true);
        let back = membership(&mut story, ALICE, FRED, "leave").expect("alice may take it back");
        check(&story, &back, &[S, S3], true);
        // Nobody of that server ever was in the room, and now that is known.
        let ban = membership(&mut story, ALICE, "@gus:s4.example", "ban").expect("alice may ban");
        check(&story, &ban, &[S], true);
    }
}

#[test]
fn the_last_user_of_a_server_is_kicked_and_the_server_is_told() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::with(
            version,
            &[(ALICE, 60)],
            |room| drop(room.join(ELSIE).send()),
            gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new()),
            gibbous::Limits::default(),
        )
        .join_full();
        let kick = membership(&mut story, ALICE, ELSIE, "leave").expect("alice may kick");
        check(&story, &kick, &[S, S2], true);
        let created = message(&mut story, ALICE, "she is gone").expect("alice may speak");
        check(&story, &created, &[S], true);
        assert_eq!(destinations(&story, kick.pdu.event_id(), SendPolicy::Broad), kick.destinations);
    }
}

#[test]
fn what_is_not_ours_to_send_goes_to_nobody() {
    let nobody = |is_exact| Destinations { servers: Default::default(), is_exact };
    for version in &NEWEST_VERSIONS {
        for is_full in [false, true] {
            let story = Story::new(version);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            // The resident server sends the join.
            let join = story.join.clone();
            assert_eq!(destinations(&story, &join, SendPolicy::Broad), nobody(true));
            let theirs = story.room.message(CHARLIE, "hello").send();
            story.receive(S, &[&theirs]);
            assert_eq!(destinations(&story, &theirs, SendPolicy::Broad), nobody(true));
            story.release();
            assert_eq!(destinations(&story, &join, SendPolicy::Broad), nobody(true), "nor when the room is full");
            // A name is ours to send.
            let named = json!({ "membership": "join", "displayname": "Alice" });
            let created = story.create(ALICE, "m.room.member", Some(ALICE), named).expect("alice may");
            check(&story, &created, &[S], true);
            let unknown = story.room.message(DEREK, "not received").send();
            let found = story.engine().destinations(story.room.id(), &unknown, SendPolicy::Broad);
            assert_eq!(found.expect("the store works"), None);
        }
    }
}

#[test]
fn an_event_of_ours_that_the_full_state_rejects_goes_to_nobody() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(ALICE, 60)], |room| {
            room.join(ELSIE).send();
            room.member(CHARLIE, ELSIE, "ban").send();
        });
        let invite = membership(&mut story, ALICE, ELSIE, "invite").expect("as far as is known alice may");
        assert_eq!(servers(&invite), [S, S2]);
        story.release();
        assert_eq!(story.verdict(invite.pdu.event_id()), "rejected");
        assert!(destinations(&story, invite.pdu.event_id(), SendPolicy::Broad).servers.is_empty());
    }
}
