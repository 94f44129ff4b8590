//! Events that came with a wrong content hash are kept redacted (check 3) until a whole copy of them comes.

use gibbous::{
    Change, Limits, MemoryBackend, Outcome, OwnedEventId, RoomVersionId, ServerName,
    testing::{ALL_VERSIONS, Asked, CHARLIE, ELSIE, NEWEST_VERSIONS, Reply, S, S2, Storage, Story},
};
use serde_json::{Value, json};

/// Hands over an event whose content has been changed on its way.
fn receive_changed(story: &mut Story, event_id: &OwnedEventId) {
    let mut json = story.room.value(event_id);
    json["content"]["body"] = json!("changed");
    json["redacts"] = json!("$another:s.example");
    let receipt = story.receipt_of_bytes(S, json.to_string().as_bytes());
    assert!(receipt.is_redacted, "{receipt:?}");
}

/// Returns an event as it is shown.
fn shown(story: &Story, event_id: &OwnedEventId) -> Value {
    let (shown, _) = story.view().event_shown(event_id).expect("the store works").expect("it is stored");
    serde_json::from_str(shown.pdu.canonical_json()).expect("an event is JSON")
}

fn redacted(story: &Story, event_id: &OwnedEventId) -> Value {
    let redacted = story.room.pdu(event_id).redacted(story.room.rules());
    serde_json::from_str(redacted.canonical_json()).expect("an event is JSON")
}

fn times_told(story: &Story, event_id: &OwnedEventId) -> usize {
    let change = Change::WholeCopy { event_id: event_id.clone() };
    story.changes.iter().filter(|told| **told == change).count()
}

#[test]
fn a_whole_copy_is_shown_and_served_once_it_comes() {
    for version in &ALL_VERSIONS {
        for is_partial in [false, true] {
            let story = Story::new(version);
            let mut story = if is_partial { story.join_held() } else { story.join_full() };
            let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": "moon" })).send();
            receive_changed(&mut story, &name);
            let named = |story: &Story| story.view().summary(None).expect("the store works").name;
            assert_eq!((shown(&story, &name), named(&story)), (redacted(&story, &name), None));

            let (verdict, current) = (story.verdict(&name), story.view().current_state_id());
            // A second time it changes nothing, nor does the redacted copy.
            for _ in 0..2 {
                story.receive(S2, &[&name]);
                receive_changed(&mut story, &name);
                assert_eq!((shown(&story, &name), named(&story)), (story.room.value(&name), Some("moon".to_owned())));
            }
            assert_eq!(times_told(&story, &name), 1);
            assert_eq!((story.verdict(&name), story.view().current_state_id()), (verdict, current));
            story.restart();
            assert_eq!(shown(&story, &name), story.room.value(&name));

            story.release();
            let s: &ServerName = S.try_into().expect("a server name");
            let served =
                story.engine().serve_event(s, &name, story.now_ms).expect("the store works").expect("it is given");
            let body: Value = serde_json::from_slice(&served.to_bytes().expect("it can be read")).expect("JSON");
            assert_eq!(body["pdus"][0], story.room.value(&name));
            let by = story.room.redact(CHARLIE, &name).send();
            story.receive(S, &[&by]);
            assert_eq!((shown(&story, &name), named(&story)), (redacted(&story, &name), None));
        }
    }
}

#[test]
fn a_redaction_that_comes_whole_redacts() {
    for version in &ALL_VERSIONS {
        let mut story = Story::new(version).join_full();
        let hello = story.room.message(CHARLIE, "hello").send();
        let by = story.room.redact(CHARLIE, &hello).send();
        story.receive(S, &[&hello]);
        receive_changed(&mut story, &by);
        assert_eq!(story.verdict(&by), "accepted");
        // From version 11 on a redacted redaction names still what it redacts.
        let names_it = redacted(&story, &by)["content"]["redacts"] == json!(hello);
        let is_redacted = |story: &Story| shown(story, &hello)["content"] == json!({});
        assert_eq!(is_redacted(&story), names_it, "{version}");
        story.restart();
        story.receive(S, &[&by]);
        assert!(is_redacted(&story), "{version}");
        story.restart();
        assert!(is_redacted(&story), "{version}");
    }
}

#[test]
fn a_copy_in_a_gap_is_taken() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let first = story.room.message(CHARLIE, "first").send();
        let hello = story.room.message(CHARLIE, "hello").send();
        let last = story.room.message(CHARLIE, "last").send();
        // The gap before the last is asked for; its answer has the one that is there, too.
        story.servers.set_all(Asked::MissingEvents, Reply::Held);
        story.receive(S, &[&last]);
        receive_changed(&mut story, &hello);
        assert_eq!(shown(&story, &hello), redacted(&story, &hello));
        story.release();
        assert_eq!((story.verdict(&first), story.verdict(&last)), ("accepted".to_owned(), "accepted".to_owned()));
        assert_eq!(shown(&story, &hello), story.room.value(&hello));
    }
}

#[test]
fn another_event_of_the_same_id_is_no_copy() {
    // In versions 1 and 2 whoever makes an event gives it its ID.
    for version in [RoomVersionId::V1, RoomVersionId::V2] {
        let mut story = Story::new(&version).join_full();
        let elsie = story.room.join(ELSIE).send();
        let hello = story.room.message(CHARLIE, "hello").send();
        story.receive(S, &[&elsie]);
        receive_changed(&mut story, &hello);
        let mut other = story.room.value(&hello);
        other["content"]["body"] = json!("something else");
        let other = story.room.sign(S, &other);
        assert_eq!(other.event_id(), hello);
        story.receive_bytes(S, other.canonical_json().as_bytes());
        assert_eq!(shown(&story, &hello), redacted(&story, &hello));
        assert_eq!(times_told(&story, &hello), 0);
        story.receive(S, &[&hello]);
        assert_eq!(shown(&story, &hello), story.room.value(&hello));
    }
}

/// Lets a made-up copy of elsie's hello come before the true one while the keys of her server are not known.
fn made_up_first(version: &RoomVersionId, limits: Limits, make_up: impl Fn(&mut Value)) -> (Story, OwnedEventId) {
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(version, &[], |_| {}, storage, limits).join_full();
    let elsie = story.room.join(ELSIE).send();
    let hello = story.room.message(ELSIE, "hello").send();
    story.servers.set_all(Asked::ServerKeys, Reply::Held);
    let mut made_up = story.room.value(&hello);
    make_up(&mut made_up);
    story.receive(S, &[&elsie]);
    assert_eq!(story.receive_bytes(S, made_up.to_string().as_bytes()), Outcome::Waiting);
    // One server has but one copy kept of it.
    for _ in 0..2 {
        assert_eq!(story.receive(S2, &[&hello])[0].outcome, Outcome::Known);
    }
    story.release();
    (story, hello)
}

#[test]
fn a_made_up_copy_that_comes_first_does_not_lose_the_true_one_while_keys_are_unknown() {
    for version in &ALL_VERSIONS {
        let change: [fn(&mut Value); 2] = [
            |made_up| made_up["content"]["body"] = json!("changed"),
            |made_up| made_up["signatures"][S2]["ed25519:a_1"] = json!("A".repeat(86)),
        ];
        for change in change {
            let (story, hello) = made_up_first(version, Limits::default(), change);
            assert_eq!(story.verdict(&hello), "accepted", "version {version}");
            assert_eq!(shown(&story, &hello), story.room.value(&hello), "version {version}");
        }
    }
}

#[test]
fn of_more_copies_than_may_be_kept_the_first_is_the_only_one() {
    let mut limits = Limits::default();
    limits.other_copies_max = 0;
    let change = |made_up: &mut Value| made_up["content"]["body"] = json!("changed");
    let (story, hello) = made_up_first(&RoomVersionId::V11, limits, change);
    assert_eq!(shown(&story, &hello), redacted(&story, &hello));
}

#[test]
fn copies_that_were_not_needed_make_room_for_others() {
    let mut limits = Limits::default();
    limits.other_copies_max = 1;
    let storage = Storage::Memory(MemoryBackend::new());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, limits).join_full();
    story.servers.set_all(Asked::ServerKeys, Reply::Held);
    let elsie = story.room.join(ELSIE).send();
    let mut changed = story.room.value(&elsie);
    changed["content"]["displayname"] = json!("changed");
    story.receive(S2, &[&elsie]);
    // The true one is there, so that this one is of no use.
    story.receive_bytes(S, changed.to_string().as_bytes());
    story.release();
    assert_eq!(story.verdict(&elsie), "accepted");

    let other = "@other:s3.example";
    let joined = story.room.join(other).send();
    story.servers.set_all(Asked::ServerKeys, Reply::Held);
    let mut changed = story.room.value(&joined);
    changed["content"]["displayname"] = json!("changed");
    story.receive_bytes(S, changed.to_string().as_bytes());
    story.receive(S2, &[&joined]);
    story.release();
    assert_eq!(story.verdict(&joined), "accepted");
    assert_eq!(
        story.view().event(&joined).expect("the store works").expect("it is stored").pdu,
        *story.room.pdu(&joined)
    );
}
