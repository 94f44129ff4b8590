//! Invites of our users by other servers, to rooms that are known here and to others.

use gibbous::{
    Invite, InviteRefusal, JoinRoute, LocalSigner, Pdu, PendingInvite, RoomVersionId,
    testing::{ALICE, ALL_VERSIONS, Asked, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Story, US},
};

use super::{member, membership};

fn signer(story: &Story, server: &str) -> LocalSigner {
    story.room.keys().signer_of(server.try_into().expect("a name"))
}

fn invite_to<'a>(story: &'a Story, event: &'a [u8], stripped_state: &'a [&'a [u8]]) -> Invite<'a> {
    Invite { room_id: story.room.id(), room_version: story.room.rules().version(), event, stripped_state }
}

fn hand_over(story: &Story, origin: &str, event: &[u8]) -> Result<Pdu, InviteRefusal> {
    let (origin, invite) = (origin.try_into().expect("a name"), invite_to(story, event, &[]));
    story.engine().handle_invite(origin, invite, &signer(story, US), story.now_ms).expect("the store works")
}

/// Returns the rooms to which a user of ours is invited from outside.
fn invited(story: &Story, user: &str) -> Vec<PendingInvite> {
    story.engine().invites(user.try_into().expect("a user ID")).expect("the store works")
}

/// Asserts that an invite is refused, and that not a row has been written for it.
#[track_caller]
fn refused(story: &Story, origin: &str, event: &[u8]) -> InviteRefusal {
    let was = story.written();
    let refusal = hand_over(story, origin, event).expect_err("it is no good");
    assert_eq!(story.written(), was, "{refusal}");
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
        let (origin, invite) = (S.try_into().expect("a name"), invite_to(&story, event, &[]));
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
fn where_nobody_of_ours_is_left_an_invite_is_signed_and_kept_until_the_user_joins() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        drop(membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave"));
        let invite = story.room.member(CHARLIE, ALICE, "invite").send();
        assert!(hand_over(&story, S, story.room.json(&invite).as_bytes()).is_ok());
        assert_eq!(story.verdict(&invite), "absent");
        assert_eq!(invited(&story, ALICE).len(), 1);
        let route = story.engine().how_to_join(story.room.id(), ALICE.try_into().expect("a user ID"));
        assert!(matches!(route.expect("the store works"), JoinRoute::Handshake { omit_members: true, .. }));
        let again = story.room.join(ALICE).send();
        story.join_partially(&again, S);
        assert_eq!(invited(&story, ALICE).len(), 0);
        story.restart();
        assert_eq!(invited(&story, ALICE).len(), 0);
    }
}

#[test]
fn an_invite_to_a_room_that_is_not_known_is_kept_with_what_is_told_of_the_room() {
    for version in &ALL_VERSIONS {
        let mut story = Story::new(version);
        let invite = story.room.member(CHARLIE, BOB, "invite").send();
        let event = story.room.json(&invite).to_owned();
        let name =
            br#"{"type":"m.room.name","state_key":"","sender":"@charlie:s.example","content":{"name":"A room"}}"#;
        let told: [&[u8]; 4] = [name, b"no JSON", b"[]", &[0xff]];
        let hand_over = |story: &Story| {
            let invite = invite_to(story, event.as_bytes(), &told);
            let origin = S.try_into().expect("a name");
            story.engine().handle_invite(origin, invite, &signer(story, US), story.now_ms).expect("the store works")
        };
        // Charlie's keys are not known yet.
        let refusal = hand_over(&story).expect_err("it cannot be verified");
        assert_eq!(refusal, InviteRefusal::MissingKeys([S.try_into().expect("a name")].into()));
        story.run();
        let signed = hand_over(&story).expect("it is one");
        assert_eq!(signed.signing_key_ids(US.try_into().expect("a name")), [gibbous::testing::KEY_ID]);
        for _ in 0..2 {
            let found = invited(&story, BOB);
            let [found] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((&*found.room_id, &found.room_version), (story.room.id(), version));
            assert_eq!((found.via.as_str(), found.at_ms), (S, story.now_ms));
            assert_eq!(found.pdu.canonical_json(), signed.canonical_json());
            assert_eq!(found.stripped_state, [String::from_utf8_lossy(name)]);
            story.restart();
        }
        assert!(
            story.engine().room(story.room.id()).expect("the store works").is_none(),
            "it does not make the room known"
        );
        story.engine().forget_invite(BOB.try_into().expect("a user ID"), story.room.id()).expect("the store works");
        story.restart();
        assert_eq!(invited(&story, BOB).len(), 0);
    }
}

#[test]
fn where_another_of_ours_joins_the_room_says_what_has_become_of_an_invite() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version);
        let invite = story.room.member(CHARLIE, BOB, "invite").send();
        hand_over(&story, S, story.room.json(&invite).as_bytes()).expect_err("charlie's keys are not known");
        story.run();
        hand_over(&story, S, story.room.json(&invite).as_bytes()).expect("it is one");
        story.room.join(ALICE).send();
        let mut story = story.join_held();
        // The response has left out the members: bob's invite may be among them.
        assert_eq!(invited(&story, BOB).len(), 1);
        story.release();
        assert_eq!(invited(&story, BOB).len(), 0, "it stands in the room");
        let joined = membership(&mut story, BOB, BOB, "join").expect("bob may join");
        assert_eq!(story.verdict(joined.pdu.event_id()), "accepted");
    }
}

#[test]
fn no_user_has_more_invites_than_are_kept() {
    let mut limits = gibbous::Limits::default();
    limits.invites_a_user_max = 2;
    let storage = gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V6, &[], |_| {}, storage, limits);
    let invite = story.room.member(CHARLIE, BOB, "invite").unsent();
    hand_over(&story, S, invite.canonical_json().as_bytes()).expect_err("charlie's keys are not known");
    story.run();
    let mut found = Vec::new();
    for number in 0..3 {
        let mut event: serde_json::Value = serde_json::from_str(invite.canonical_json()).expect("it is JSON");
        event["room_id"] = serde_json::json!(format!("!other{number}:s.example"));
        let event = story.room.sign(S, &event);
        let room_id = event.room_id().to_owned();
        let event = event.canonical_json().as_bytes();
        let invite = Invite { room_id: &room_id, room_version: &RoomVersionId::V6, event, stripped_state: &[] };
        let origin = S.try_into().expect("a name");
        let kept = story.engine().handle_invite(origin, invite, &signer(&story, US), story.now_ms);
        found.push(kept.expect("the store works").map(drop));
    }
    let too_many = InviteRefusal::TooMany(BOB.try_into().expect("a user ID"));
    assert_eq!(found, [Ok(()), Ok(()), Err(too_many)]);
    assert_eq!(invited(&story, BOB).len(), 2);
}

#[test]
fn an_invite_to_a_room_of_an_unknown_version_is_not_signed() {
    let mut story = Story::new(&RoomVersionId::V11);
    let invite = story.room.member(CHARLIE, BOB, "invite").unsent();
    let version = RoomVersionId::try_from("org.example.none").expect("a room version");
    let event = invite.canonical_json().as_bytes();
    let invite = Invite { room_version: &version, ..invite_to(&story, event, &[]) };
    let refusal = story.engine().handle_invite(S.try_into().expect("a name"), invite, &signer(&story, US), 0);
    assert_eq!(refusal.expect("the store works").unwrap_err(), InviteRefusal::UnknownRoomVersion(version));
}
