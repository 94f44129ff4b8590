//! How our users join: by an event of ours, or by a handshake, and then with whom and what is asked for.

use gibbous::{
    CreateRefusal, JoinError, JoinRoute, JoinStatus, Rejection, RoomVersionId,
    gibbous_codec::Rule,
    testing::{ALICE, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, S2, Story},
};
use serde_json::json;

use super::{member, membership, message, said, servers};

fn route(story: &Story, user: &str) -> JoinRoute {
    let user = user.try_into().expect("a user ID");
    story.engine().how_to_join(story.room.id(), user).expect("the store works")
}

fn by_handshake(candidates: &[&str], omit_members: bool) -> JoinRoute {
    let candidates = candidates.iter().map(|server| (*server).try_into().expect("a name")).collect();
    JoinRoute::Handshake { candidates, omit_members }
}

#[test]
fn a_room_that_is_not_known_is_joined_by_a_handshake_without_its_members() {
    let story = Story::new(&RoomVersionId::V11);
    assert_eq!(route(&story, ALICE), by_handshake(&[], true));
}

#[test]
fn while_the_room_is_partial_only_who_is_in_it_joins_again_by_himself() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[], |room| drop(room.join(ELSIE).send()));
        assert_eq!(route(&story, ALICE), JoinRoute::Local);
        assert_eq!(route(&story, BOB), by_handshake(&[S, S2], true));
        story.release();
        assert_eq!(route(&story, BOB), JoinRoute::Local);
    }
}

#[test]
fn in_a_full_room_a_second_user_joins_by_an_event_of_ours() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let created = membership(&mut story, BOB, BOB, "join").expect("the room is public");
        assert_eq!((servers(&created), created.destinations.is_exact), (vec![S], true));
        let created = message(&mut story, BOB, "hello").expect("bob is in the room");
        // He is known to be ours, also after a restart and when alice has left.
        drop(membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave"));
        story.restart();
        let theirs = story.room.message(CHARLIE, "hello bob").send();
        story.receive(S, &[&theirs]);
        assert_eq!(story.verdict(&theirs), "accepted");
        assert_eq!(story.verdict(created.pdu.event_id()), "accepted");
        story.assert_converged();
    }
}

#[test]
fn when_the_last_of_us_has_left_a_full_room_it_is_joined_anew() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        drop(membership(&mut story, ALICE, ALICE, "leave").expect("alice may leave"));
        assert_eq!(route(&story, ALICE), by_handshake(&[S], true));
        story.hold_resync();
        let join = story.room.join(ALICE).send();
        assert_eq!(story.join_partially(&join, S), JoinStatus::Joined { event_id: join.clone(), partial: false });
        said(&mut story, "back");
    }
}

#[test]
fn who_is_refused_is_told_why_without_asking_anybody() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let ban = story.room.member(CHARLIE, BOB, "ban").send();
        story.receive(S, &[&ban]);
        assert_eq!(route(&story, BOB), JoinRoute::Local);
        match membership(&mut story, BOB, BOB, "join").unwrap_err() {
            CreateRefusal::Rejected { rejection: Rejection { rule, source, .. }, because_partial, .. } => {
                assert_eq!((rule, source, because_partial), (Rule::JoinBanned, Some(ban), false));
            }
            other => panic!("expected a rule, found {other:?}"),
        }
    }
}

#[test]
fn a_restricted_room_is_joined_by_who_may_invite_or_by_a_handshake() {
    for version in [RoomVersionId::V8, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        for alice_may_invite in [true, false] {
            let mut story = Story::new(&version).join_full();
            let allow = json!([{ "type": "m.room_membership", "room_id": "!other:s.example" }]);
            let rules = json!({ "join_rule": "restricted", "allow": allow });
            let rules = story.room.state(CHARLIE, "m.room.join_rules", "", rules).send();
            let mut levels = json!({ "invite": if alice_may_invite { 0 } else { 50 }, "state_default": 50 });
            if version != RoomVersionId::V12 {
                levels["users"] = json!({ CHARLIE: 100 });
            }
            let levels = story.room.state(CHARLIE, "m.room.power_levels", "", levels).send();
            story.receive(S, &[&rules, &levels]);
            // Who is in the room changes her name without anybody's word.
            assert_eq!(route(&story, ALICE), JoinRoute::Local);
            let mut content = json!({ "membership": "join" });
            if !alice_may_invite {
                assert_eq!(route(&story, BOB), by_handshake(&[S], false));
                let refusal = story.create(BOB, "m.room.member", Some(BOB), content.clone()).unwrap_err();
                assert!(matches!(refusal, CreateRefusal::NeedsHandshake { omit_members: false, .. }), "{refusal:?}");
                // Another server's user may authorise it, but then that server signs.
                content["join_authorised_via_users_server"] = json!(CHARLIE);
                let refusal = story.create(BOB, "m.room.member", Some(BOB), content).unwrap_err();
                let candidates = vec![S.try_into().expect("a name")];
                assert_eq!(refusal, CreateRefusal::NeedsHandshake { candidates, omit_members: false });
                continue;
            }
            assert_eq!(route(&story, BOB), JoinRoute::Authorised { by: vec![ALICE.try_into().expect("a user ID")] });
            let refusal = story.create(BOB, "m.room.member", Some(BOB), content.clone()).unwrap_err();
            assert!(
                matches!(&refusal, CreateRefusal::Rejected { rejection, .. } if rejection.rule == Rule::JoinNotAuthorised),
                "{refusal:?}"
            );
            content["join_authorised_via_users_server"] = json!(ALICE);
            let created = story.create(BOB, "m.room.member", Some(BOB), content).expect("alice lets him in");
            assert!(created.pdu.auth_events().contains(&story.join));
            story.assert_converged();
        }
    }
}

#[test]
fn a_partial_response_for_a_room_that_is_full_is_refused_and_nothing_is_lost() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let hello = said(&mut story, "hello");
        // What bob's join follows has not come here yet.
        story.room.message(DEREK, "unseen").send();
        let bob = story.room.join(BOB).send();
        let was = (story.view().forward_extremities(), story.view().current_state().expect("the store works"));
        let status = story.join_partially(&bob, S);
        assert_eq!(status, JoinStatus::Failed(JoinError::PartialInFullRoom));
        let is = (story.view().forward_extremities(), story.view().current_state().expect("the store works"));
        assert_eq!(is, was);
        assert!(!story.view().is_partial());
        assert_eq!((story.verdict(&bob), story.verdict(&hello)), ("absent".into(), "accepted".into()));
        story.restart();
        assert!(!story.view().is_partial());
        // With all members it is as welcome as any.
        assert_eq!(story.join_fully(&bob, S), JoinStatus::Joined { event_id: bob.clone(), partial: false });
        let current = story.view().current_state().expect("the store works");
        assert_eq!((&current[&member(ALICE)], &current[&member(BOB)]), (&story.join, &bob));
    }
}

#[test]
fn a_partial_response_whose_join_follows_what_is_known_leaves_a_full_room_full() {
    // The room became full while the response was on its way.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let bob = story.room.join(BOB).send();
        assert_eq!(story.join_partially(&bob, S), JoinStatus::Joined { event_id: bob.clone(), partial: false });
        assert!(!story.view().is_partial());
        story.assert_converged();
    }
}
