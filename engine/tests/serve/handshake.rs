//! Users of other servers who are let in and out by us.

use std::{collections::BTreeSet, sync::Arc};

use gibbous::{
    Config, Engine, JoinStatus, MemoryBackend, OwnedEventId, Pdu, RequestError, RequestKind, Response, RoomVersionId,
    SendJoin, StateKey, UserId,
    serve::{Admitted, Refusal, Served},
    testing::{ALICE, ALL_VERSIONS, BOB, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, RoomBuilder, S, S2, Story, US},
};
use serde_json::{Value, json};

use super::{FORBIDDEN, NOT_FOUND, given, refused, server, values};

fn user(id: &str) -> &UserId {
    id.try_into().expect("a user ID")
}

/// A room that we are in; the keys of the server that asks, and ours, are known here.
fn resident(version: &RoomVersionId) -> Story {
    let story = Story::new(version).join_full();
    know_keys(&story);
    story
}

fn know_keys(story: &Story) {
    for name in [US, S2] {
        let keys = story.room.keys().answer_of(server(name));
        let taken = story.engine().handle_server_keys(server(name), keys.as_bytes(), story.now_ms);
        taken.expect("the store works").expect("they are keys");
    }
}

/// Completes a template as the server that asked for it does.
fn signed(story: &Story, template: &Value) -> Pdu {
    story.room.sign(S2, &template["event"])
}

fn make_join(story: &Story) -> Served<gibbous::serve::Answer> {
    let version = story.room.rules().version().clone();
    story.engine().make_join(server(S2), story.room.id(), user(ELSIE), &[version], story.now_ms)
}

fn send_join(story: &Story, join: &Pdu, omit_members: bool) -> Served<Admitted> {
    let signer = story.room.keys().signer_of(server(US));
    let event = join.canonical_json().as_bytes();
    story.engine().send_join(server(S2), story.room.id(), event, omit_members, &signer, story.now_ms)
}

#[track_caller]
fn admitted(served: Served<Admitted>) -> (Admitted, Value) {
    let admitted = served.expect("the store works").expect("it is not refused");
    let body = admitted.answer.to_bytes().expect("every event can be read");
    (admitted, serde_json::from_slice(&body).expect("a body is JSON"))
}

/// Joins a room by the answer of a resident engine, and asks that for all that is missing.
fn join_through(story: &Story, join: &Pdu, answer: &Value, asked_partial: bool) -> Engine {
    let joiner = Engine::open(Arc::new(MemoryBackend::new()), Config::new(server(S2).to_owned()), story.now_ms)
        .expect("memory can be opened");
    let ticket = joiner.begin_join(
        SendJoin {
            room_id: story.room.id(),
            room_version: story.room.rules().version(),
            via: server(US),
            event: join.canonical_json().as_bytes(),
            response: answer.to_string().as_bytes(),
            asked_partial,
        },
        story.now_ms,
    );
    let ticket = ticket.expect("the store works");
    for _ in 0..1_000 {
        let Some(request) = joiner.poll_request(story.now_ms).expect("the store works") else { break };
        let response = match &request.kind {
            RequestKind::ServerKeys { server } => Response::Body(story.room.keys().answer_of(server).into_bytes()),
            kind if request.destination == US => asked(story, kind),
            _ => Response::Failed(RequestError::Timeout),
        };
        joiner.handle_response(request.id, response, story.now_ms).expect("the store works");
    }
    let joined = JoinStatus::Joined { event_id: join.event_id().to_owned(), partial: asked_partial };
    assert_eq!(joiner.join_status(ticket), joined);
    joiner
}

/// Has the resident engine answer.
fn asked(story: &Story, kind: &RequestKind) -> Response {
    let (engine, room_id, from) = (story.engine(), story.room.id(), server(S2));
    let answer = match kind {
        RequestKind::StateIds { event_id } => engine.serve_state_ids(from, room_id, event_id),
        RequestKind::State { event_id } => engine.serve_state(from, room_id, event_id),
        RequestKind::EventAuth { event_id } => engine.serve_event_auth(from, room_id, event_id),
        RequestKind::Events { event_ids } => {
            let event = |event_id: &OwnedEventId| match engine.serve_event(from, event_id, 0).expect("the store works")
            {
                Ok(answer) => {
                    let body: Value =
                        serde_json::from_slice(&answer.to_bytes().expect("it can be read")).expect("JSON");
                    (event_id.clone(), Ok(body["pdus"][0].to_string().into_bytes()))
                }
                Err(refusal) => (event_id.clone(), Err(status(&refusal))),
            };
            return Response::Events(event_ids.iter().map(event).collect());
        }
        other => panic!("{other:?} is not asked after a join"),
    };
    match answer.expect("the store works") {
        Ok(answer) => Response::Body(answer.to_bytes().expect("every event can be read")),
        Err(refusal) => Response::Failed(status(&refusal)),
    }
}

fn status(refusal: &Refusal) -> RequestError {
    RequestError::Status { status: refusal.status(), errcode: refusal.errcode().to_owned() }
}

#[test]
fn a_user_of_another_server_joins_through_us_in_every_room_version() {
    for version in &ALL_VERSIONS {
        for omit_members in [false, true] {
            let story = resident(version);
            let before = story.view().current_state().expect("the store works");
            let template = given(make_join(&story));
            assert_eq!(template["room_version"], version.as_str());
            let join = signed(&story, &template);
            let (admitted, answer) = admitted(send_join(&story, &join, omit_members));
            assert_eq!(answer["event"], serde_json::from_str::<Value>(admitted.pdu.canonical_json()).expect("JSON"));
            assert_eq!(answer["members_omitted"], omit_members);
            assert_eq!(answer["servers_in_room"], json!([S, US]));
            assert_eq!(admitted.relay_to, BTreeSet::from([server(S).to_owned()]));
            assert!(!admitted.concurrent_extremities);
            let key = StateKey::new("m.room.member", ELSIE);
            let ours = story.view().current_state().expect("the store works");
            assert_eq!(ours.get(&key), Some(&join.event_id().to_owned()));

            let joiner = join_through(&story, &join, &answer, omit_members);
            let theirs = joiner.room(story.room.id()).expect("the store works").expect("it has joined");
            assert!(!theirs.is_partial(), "version {version}");
            assert_eq!(theirs.state_before(join.event_id()).expect("the store works"), Some(before));
            assert_eq!(theirs.current_state_id(), story.view().current_state_id(), "version {version}");
        }
    }
}

#[test]
fn send_join_partial_state_response() {
    // Complement's TestSendJoinPartialStateResponse: the room has no name, so its heroes are given.
    for version in &NEWEST_VERSIONS {
        let story = resident(version);
        let join = signed(&story, &given(make_join(&story)));
        let (_, answer) = admitted(send_join(&story, &join, true));
        let expected =
            [&story.create, &story.power_levels, &story.join_rules, &story.charlie, &story.derek, &story.join];
        assert_eq!(sorted(&answer["state"]), sorted(&values(&story, expected).into()));
        assert_eq!(answer["auth_chain"], json!([]));
    }
}

#[test]
fn the_members_of_a_named_room_are_left_out_and_their_chains_with_them() {
    for version in &NEWEST_VERSIONS {
        let mut story = resident(version);
        let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "A room" })).send();
        // Elsie was here before.
        let elsie = story.room.join(ELSIE).send();
        let left = story.room.leave(ELSIE).send();
        story.receive(S, &[&name, &elsie, &left]);
        let join = signed(&story, &given(make_join(&story)));
        let (_, answer) = admitted(send_join(&story, &join, true));
        let expected = [&story.create, &story.power_levels, &story.join_rules, &name, &left];
        assert_eq!(sorted(&answer["state"]), sorted(&values(&story, expected).into()));
        // The chain of charlie's events has his membership, that of elsie's leave her join.
        assert_eq!(sorted(&answer["auth_chain"]), sorted(&values(&story, [&story.charlie, &elsie]).into()));
    }
}

fn sorted(list: &Value) -> Vec<String> {
    let mut events: Vec<String> = list.as_array().expect("a list").iter().map(ToString::to_string).collect();
    events.sort();
    events
}

/// Returns an event that elsie's server makes by itself.
fn made_by_hand(story: &Story, membership: &str) -> Pdu {
    let mut event = story.room.value(&story.join);
    event["sender"] = ELSIE.into();
    event["state_key"] = ELSIE.into();
    event["content"] = json!({ "membership": membership });
    if let Some(event) = event.as_object_mut() {
        event.remove("event_id");
        event.remove("signatures");
    }
    story.room.sign(S2, &event)
}

#[test]
fn s27_s28_s30_s31_a_partial_room_lets_nobody_in() {
    for version in &NEWEST_VERSIONS {
        let story = Story::joined(version);
        know_keys(&story);
        let signer = story.room.keys().signer_of(server(US));
        let (engine, room_id, now_ms) = (story.engine(), story.room.id(), story.now_ms);
        let before = engine.stats().rows_written;
        let versions = [version.clone()];
        assert_eq!(refused(make_join(&story)), NOT_FOUND);
        assert_eq!(refused(engine.make_knock(server(S2), room_id, user(ELSIE), &versions, now_ms)), NOT_FOUND);
        for membership in ["join", "knock", "leave"] {
            let event = made_by_hand(&story, membership);
            let json = event.canonical_json().as_bytes();
            let served = match membership {
                "join" => engine.send_join(server(S2), room_id, json, true, &signer, now_ms),
                "knock" => engine.send_knock(server(S2), room_id, json, &signer, now_ms),
                _ => engine.send_leave(server(S2), room_id, json, &signer, now_ms),
            };
            assert_eq!(refused(served), NOT_FOUND);
            assert!(story.view().event(event.event_id()).expect("the store works").is_none(), "nothing is stored");
        }
        assert_eq!(engine.stats().rows_written, before);
    }
}

#[test]
fn a_join_that_is_not_allowed_is_refused_and_not_stored() {
    for version in &NEWEST_VERSIONS {
        let mut story = resident(version);
        let versions = [version.clone()];
        let engine = story.engine();
        let other = [RoomVersionId::V1];
        let incompatible = engine.make_join(server(S2), story.room.id(), user(ELSIE), &other, 0);
        assert_eq!(refused(incompatible), (400, "M_INCOMPATIBLE_ROOM_VERSION"));
        assert_eq!(refused(engine.make_join(server(S2), story.room.id(), user(DEREK), &versions, 0)), FORBIDDEN);
        let elsewhere = "!elsewhere:us.example".try_into().expect("a room ID");
        assert_eq!(refused(engine.make_join(server(S2), elsewhere, user(ELSIE), &versions, 0)), NOT_FOUND);
        // The template is that of a time when she was welcome.
        let join = signed(&story, &given(make_join(&story)));
        let ban = story.room.member(CHARLIE, ELSIE, "ban").send();
        story.receive(S, &[&ban]);
        assert_eq!(refused(make_join(&story)), FORBIDDEN);
        assert_eq!(refused(send_join(&story, &join, true)), FORBIDDEN);
        assert!(story.view().event(join.event_id()).expect("the store works").is_none());
    }
}

#[test]
fn what_is_sent_must_be_the_join_of_who_sends_it() {
    for version in &NEWEST_VERSIONS {
        let mut story = resident(version);
        let join = signed(&story, &given(make_join(&story)));
        let signer = story.room.keys().signer_of(server(US));
        let send = |story: &Story, origin: &str, event: &[u8]| {
            refused(story.engine().send_join(server(origin), story.room.id(), event, true, &signer, story.now_ms))
        };
        assert_eq!(send(&story, S2, b"{}"), (400, "M_BAD_JSON"));
        assert_eq!(send(&story, S, join.canonical_json().as_bytes()), FORBIDDEN);
        let leave = made_by_hand(&story, "leave");
        assert_eq!(send(&story, S2, leave.canonical_json().as_bytes()), (400, "M_INVALID_PARAM"));
        // What another server has signed is not hers.
        let mut forged: Value = serde_json::from_str(join.canonical_json()).expect("JSON");
        forged["signatures"] = json!({});
        forged["depth"] = 40.into();
        if let Some(event) = forged.as_object_mut() {
            event.remove("event_id");
        }
        let forged = story.room.sign(S, &forged);
        assert_eq!(send(&story, S2, forged.canonical_json().as_bytes()), FORBIDDEN);
        // It follows what nobody here knows.
        let mut unknown: Value = serde_json::from_str(join.canonical_json()).expect("JSON");
        unknown["prev_events"] = json!([format!("${}", "A".repeat(43))]);
        let unknown = story.room.sign(S2, &unknown);
        assert_eq!(send(&story, S2, unknown.canonical_json().as_bytes()), (400, "M_INVALID_PARAM"));
        assert_eq!(story.view().forward_extremities(), [story.join.clone()]);
        // The same join twice is one join.
        let (_, first) = admitted(send_join(&story, &join, true));
        let (_, again) = admitted(send_join(&story, &join, true));
        assert_eq!(first, again);
        story.run();
        assert_eq!(story.verdict(join.event_id()), "accepted");
    }
}

#[test]
fn without_the_keys_of_the_server_that_asks_the_host_is_told_to_get_them() {
    let story = Story::new(&RoomVersionId::V11).join_full();
    let join = signed(&story, &given(make_join(&story)));
    match send_join(&story, &join, true).expect("the store works") {
        Err(Refusal::MissingKeys(servers)) => assert_eq!(servers, BTreeSet::from([server(S2).to_owned()])),
        other => panic!("{other:?}"),
    }
    know_keys(&story);
    let (taken, _) = admitted(send_join(&story, &join, true));
    assert_eq!(taken.pdu.event_id(), join.event_id());
}

#[test]
fn an_invite_is_turned_down() {
    for version in &NEWEST_VERSIONS {
        let mut story = resident(version);
        let invite = story.room.member(CHARLIE, ELSIE, "invite").send();
        story.receive(S, &[&invite]);
        let signer = story.room.keys().signer_of(server(US));
        let (engine, room_id) = (story.engine(), story.room.id());
        let leave = signed(&story, &given(engine.make_leave(server(S2), room_id, user(ELSIE), story.now_ms)));
        let json = leave.canonical_json().as_bytes();
        let (taken, answer) = admitted(engine.send_leave(server(S2), room_id, json, &signer, story.now_ms));
        assert_eq!(answer, json!({}));
        assert_eq!(taken.relay_to, BTreeSet::from([server(S).to_owned()]));
        assert_eq!(story.verdict(leave.event_id()), "accepted");
    }
}

#[test]
fn who_knocks_is_told_of_the_room() {
    for version in &NEWEST_VERSIONS {
        let mut story = resident(version);
        let signer = story.room.keys().signer_of(server(US));
        let make_knock = |story: &Story| {
            let versions = [version.clone()];
            story.engine().make_knock(server(S2), story.room.id(), user(ELSIE), &versions, story.now_ms)
        };
        assert_eq!(refused(make_knock(&story)), FORBIDDEN);
        let rules = story.room.state(CHARLIE, "m.room.join_rules", "", json!({ "join_rule": "knock" })).send();
        story.receive(S, &[&rules]);
        let knock = signed(&story, &given(make_knock(&story)));
        let json = knock.canonical_json().as_bytes();
        let served = story.engine().send_knock(server(S2), story.room.id(), json, &signer, story.now_ms);
        let (_, answer) = admitted(served);
        let expected = values(&story, [&story.create, &rules]);
        assert_eq!(sorted(&answer["knock_room_state"]), sorted(&expected.into()));
        assert_eq!(story.verdict(knock.event_id()), "accepted");
        assert_eq!(refused(make_join(&story)), FORBIDDEN);
    }
}

#[test]
fn who_is_in_a_room_that_lets_in_joins_with_our_signature() {
    for version in &[RoomVersionId::V8, RoomVersionId::V10, RoomVersionId::V12] {
        // The room that lets in: elsie's own, which alice is in.
        let mut other = RoomBuilder::new(version, ELSIE);
        other.join(ELSIE).send();
        other.power_levels(&[]).send();
        other.state(ELSIE, "m.room.join_rules", "", json!({ "join_rule": "public" })).send();
        let alice = other.join(ALICE).send();

        let mut story = resident(version);
        let allow = json!([{ "type": "m.room_membership", "room_id": other.id() }]);
        let restricted = json!({ "join_rule": "restricted", "allow": allow });
        let rules = story.room.state(CHARLIE, "m.room.join_rules", "", restricted).send();
        story.receive(S, &[&rules]);
        // Nobody of ours is in that room yet.
        assert_eq!(refused(make_join(&story)), (400, "M_UNABLE_TO_AUTHORISE_JOIN"));
        let response = other.send_join(&alice, false).to_string();
        let joined = story.engine().begin_join(
            SendJoin {
                room_id: other.id(),
                room_version: version,
                via: server(S2),
                event: other.json(&alice).as_bytes(),
                response: response.as_bytes(),
                asked_partial: false,
            },
            story.now_ms,
        );
        let joined = joined.expect("the store works");
        story.run();
        assert!(matches!(story.engine().join_status(joined), JoinStatus::Joined { .. }));

        let template = given(make_join(&story));
        assert_eq!(template["event"]["content"]["join_authorised_via_users_server"], ALICE);
        let join = signed(&story, &template);
        let (taken, answer) = admitted(send_join(&story, &join, true));
        let signatures = answer["event"]["signatures"].as_object().expect("signatures");
        assert_eq!(signatures.keys().collect::<Vec<_>>(), [S2, US]);
        assert_eq!(story.verdict(join.event_id()), "accepted");
        join_through(&story, &taken.pdu, &answer, true);

        // Who is in none of the rooms is not let in.
        let bob = story.engine().make_join(server(US), story.room.id(), user(BOB), std::slice::from_ref(version), 0);
        assert_eq!(refused(bob), FORBIDDEN);
    }
}
