//! What is not created, why, and that nothing is stored of it.

use gibbous::{
    Check, CreateRefusal, EventDraft, EventStatus, Rejection, RoomVersionId,
    gibbous_codec::{FormatError, Rule},
    testing::{ALICE, Asked, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, Story},
};
use serde_json::{Value, json, value::to_raw_value};

use super::{member, membership, message, said};

/// Asserts that an event is refused, and that not a row has been written for it.
#[track_caller]
fn check_refused(
    story: &mut Story,
    sender: &str,
    event_type: &str,
    state_key: Option<&str>,
    content: Value,
) -> CreateRefusal {
    let was = (story.written(), story.view().forward_extremities(), story.view().current_state_id());
    let is_partial = story.view().is_partial();
    let refusal = match story.create(sender, event_type, state_key, content) {
        Err(refusal) => refusal,
        Ok(created) => panic!("expected a refusal, created {}", created.pdu.canonical_json()),
    };
    let is = (story.written(), story.view().forward_extremities(), story.view().current_state_id());
    assert_eq!(is, was, "{refusal}");
    assert_eq!(story.view().is_partial(), is_partial);
    refusal
}

#[track_caller]
fn rule_of(refusal: &CreateRefusal) -> (Check, Rule, bool) {
    match refusal {
        CreateRefusal::Rejected { rejection: Rejection { check, rule, .. }, because_partial, unknown } => {
            assert_eq!(*because_partial, !unknown.is_empty());
            (*check, *rule, *because_partial)
        }
        other => panic!("expected a rule, found {other:?}"),
    }
}

#[test]
fn a_refusal_says_whether_partial_state_is_to_blame() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let leave = json!({ "membership": "leave" });
        // Derek's membership has been left out of the response.
        let kick = check_refused(&mut story, ALICE, "m.room.member", Some(DEREK), leave.clone());
        assert_eq!(rule_of(&kick), (Check::AuthEvents, Rule::KickLevel, true));
        let CreateRefusal::Rejected { unknown, .. } = kick else { panic!("it was one just now") };
        assert_eq!(unknown, [member(DEREK)]);
        // Levels and our own memberships are never left out.
        let topic = check_refused(&mut story, ALICE, "m.room.topic", Some(""), json!({ "topic": "t" }));
        assert_eq!(rule_of(&topic), (Check::AuthEvents, Rule::RequiredLevel, false));
        let unban = check_refused(&mut story, ALICE, "m.room.member", Some(BOB), leave.clone());
        assert!(!rule_of(&unban).2);
        story.release();
        let kick = check_refused(&mut story, ALICE, "m.room.member", Some(DEREK), leave);
        assert_eq!(rule_of(&kick), (Check::AuthEvents, Rule::KickLevel, false));
    }
}

#[test]
fn what_rests_on_the_unknown_says_so_and_the_host_is_told_when_it_was_wrong() {
    for version in &NEWEST_VERSIONS {
        // Elsie is banned, which alice cannot know.
        let mut story = Story::joined_with(version, &[(ALICE, 60)], |room| {
            room.join(ELSIE).send();
            room.member(CHARLIE, ELSIE, "ban").send();
        });
        let invite = membership(&mut story, ALICE, ELSIE, "invite").expect("as far as is known alice may");
        assert_eq!(invite.rests_on_unknown, [member(ELSIE)]);
        let kick = membership(&mut story, ALICE, DEREK, "leave").expect("alice may");
        assert_eq!(kick.rests_on_unknown, [member(DEREK)]);
        let topic = story.create(ALICE, "m.room.topic", Some(""), json!({ "topic": "t" })).expect("alice may");
        assert_eq!(topic.rests_on_unknown, []);
        story.release();
        let change = story.verdict_change(invite.pdu.event_id());
        assert!(matches!(change, Some((EventStatus::Accepted, EventStatus::Rejected(_)))), "{change:?}");
        assert_eq!(story.verdict(kick.pdu.event_id()), "accepted");
        assert_eq!(story.verdict(topic.pdu.event_id()), "accepted");
        story.assert_converged();
    }
}

#[test]
fn what_is_too_large_or_no_event_is_refused_for_its_format() {
    for is_full in [false, true] {
        let story = Story::new(&RoomVersionId::V11);
        let mut story = if is_full { story.join_full() } else { story.join_held() };
        let mut format_of = |event_type: &str, state_key: Option<&str>, content: Value| match check_refused(
            &mut story, ALICE, event_type, state_key, content,
        ) {
            CreateRefusal::Format(error) => error,
            other => panic!("expected a fault of the format, found {other:?}"),
        };
        let large = json!({ "body": "x".repeat(65_536) });
        assert!(matches!(format_of("m.room.message", None, large), FormatError::TooLarge { .. }));
        // It fits, but not with what is added to it.
        let close = json!({ "body": "x".repeat(65_536 - 400) });
        assert!(matches!(format_of("m.room.message", None, close), FormatError::TooLarge { .. }));
        assert!(matches!(format_of(&"t".repeat(256), None, json!({})), FormatError::TooLong { field: "type", .. }));
        let long = "k".repeat(256);
        assert!(matches!(format_of("t", Some(&long), json!({})), FormatError::TooLong { field: "state_key", .. }));
        assert!(matches!(format_of("t", None, json!([])), FormatError::Invalid { field: "content", .. }));
        assert!(matches!(format_of("t", None, json!({ "ratio": 0.5 })), FormatError::Number(_)));
        said(&mut story, "x");
    }
    // Room versions 1 to 5 have fractions.
    let mut story = Story::new(&RoomVersionId::V5).join_full();
    let created = story.create(ALICE, "t", None, json!({ "ratio": 0.5 })).expect("alice may");
    assert_eq!(created.pdu.content().get(), r#"{"ratio":0.5}"#);
}

#[test]
fn users_and_signers_of_other_servers_are_not_ours() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let refusal = check_refused(&mut story, DEREK, "m.room.message", None, json!({}));
    assert_eq!(refusal, CreateRefusal::NotOurs(DEREK.try_into().expect("a user ID")));
    let theirs = story.room.keys().signer_of(S.try_into().expect("a name"));
    let draft = EventDraft {
        sender: ALICE.try_into().expect("a user ID"),
        event_type: "m.room.message",
        state_key: None,
        content: &to_raw_value(&json!({})).expect("JSON"),
        redacts: None,
        origin_server_ts: 1,
    };
    let refusal = story.engine().create(story.room.id(), &draft, &theirs, story.now_ms).expect("the store works");
    assert_eq!(refusal.unwrap_err(), CreateRefusal::NotOurSigner(S.try_into().expect("a name")));
}

#[test]
fn who_is_not_in_the_room_may_not_speak() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        // Alice is in it, bob is not.
        let refusal = check_refused(&mut story, BOB, "m.room.message", None, json!({ "body": "hello" }));
        assert_eq!(rule_of(&refusal), (Check::AuthEvents, Rule::SenderNotJoined, false));
        let create = check_refused(&mut story, ALICE, "m.room.create", Some(""), json!({ "room_version": version }));
        assert!(matches!(create, CreateRefusal::Rejected { .. }), "{create:?}");
    }
}

#[test]
fn a_fork_that_a_refused_event_had_resolved_is_resolved_again_by_the_next() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let join = story.join.clone();
        let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "t" })).after(&[&join]).send();
        let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "n" })).after(&[&join]).send();
        let transaction = [&topic, &name];
        story.hand(S, &transaction);
        // Nobody has looked at the room since: its state is resolved for what is refused.
        let rows = story.engine().stats().rows_written;
        let refusal = story.create(ALICE, "m.room.topic", Some(""), json!({ "topic": "u" })).unwrap_err();
        assert!(matches!(refusal, CreateRefusal::Rejected { .. }));
        assert_eq!(story.engine().stats().rows_written, rows);
        let hello = said(&mut story, "hello");
        let before = story.state_before(&hello);
        assert_eq!((&before[&topic_key("m.room.topic")], &before[&topic_key("m.room.name")]), (&topic, &name));
    }
}

fn topic_key(event_type: &str) -> gibbous::StateKey {
    gibbous::StateKey::new(event_type, "")
}

#[test]
fn an_event_follows_the_twenty_latest_extremities_and_must_be_allowed_by_all_of_them() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let join = story.join.clone();
        let mut forks = Vec::new();
        for number in 0..25 {
            forks.push(story.room.message(DEREK, &number.to_string()).after(&[&join]).send());
        }
        story.receive(S, &forks.iter().collect::<Vec<_>>());
        let created = message(&mut story, ALICE, "so many?").expect("alice may speak");
        assert_eq!(created.pdu.prev_events(), &forks[5..]);
        let mut left: Vec<_> = forks[..5].iter().collect();
        let said = created.pdu.event_id().to_owned();
        left.push(&said);
        story.assert_extremities(&left);

        // Only the earliest branch says that alice may not speak any more.
        let mut story = Story::new(version).join_full();
        let mut content = json!({ "users_default": 0, "events_default": 50, "state_default": 50 });
        if *version != RoomVersionId::V12 {
            content["users"] = json!({ CHARLIE: 100 });
        }
        let levels = story.room.state(CHARLIE, "m.room.power_levels", "", content).send();
        let mut forks = vec![levels];
        let [join, old_levels, charlie] = [story.join.clone(), story.power_levels.clone(), story.charlie.clone()];
        for number in 0..20 {
            let draft = story.room.message(CHARLIE, &number.to_string()).after(&[&join]);
            forks.push(draft.auth(&[&old_levels, &charlie]).send());
        }
        story.receive(S, &forks.iter().collect::<Vec<_>>());
        assert_eq!(story.view().forward_extremities().len(), 21);
        let refusal = check_refused(&mut story, ALICE, "m.room.message", None, json!({ "body": "may I?" }));
        assert_eq!(rule_of(&refusal), (Check::CurrentState, Rule::RequiredLevel, false));
    }
}

#[test]
fn a_join_in_progress_does_not_hold_up_who_is_in_the_room() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let bob = story.room.join(BOB).send();
        story.servers.set_all(Asked::ServerKeys, gibbous::testing::Reply::Held);
        // The keys of a server that nobody has heard of yet.
        let mut response = story.room.send_join(&bob, true);
        let junk = json!({ "type": "t", "sender": "@x:new.example", "room_id": story.room.id(), "content": {},
            "depth": 9, "origin_server_ts": 1, "prev_events": [], "auth_events": [] });
        let junk = story.room.sign("new.example", &junk);
        response["auth_chain"]
            .as_array_mut()
            .expect("a list")
            .push(serde_json::from_str(junk.canonical_json()).expect("JSON"));
        let ticket = story.begin_join(&bob, S, &response, true);
        assert_eq!(story.engine().join_status(ticket), gibbous::JoinStatus::Checking);
        let hello = said(&mut story, "hello");
        assert_eq!(story.verdict(&hello), "accepted, partial");
        story.release();
        let status = story.engine().join_status(ticket);
        assert!(matches!(status, gibbous::JoinStatus::Joined { .. }), "{status:?}");
        story.assert_extremities(&[&bob, &hello]);
        assert!(!story.view().is_partial());
    }
}
