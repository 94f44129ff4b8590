//! Redactions act where events are shown and served, and nowhere else: they are judged again when a verdict changes, and
//! when what they redact comes later.

use gibbous::{
    Change, Limits, Lookup, MemoryBackend, OwnedEventId, RoomVersionId, ServerName, StateKey,
    testing::{ALICE, ALL_VERSIONS, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, RoomBuilder, S, S2, Storage, Story},
};
use serde_json::{Value, json};

/// Returns by which event another one is redacted; what is shown of it agrees.
#[track_caller]
fn redacted_by(story: &Story, event_id: &OwnedEventId) -> Option<OwnedEventId> {
    let (shown, by) = story.view().event_shown(event_id).expect("the store works").expect("it is stored");
    let whole = story.view().event(event_id).expect("the store works").expect("it is stored");
    assert_eq!(whole.pdu.canonical_json(), story.room.json(event_id), "the rules read it as it was");
    assert_eq!(shown.pdu.content().get() == "{}", by.is_some());
    assert_eq!(shown.stage, whole.stage);
    let mut told = None;
    for change in &story.changes {
        match change {
            Change::Redacted { event_id: of, by } if of == event_id => told = Some(by.clone()),
            Change::Unredacted { event_id: of } if of == event_id => told = None,
            _ => {}
        }
    }
    assert_eq!(told, by, "the host is told");
    by
}

fn server(name: &str) -> &ServerName {
    name.try_into().expect("a server name")
}

#[test]
fn a_redaction_applies_for_who_may_redact_and_for_the_same_server_alone() {
    for version in &ALL_VERSIONS {
        let mut story = Story::new(version).join_full();
        let elsie = story.room.join(ELSIE).send();
        let of_charlie = story.room.message(CHARLIE, "charlie's").send();
        let of_derek = story.room.message(DEREK, "derek's").send();
        let of_elsie = story.room.message(ELSIE, "elsie's").send();
        story.receive(S, &[&elsie, &of_charlie, &of_derek, &of_elsie]);
        // Elsie has no level for it; derek is of charlie's server; charlie has the level.
        let is_refused = version == &RoomVersionId::V1 || version == &RoomVersionId::V2;
        let mut by_elsie = story.room.redact(ELSIE, &of_charlie);
        if is_refused {
            by_elsie = by_elsie.without_effect();
        }
        let by_elsie = by_elsie.send();
        let by_derek = story.room.redact(DEREK, &of_charlie).send();
        story.receive(S2, &[&by_elsie]);
        assert_eq!(story.verdict(&by_elsie), if is_refused { "rejected" } else { "accepted" });
        assert_eq!(redacted_by(&story, &of_charlie), None);
        story.receive(S, &[&by_derek]);
        assert_eq!(redacted_by(&story, &of_charlie), Some(by_derek.clone()));
        let by_charlie = story.room.redact(CHARLIE, &of_elsie).send();
        let again = story.room.redact(CHARLIE, &of_charlie).send();
        story.receive(S, &[&by_charlie, &again]);
        assert_eq!(redacted_by(&story, &of_elsie), Some(by_charlie));
        assert_eq!(redacted_by(&story, &of_charlie), Some(by_derek.clone()), "the first that applied");
        assert_eq!(redacted_by(&story, &of_derek), None);
        story.restart();
        assert_eq!(redacted_by(&story, &of_charlie), Some(by_derek));
        story.assert_converged();
    }
}

#[test]
fn a_redaction_waits_for_what_it_redacts() {
    for version in &NEWEST_VERSIONS {
        for restarts in [false, true] {
            let mut story = Story::new(version).join_full();
            let join = story.join.clone();
            let hello = story.room.message(CHARLIE, "hello").without_effect().send();
            let elsie = story.room.join(ELSIE).send();
            // Neither follows the other; elsie's applies never.
            let by_elsie = story.room.redact(ELSIE, &hello).send();
            let by_derek = story.room.redact(DEREK, &hello).send();
            assert_eq!(story.room.pdu(&hello).prev_events(), [join]);
            story.receive(S, &[&elsie, &by_elsie, &by_derek]);
            assert!(story.view().event_shown(&hello).expect("the store works").is_none());
            if restarts {
                story.restart();
            }
            story.receive(S, &[&hello]);
            assert_eq!(redacted_by(&story, &hello), Some(by_derek));
        }
    }
}

#[test]
fn a_redaction_is_judged_again_when_it_flips() {
    // Derek has left, which partial state does not know: his redactions are rejected by the full state.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[], |room| drop(room.leave(DEREK).send()));
        let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
        let hello = story.room.message(CHARLIE, "hello").send();
        let bad = story.room.redact(DEREK, &hello).auth(&[&levels, &derek]).without_effect().send();
        let last = story.room.message(CHARLIE, "and on").send();
        story.receive(S, &[&hello, &bad, &last]);
        assert_eq!(redacted_by(&story, &hello), Some(bad.clone()));
        story.release();
        assert_eq!(story.verdict(&bad), "rejected");
        assert_eq!(redacted_by(&story, &hello), None);
    }
}

#[test]
fn a_redaction_that_soft_fails_does_not_apply_and_another_takes_its_place() {
    for version in &NEWEST_VERSIONS {
        for (is_full, has_other) in [(true, true), (false, true), (false, false)] {
            let story = Story::new(version);
            let mut story = if is_full { story.join_full() } else { story.join_held() };
            let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
            let charlie = story.charlie.clone();
            let hello = story.room.message(CHARLIE, "hello").send();
            let ban = story.room.member(CHARLIE, DEREK, "ban").auth(&[&levels, &charlie, &derek]).send();
            let late =
                story.room.redact(DEREK, &hello).after(&[&hello]).auth(&[&levels, &derek]).without_effect().send();
            story.receive(S, &[&hello, &ban, &late]);
            if is_full {
                assert_eq!(redacted_by(&story, &hello), None);
            } else {
                assert_eq!(redacted_by(&story, &hello), Some(late.clone()), "check 6 is still to come");
            }
            let by_charlie = has_other.then(|| story.room.redact(CHARLIE, &hello).after(&[&ban]).send());
            if let Some(by_charlie) = &by_charlie {
                story.receive(S, &[by_charlie]);
            }
            story.release();
            assert_eq!(story.verdict(&late), "soft_failed");
            assert_eq!(redacted_by(&story, &hello), by_charlie);
        }
    }
}

#[test]
fn what_is_redacted_is_served_redacted() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "secret" })).send();
        let hello = story.room.message(CHARLIE, "hello").send();
        let targets = [&name, &hello];
        let by = targets.map(|target| story.room.redact(CHARLIE, target).send());
        story.receive(S, &[&name, &hello, &by[0], &by[1]]);
        let (engine, room, s) = (story.engine(), story.room.id(), server(S));
        let check = |answer: gibbous::serve::Served<gibbous::serve::Answer>, field: &str, target: &OwnedEventId| {
            let body = answer.expect("the store works").expect("it is given").to_bytes().expect("it can be read");
            let body: Value = serde_json::from_slice(&body).expect("a body is JSON");
            let redacted = story.room.pdu(target).redacted(story.room.rules());
            let redacted: Value = serde_json::from_str(redacted.canonical_json()).expect("JSON");
            let given = body[field].as_array().expect("a list of events");
            assert!(given.contains(&redacted), "{field}: {body}");
            assert!(!given.contains(&story.room.value(target)), "{field}: {body}");
        };
        check(engine.serve_event(s, &hello, 0), "pdus", &hello);
        check(engine.serve_backfill(s, room, &[by[1].clone()], 10, 0), "pdus", &hello);
        check(engine.serve_state(s, room, &by[1]), "pdus", &name);
    }
}

#[test]
fn a_redaction_of_power_levels_changes_no_verdict() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let levels = story.power_levels.clone();
        let redaction = story.room.redact(CHARLIE, &levels).send();
        // An invite by anybody is allowed by the level `invite`, which redaction up to v10 takes away.
        let invite = story.room.member(DEREK, "@new:s2.example", "invite").send();
        let hello = story.room.message(ALICE, "hello").send();
        story.receive(S, &[&redaction, &invite]);
        story.submit(&hello);
        assert_eq!(story.verdict(&invite), "accepted");
        let (_, by) = story.view().event_shown(&levels).expect("the store works").expect("it is stored");
        assert_eq!(by, Some(redaction));
        story.assert_converged();
    }
}

#[test]
fn history_is_redacted_and_so_is_the_room_s_name() {
    let mut ids = None;
    let tell = |room: &mut RoomBuilder| {
        let secret = room.message(CHARLIE, "secret").send();
        let by = room.redact(CHARLIE, &secret).send();
        ids = Some((secret, by));
    };
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], tell, storage, Limits::default()).join_full();
    let (secret, by) = ids.expect("it was told");
    story.engine().backfill(story.room.id(), 100, story.now_ms).expect("the store works");
    story.run();
    let shown = |story: &Story, event_id| {
        let (event, by) = story.view().event_shown(event_id).expect("the store works").expect("it is known");
        (event.pdu.content().get().to_owned(), by)
    };
    assert_eq!(shown(&story, &secret), ("{}".to_owned(), Some(by)));
    let named = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "abuse" })).send();
    story.receive(S, &[&named]);
    let name = |story: &Story| story.view().summary(None).expect("the store works").name;
    assert_eq!(name(&story), Some("abuse".to_owned()));
    let by = story.room.redact(CHARLIE, &named).send();
    story.receive(S, &[&by]);
    assert_eq!((shown(&story, &named), name(&story)), (("{}".to_owned(), Some(by)), None));
}

#[test]
fn state_is_shown_redacted_and_read_whole() {
    let key = StateKey::new("m.room.name", "");
    for version in &NEWEST_VERSIONS {
        for is_partial in [false, true] {
            let story = Story::new(version);
            let mut story = if is_partial { story.join_held() } else { story.join_full() };
            let name = |story: &Story| story.view().summary(None).expect("the store works").name;
            let shown = |story: &Story| story.view().state_event_shown(&key).expect("the store works");
            assert_eq!(shown(&story), Lookup::Absent);
            let named = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "abuse" })).send();
            story.receive(S, &[&named]);
            let whole = Lookup::Present(story.room.pdu(&named).clone());
            assert_eq!((shown(&story), name(&story)), (whole.clone(), Some("abuse".to_owned())));
            let by = story.room.redact(CHARLIE, &named).send();
            story.receive(S, &[&by]);
            let redacted = story.room.pdu(&named).redacted(story.room.rules());
            assert_eq!(redacted.content().get(), "{}");
            assert_eq!((shown(&story), name(&story)), (Lookup::Present(redacted), None));
            assert_eq!(story.view().state_event(&key).expect("the store works"), whole, "the rules read it as it was");
        }
    }
}

#[test]
fn what_is_unknown_of_a_partial_state_is_not_shown_either() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let check = |story: &Story, user: &str| {
            let key = StateKey::new("m.room.member", user);
            let shown = story.view().state_event_shown(&key).expect("the store works");
            assert_eq!(shown, story.view().state_event(&key).expect("the store works"));
            shown
        };
        assert!(matches!(check(&story, DEREK), Lookup::Unknown(_)));
        let alice = story.room.pdu(&story.join).clone();
        assert_eq!(check(&story, ALICE), Lookup::Present(alice));
        story.release();
        let derek = story.room.pdu(&story.derek).clone();
        assert_eq!(check(&story, DEREK), Lookup::Present(derek));
        assert_eq!(check(&story, ELSIE), Lookup::Absent);
    }
}
