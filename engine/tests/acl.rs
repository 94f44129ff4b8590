//! Server ACLs: who is shut out has nothing taken from it, and is answered nothing.

use gibbous::{
    Failure, FailureCode, Invite, InviteRefusal, OwnedEventId, RoomVersionId, ServerName,
    serve::{MissingEvents, Refusal, Served},
    testing::{ALICE, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, S2, Story, US},
};
use serde_json::{Value, json};

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

/// A room with elsie of the second server, and then this ACL.
fn with_acl(version: &RoomVersionId, is_full: bool, acl: &Value) -> (Story, OwnedEventId) {
    let story = Story::new(version);
    let mut story = if is_full { story.join_full() } else { story.join_held() };
    let elsie = story.room.join(ELSIE).send();
    let acl = story.room.state(CHARLIE, "m.room.server_acl", "", acl.clone()).send();
    story.receive(S, &[&elsie, &acl]);
    (story, acl)
}

fn deny_s2() -> Value {
    json!({ "allow": ["*"], "deny": [S2] })
}

#[track_caller]
fn shut_out<T: std::fmt::Debug>(served: Served<T>) {
    let refusal = served.expect("the store works").expect_err("it is refused");
    assert_eq!((refusal.status(), refusal.errcode()), (403, "M_FORBIDDEN"));
    assert!(matches!(&refusal, Refusal::Forbidden(why) if why.contains("ACL")), "{refusal}");
}

#[test]
fn pdus_from_a_server_that_is_shut_out_are_refused_and_from_others_taken() {
    for version in &NEWEST_VERSIONS {
        for is_full in [true, false] {
            let (mut story, acl) = with_acl(version, is_full, &deny_s2());
            assert!(!story.view().server_allowed(server(S2)).unwrap(), "never unknown");
            let from_s2 = story.room.message(ELSIE, "hello").send();
            let receipts = story.receive(S2, &[&from_s2]);
            let expected = Failure::new(FailureCode::ServerAcl).of_event(&from_s2);
            assert_eq!(receipts[0].failure(), Some(expected));
            assert!(story.view().event(&from_s2).unwrap().is_none());
            // The ACL is about who sends, not about whose event it is.
            let from_s = story.room.message(CHARLIE, "hello").after(&[&acl]).send();
            assert_eq!(story.receive(S, &[&from_s2, &from_s]).iter().filter(|it| it.failure().is_some()).count(), 0);
            let ours = story.room.message(ALICE, "hello").send();
            story.submit(&ours);
            assert!(story.verdict(&ours).starts_with("accepted"));
        }
    }
}

#[test]
fn an_acl_that_shuts_out_everybody_shuts_us_not_out() {
    let (mut story, _) = with_acl(&RoomVersionId::V11, true, &json!({}));
    let hello = story.room.message(DEREK, "hello").send();
    let receipts = story.receive(S, &[&hello]);
    assert_eq!(receipts[0].failure().map(|failure| failure.code), Some(FailureCode::ServerAcl));
    let _ = story.create(ALICE, "m.room.message", None, json!({ "body": "alone" })).expect("alice is in the room");
}

#[test]
fn a_server_is_let_in_again_by_the_next_acl() {
    let (mut story, _) = with_acl(&RoomVersionId::V11, true, &deny_s2());
    let open = story.room.state(CHARLIE, "m.room.server_acl", "", json!({ "allow": ["*"] })).send();
    let hello = story.room.message(ELSIE, "hello").send();
    story.receive(S, &[&open]);
    assert_eq!(story.receive(S2, &[&hello])[0].failure(), None);
}

#[test]
fn who_is_shut_out_is_answered_nothing() {
    for version in &NEWEST_VERSIONS {
        let (story, acl) = with_acl(version, true, &deny_s2());
        let (engine, room, s2) = (story.engine(), story.room.id(), server(S2));
        shut_out(engine.serve_state_ids(s2, room, &acl));
        shut_out(engine.serve_state(s2, room, &acl));
        shut_out(engine.serve_event_auth(s2, room, &acl));
        shut_out(engine.serve_event(s2, &acl, 0));
        shut_out(engine.serve_backfill(s2, room, std::slice::from_ref(&acl), 10, 0));
        let missing =
            MissingEvents { earliest_events: Vec::new(), latest_events: vec![acl.clone()], limit: 10, min_depth: 0 };
        shut_out(engine.serve_missing_events(s2, room, &missing));
        let user = "@new:s2.example".try_into().expect("a user ID");
        shut_out(engine.make_join(s2, room, user, std::slice::from_ref(version), 0));
        shut_out(engine.make_leave(s2, room, user, 0));
        shut_out(engine.make_knock(s2, room, user, std::slice::from_ref(version), 0));
        let signer = story.room.keys().signer_of(server(US));
        let join = format!(r#"{{"sender":"{user}"}}"#);
        shut_out(engine.send_join(s2, room, join.as_bytes(), false, &signer, 0));
        shut_out(engine.send_leave(s2, room, join.as_bytes(), &signer, 0));
        shut_out(engine.send_knock(s2, room, join.as_bytes(), &signer, 0));
        // Another server in the room is.
        assert!(engine.serve_state_ids(server(S), room, &acl).unwrap().is_ok());
    }
}

#[test]
fn an_invite_from_who_is_shut_out_is_not_signed() {
    let (mut story, _) = with_acl(&RoomVersionId::V11, true, &deny_s2());
    let invite = story.room.member(ELSIE, BOB, "invite").unsent();
    let signer = story.room.keys().signer_of(server(US));
    let invite = Invite {
        room_id: story.room.id(),
        room_version: story.room.rules().version(),
        event: invite.canonical_json().as_bytes(),
        stripped_state: &[],
    };
    let refusal = story.engine().handle_invite(server(S2), invite, &signer, 0).unwrap().unwrap_err();
    assert_eq!(refusal, InviteRefusal::ShutOut(server(S2).to_owned()));
}

#[test]
fn a_server_acl_that_came_spoilt_does_not_shut_out_everybody_for_good() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let acl = json!({ "allow": ["*"], "deny": ["evil.example"] });
        let acl = story.room.state(CHARLIE, "m.room.server_acl", "", acl).send();
        let mut spoilt = story.room.value(&acl);
        spoilt["content"]["deny"] = json!([]);
        assert!(story.receipt_of_bytes(S2, spoilt.to_string().as_bytes()).is_redacted);
        // The whole copy, from who made it; then at least by the host's own hand.
        story.receive(S, &[&acl]);
        story.submit(&acl);
        let is_allowed = story.view().server_allowed(S.try_into().expect("a server name")).expect("it works");
        assert!(is_allowed, "version {version}");
    }
}
