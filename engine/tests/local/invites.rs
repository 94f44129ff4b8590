//! Invites of our users by other servers, to rooms that are known here.

use gibbous::{
    Error, Invite, InviteRefusal, JoinRoute, LocalSigner, Pdu, RoomVersionId,
    testing::{ALICE, Asked, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Story, US},
};

use super::{member, membership};

fn signer(story: &Story, server: &str) -> LocalSigner {
    story.room.keys().signer_of(server.try_into().expect("a name"))
}

fn hand_over(story: &Story, origin: &str, event: &[u8]) -> Result<Pdu, InviteRefusal> {
    let (origin, invite) = (origin.try_into().expect("a name"), Invite { room_id: story.room.id(), event });
    story.engine().handle_invite(origin, invite, &signer(story, US), story.now_ms).expect("the store works")
}

/// Asserts that an invite is refused, and that not a row has been written for it.
#[track_caller]
fn refused(story: &Story, origin: &str, event: &[u8]) -> InviteRefusal {
    let was = story.engine().stats();
    let refusal = hand_over(story, origin, event).expect_err("it is no good");
    assert_eq!(story.engine().stats(), was, "{refusal}");
    refusal
}

#[test]
fn an_invite_is_signed_by_us_and_stands_in_the_room() {
    for version in &NEWEST_VERSIONS {
        for is_full in [false, true] {
            let story = Story::new(version);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            let invite = story.room.member(CHARLIE, BOB, "invite").send();
            let signed = hand_over(&story, S, story.room.json(&invite).as_bytes()).expect("it is one");
            story.run();
            assert_eq!(signed.event_id(), invite);
            for server in [S, US] {
                assert_eq!(signed.signing_key_ids(server.try_into().expect("a name")), [gibbous::testing::KEY_ID]);
            }
            assert_eq!(story.view().current_state().expect("the store works")[&member(BOB)], invite);
            // It is sent to us as to every server in the room.
            story.receive(S, &[&invite]);
            story.release();
            assert_eq!(story.verdict(&invite), "accepted");
            let joined = membership(&mut story, BOB, BOB, "join").expect("bob was invited");
            assert!(joined.pdu.auth_events().contains(&invite));
        }
    }
}

#[test]
fn what_is_no_invite_of_ours_is_not_signed() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let invite = story.room.member(CHARLIE, BOB, "invite").unsent();
        let refused_of = |story: &Story, pdu: &Pdu| refused(story, S, pdu.canonical_json().as_bytes());
        assert!(matches!(refused(&story, S, b"{}"), InviteRefusal::Format(_)));
        let kick = story.room.member(CHARLIE, BOB, "leave").unsent();
        assert!(matches!(refused_of(&story, &kick), InviteRefusal::NoInvite(_)));
        let nobody = story.room.member(CHARLIE, "nobody", "invite").unsent();
        assert!(matches!(refused_of(&story, &nobody), InviteRefusal::NoInvite(_)));
        let theirs = story.room.member(CHARLIE, ELSIE, "invite").unsent();
        assert!(matches!(refused_of(&story, &theirs), InviteRefusal::NotOurs(_)));
        let refusal = refused(&story, S2, invite.canonical_json().as_bytes());
        assert!(matches!(refusal, InviteRefusal::NotOfOrigin(_)));
        let forged = invite.canonical_json().replace("\"depth\":", "\"extra\":1,\"depth\":");
        assert!(matches!(refused(&story, S, forged.as_bytes()), InviteRefusal::Unverifiable(_)));
        let elsewhere = Story::new(&RoomVersionId::V6).room.member(DEREK, BOB, "invite").unsent();
        let elsewhere = elsewhere.canonical_json().replace("!room:", "!other:");
        assert!(matches!(refused(&story, S, elsewhere.as_bytes()), InviteRefusal::NoInvite(_)));
        let event = invite.canonical_json().as_bytes();
        let (origin, invite) = (S.try_into().expect("a name"), Invite { room_id: story.room.id(), event });
        let refusal = story.engine().handle_invite(origin, invite, &signer(&story, S), story.now_ms);
        let refusal = refusal.expect("the store works");
        assert_eq!(refusal.unwrap_err(), InviteRefusal::NotOurSigner(S.try_into().expect("a name")));
    }
}

#[test]
fn an_invite_of_a_server_whose_keys_are_not_known_is_signed_when_they_are() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let elsie = story.room.join(ELSIE).send();
        story.servers.set(S2, Asked::ServerKeys, Reply::Held);
        let invite = story.room.member(ELSIE, BOB, "invite").send();
        let refusal = refused(&story, S2, story.room.json(&invite).as_bytes());
        assert_eq!(refusal, InviteRefusal::MissingKeys([S2.try_into().expect("a name")].into()));
        story.run();
        assert!(story.asked.iter().any(|request| request.destination == S2), "its keys are asked for");
        story.deliver_held();
        story.run();
        assert!(hand_over(&story, S2, story.room.json(&invite).as_bytes()).is_ok());
        story.run();
        story.release();
        assert_eq!((story.verdict(&elsie), story.verdict(&invite)), ("accepted".into(), "accepted".into()));
    }
}

#[test]
fn where_nobody_of_ours_is_left_an_invite_is_signed_and_not_stored() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        drop(membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave"));
        let invite = story.room.member(CHARLIE, ALICE, "invite").send();
        let was = story.engine().stats();
        assert!(hand_over(&story, S, story.room.json(&invite).as_bytes()).is_ok());
        assert_eq!(story.engine().stats(), was);
        assert_eq!(story.verdict(&invite), "absent");
        let route = story.engine().how_to_join(story.room.id(), ALICE.try_into().expect("a user ID"));
        assert!(matches!(route.expect("the store works"), JoinRoute::Handshake { omit_members: true, .. }));
    }
}

#[test]
fn an_invite_to_a_room_that_is_not_known_says_so() {
    let mut story = Story::new(&RoomVersionId::V11);
    let invite = story.room.member(CHARLIE, BOB, "invite").unsent();
    let event = invite.canonical_json().as_bytes();
    let (origin, invite) = (S.try_into().expect("a name"), Invite { room_id: story.room.id(), event });
    let refusal = story.engine().handle_invite(origin, invite, &signer(&story, US), story.now_ms);
    assert!(matches!(refusal, Err(Error::UnknownRoom(_))));
}
