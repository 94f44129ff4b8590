//! The members of a room, those whom a timeline shows, and those by whom a room is named.

use std::collections::BTreeSet;

use gibbous::{
    JoinStatus, Limits, Lookup, Membership, MemoryBackend, OwnedEventId, Summary, UserId, WaitingOn,
    testing::{ALICE, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, RoomBuilder, S, Storage, Story},
};
use serde_json::json;

fn member_for_timeline(story: &Story, event: &OwnedEventId) -> Lookup<OwnedEventId> {
    story.view().member_for_timeline(event).expect("the store works")
}

/// Two messages of derek, whose membership the partial state lacks.
fn two_of_dereks(story: &mut Story) -> [OwnedEventId; 2] {
    ["one", "two"].map(|body| story.room.message(DEREK, body).send())
}

#[test]
fn s16_an_initial_sync_has_the_senders_of_its_timeline() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        assert_eq!(story.verdict(&hello), "accepted, partial");
        assert_eq!(member_for_timeline(&story, &hello), Lookup::Present(story.derek.clone()));
        story.release();
        assert_eq!(member_for_timeline(&story, &hello), Lookup::Present(story.derek.clone()));
    }
}

#[test]
fn s17_a_gappy_sync_has_the_sender_of_the_one_event_that_it_shows() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let [one, two] = two_of_dereks(&mut story);
        story.receive(S, &[&one, &two]);
        assert_eq!(member_for_timeline(&story, &two), Lookup::Present(story.derek.clone()));
    }
}

#[test]
fn s18_an_incremental_sync_has_the_senders_of_its_timeline() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        for event in two_of_dereks(&mut story) {
            story.receive(S, &[&event]);
            assert_eq!(member_for_timeline(&story, &event), Lookup::Present(story.derek.clone()));
        }
    }
}

#[test]
fn s22_a_gappy_sync_after_the_join_is_complete_has_the_sender() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.release();
        let [one, two] = two_of_dereks(&mut story);
        story.receive(S, &[&one, &two]);
        assert_eq!(member_for_timeline(&story, &two), Lookup::Present(story.derek.clone()));
        assert_eq!(&story.state_before(&two), story.room.state_before(&two));
    }
}

#[test]
fn who_was_not_in_the_room_before_has_no_membership_to_be_shown() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        assert_eq!(member_for_timeline(&story, &story.join), Lookup::Absent);
        let elsie = story.room.join(ELSIE).send();
        let named = story.room.join(ELSIE).content("displayname", json!("Elsie")).send();
        story.receive(S, &[&elsie, &named]);
        assert_eq!(member_for_timeline(&story, &elsie), Lookup::Absent);
        assert_eq!(member_for_timeline(&story, &named), Lookup::Present(elsie));
        // What is known for the sake of others is not shown.
        for event in [&story.charlie, &story.derek] {
            let found = member_for_timeline(&story, event);
            let waiting_on = WaitingOn::Event(event.clone());
            assert!(matches!(found, Lookup::Unknown(not_yet) if not_yet.waiting_on == waiting_on));
        }
    }
}

#[test]
fn members_come_in_pages_each_once() {
    const MEMBERS: usize = 300;
    let crowd = |room: &mut RoomBuilder| {
        for number in 0..MEMBERS {
            room.join(&format!("@user{number}:s.example")).send();
        }
    };
    let storage = Storage::Memory(MemoryBackend::new());
    let story = Story::with(&NEWEST_VERSIONS[1], &[], crowd, storage, Limits::default()).join_full();
    let view = story.view();
    let whole = view.members(None, MEMBERS + 10).expect("the store works");
    assert_eq!((whole.known.len(), whole.next.clone(), whole.is_complete), (MEMBERS + 3, None, true));
    for (limit, size) in [(0, 1), (1, 1), (7, 7), (256, 256)] {
        let mut known = Vec::new();
        let mut after = None;
        loop {
            let page = view.members(after.as_deref(), limit).expect("the store works");
            assert!(page.known.len() <= size, "{} members in a page of {limit}", page.known.len());
            known.extend(page.known);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(known, whole.known, "in pages of {limit}");
    }
    let users: BTreeSet<&str> = whole.known.iter().map(|member| member.user.as_str()).collect();
    assert_eq!(users.len(), MEMBERS + 3);
    assert!(whole.known.iter().all(|member| member.membership == Membership::Join));
    let derek = whole.known.iter().find(|member| member.user == DEREK).expect("he is a member");
    assert_eq!(derek.event_id, story.derek);
}

fn summary(story: &Story, reader: Option<&str>) -> Summary {
    let reader = reader.map(|reader| <&UserId>::try_from(reader).expect("it is a user ID"));
    story.view().summary(reader).expect("the store works")
}

fn heroes(story: &Story, reader: Option<&str>) -> Vec<String> {
    summary(story, reader).heroes.iter().map(|hero| hero.user.to_string()).collect()
}

#[test]
fn heroes_are_the_first_who_joined_then_the_first_who_are_invited() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        assert_eq!(heroes(&story, Some(ALICE)), [CHARLIE, DEREK]);
        assert_eq!(heroes(&story, None), [CHARLIE, DEREK, ALICE]);
        let invite = story.room.member(CHARLIE, "@first:s.example", "invite").send();
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&invite, &elsie]);
        let found = summary(&story, Some(ALICE));
        assert_eq!((found.joined, found.invited, found.is_complete), (4, 1, true));
        assert_eq!(heroes(&story, Some(ALICE)), [CHARLIE, DEREK, ELSIE, "@first:s.example"]);
        // Five at most, and who joined goes before who is invited.
        for number in 0..4 {
            let join = story.room.join(&format!("@user{number}:s.example")).send();
            story.receive(S, &[&join]);
        }
        assert_eq!(heroes(&story, Some(ALICE)), [CHARLIE, DEREK, ELSIE, "@user0:s.example", "@user1:s.example"]);
        assert_eq!(heroes(&story, Some(DEREK)).len(), 5);
    }
}

#[test]
fn a_room_that_all_others_have_left_is_named_by_them() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let ban = story.room.member(CHARLIE, DEREK, "ban").send();
        let leave = story.room.leave(CHARLIE).send();
        story.receive(S, &[&ban, &leave]);
        let found = summary(&story, Some(ALICE));
        assert_eq!((found.joined, found.invited), (1, 0));
        let heroes: Vec<_> = found.heroes.iter().map(|hero| (hero.user.as_str(), hero.membership)).collect();
        assert_eq!(heroes, [(DEREK, Membership::Ban), (CHARLIE, Membership::Leave)]);
    }
}

#[test]
fn a_partial_room_is_named_without_waiting() {
    for version in &NEWEST_VERSIONS {
        // MSC3943: the response of a room without a name has heroes.
        let mut story = Story::new(version);
        story.hold_resync();
        let join = story.join.clone();
        let mut response = story.room.send_join(&join, true);
        let hero = story.room.value(&story.derek);
        response["state"].as_array_mut().expect("it is a list").push(hero);
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
        let found = summary(&story, Some(ALICE));
        assert_eq!((found.name, found.canonical_alias), (None, None));
        assert_eq!((found.joined, found.invited, found.is_complete), (2, 0, false));
        assert_eq!(heroes(&story, Some(ALICE)), [DEREK]);
        story.release();
        let found = summary(&story, Some(ALICE));
        assert_eq!((found.joined, found.invited, found.is_complete), (3, 0, true));
        assert_eq!(
            heroes(&story, Some(ALICE)).into_iter().collect::<BTreeSet<_>>(),
            [CHARLIE, DEREK].map(str::to_owned).into()
        );
    }
}

#[test]
fn a_name_is_a_text_that_is_not_empty() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        for (name, expected) in [(json!("Moon"), Some("Moon")), (json!(""), None), (json!(7), None), (json!({}), None)]
        {
            let name = story.room.state(CHARLIE, "m.room.name", "", json!({ "name": name, "other": [1] })).send();
            let alias = json!({ "alias": "#moon:s.example" });
            let alias = story.room.state(CHARLIE, "m.room.canonical_alias", "", alias).send();
            story.receive(S, &[&name, &alias]);
            let found = summary(&story, None);
            assert_eq!(found.name.as_deref(), expected);
            assert_eq!(found.canonical_alias.as_deref(), Some("#moon:s.example"));
        }
    }
}

#[test]
fn the_sender_of_an_event_of_history_has_a_member() {
    for version in &NEWEST_VERSIONS {
        let past = |room: &mut gibbous::testing::RoomBuilder| drop(room.message(CHARLIE, "old").send());
        let mut story =
            Story::with(version, &[], past, Storage::Memory(MemoryBackend::new()), Limits::default()).join_full();
        let room_id = story.room.id().to_owned();
        story.engine().backfill(&room_id, 100, story.now_ms).expect("the store works");
        story.run();
        let old = story.room.order().iter().find(|id| story.room.json(id).contains("\"old\"")).expect("there").clone();
        assert_eq!(story.verdict(&old), "history, accepted");
        let member = story.view().member_for_timeline(&old).expect("the store works");
        assert!(matches!(member, Lookup::Present(_)), "version {version}: {member:?}");
    }
}
