//! What a state has at a key: something, nothing, or what is not known yet.

use gibbous::{
    At, JoinStatus, Lookup, NotYet, OwnedEventId, ServerName, StateFilter, StateRead, Trust, WaitingOn,
    testing::{
        ALICE, Asked, BOB, CHARLIE, DEREK, ELSIE, Host, NEWEST_VERSIONS, Reply, RoomBuilder, S, Story, US,
        history::Dice,
    },
};
use serde_json::json;

use crate::{key, member, members_of};

/// What a view says of a key of the current state, and how far it can be relied on.
fn lookup(host: &Host, key: &gibbous::StateKey) -> (Lookup<OwnedEventId>, Option<Trust>) {
    let view = host.view();
    let found = view.state_event(key).expect("the store works");
    let found_id = view.state_event_at(At::Now, key).expect("the store works");
    // One says what the other does.
    match (&found, &found_id) {
        (Lookup::Present(pdu), Lookup::Present(event_id)) => assert_eq!(pdu.event_id(), event_id),
        (Lookup::Absent, Lookup::Absent) => {}
        (Lookup::Unknown(one), Lookup::Unknown(other)) => assert_eq!(one, other),
        _ => panic!("{found:?}, but {found_id:?}"),
    }
    (found_id, view.trust(key).expect("the store works"))
}

#[track_caller]
fn check_unknown(host: &Host, key: &gibbous::StateKey) -> NotYet {
    match lookup(host, key) {
        (Lookup::Unknown(not_yet), None) => {
            assert_eq!(not_yet.waiting_on, WaitingOn::Room);
            not_yet
        }
        found => panic!("{key}: {found:?}"),
    }
}

#[test]
fn s39_members_from_before_the_join_are_not_to_be_relied_on_until_it_is_complete() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        for user in [CHARLIE, DEREK] {
            check_unknown(&story, &member(user));
        }
        story.release();
        for (user, event) in [(CHARLIE, &story.charlie), (DEREK, &story.derek)] {
            assert_eq!(lookup(&story, &member(user)), (Lookup::Present(event.clone()), Some(Trust::Exact)));
        }
        assert_eq!(lookup(&story, &member(ELSIE)), (Lookup::Absent, Some(Trust::Exact)));
    }
}

#[test]
fn s40_members_of_another_room_with_full_state_are_exact_all_the_same() {
    for version in &NEWEST_VERSIONS {
        let story = Story::joined(version);
        let mut other = RoomBuilder::new(version, ELSIE);
        other.join(ELSIE).send();
        other.power_levels(&[]).send();
        other.state(ELSIE, "m.room.join_rules", "", json!({ "join_rule": "public" })).send();
        let derek = other.join(DEREK).send();
        let join = other.join(ALICE).send();
        let mut host = Host::new(US, other);
        assert!(matches!(host.join_fully(&join, "s2.example"), JoinStatus::Joined { partial: false, .. }));
        assert_eq!(lookup(&host, &member(DEREK)), (Lookup::Present(derek), Some(Trust::Exact)));
        check_unknown(&story, &member(DEREK));
    }
}

#[test]
fn s50_aliases_can_be_deleted_by_levels_that_are_known_at_once() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(ALICE, 50)], |_| {});
        let levels = key("m.room.power_levels");
        let expected = Lookup::Present(story.power_levels.clone());
        assert_eq!(lookup(&story, &levels), (expected.clone(), Some(Trust::PartialTrusted)));
        assert_eq!(lookup(&story, &key("m.room.canonical_alias")), (Lookup::Absent, Some(Trust::PartialTrusted)));
        story.release();
        assert_eq!(lookup(&story, &levels), (expected, Some(Trust::Exact)));
    }
}

#[test]
fn x10_what_is_no_member_never_waits_and_what_is_one_elsewhere_does_but_for_heroes() {
    for version in &NEWEST_VERSIONS {
        // MSC3943: a room without a name tells of its heroes.
        let mut story = Story::new(version);
        story.hold_resync();
        let join = story.join.clone();
        let mut response = story.room.send_join(&join, true);
        let hero = story.room.value(&story.derek);
        response["state"].as_array_mut().expect("it is a list").push(hero);
        let status = story.join_with(&join, S, &response, true);
        assert_eq!(status, JoinStatus::Joined { event_id: join.clone(), partial: true });

        for (event_type, event) in [
            ("m.room.create", &story.create),
            ("m.room.power_levels", &story.power_levels),
            ("m.room.join_rules", &story.join_rules),
        ] {
            let expected = (Lookup::Present(event.clone()), Some(Trust::PartialTrusted));
            assert_eq!(lookup(&story, &key(event_type)), expected);
        }
        assert_eq!(lookup(&story, &key("m.room.name")), (Lookup::Absent, Some(Trust::PartialTrusted)));
        assert_eq!(lookup(&story, &member(ALICE)), (Lookup::Present(join), Some(Trust::PartialTrusted)));
        // He may have been banned long ago.
        assert_eq!(lookup(&story, &member(BOB)), (Lookup::Absent, Some(Trust::KnownUnverified)));
        let expected = (Lookup::Present(story.derek.clone()), Some(Trust::KnownUnverified));
        assert_eq!(lookup(&story, &member(DEREK)), expected);
        for user in [CHARLIE, ELSIE, "@nobody:s9.example", "no user"] {
            check_unknown(&story, &member(user));
        }
        // A hero is one of the members and not all of them.
        let our_server: &ServerName = US.try_into().expect("it is a server name");
        let filter = StateFilter::none().with_keys("m.room.member", [DEREK]);
        assert!(filter.must_wait(our_server));
        let read = story.view().state(At::Now, &filter).expect("the store works");
        assert!(matches!(read, StateRead::NotYet { known, .. } if known == members_of(&[(DEREK, &story.derek)])));

        story.release();
        let expected = (Lookup::Present(story.derek.clone()), Some(Trust::Exact));
        assert_eq!(lookup(&story, &member(DEREK)), expected);
        assert_eq!(lookup(&story, &member(BOB)), (Lookup::Absent, Some(Trust::Exact)));
    }
}

#[test]
fn what_came_since_the_join_is_trusted_more_than_what_was_only_told() {
    let mut story = Story::joined(&NEWEST_VERSIONS[1]);
    let elsie = story.room.join(ELSIE).send();
    story.receive(S, &[&elsie]);
    assert_eq!(lookup(&story, &member(ELSIE)), (Lookup::Present(elsie), Some(Trust::PartialTrusted)));
}

#[test]
fn what_is_not_known_says_since_when_and_when_it_is_asked_again() {
    let mut story = Story::joined(&NEWEST_VERSIONS[1]);
    let joined_ms = story.now_ms;
    let not_yet = check_unknown(&story, &member(DEREK));
    assert_eq!((not_yet.since_ms, not_yet.attempts, not_yet.next_retry_ms), (Some(joined_ms), 0, None));

    story.servers.be_honest();
    for asked in Asked::RESYNC {
        story.servers.set_all(asked, Reply::Status(403, "M_FORBIDDEN"));
    }
    story.deliver_held();
    story.now_ms += 5_000;
    story.restart();
    story.run();
    let not_yet = check_unknown(&story, &member(DEREK));
    assert_eq!((not_yet.since_ms, not_yet.attempts), (Some(joined_ms), 1));
    assert_eq!(not_yet.next_retry_ms, story.engine().poll_timeout());
    assert!(not_yet.next_retry_ms > Some(story.now_ms));
    story.pass_time();
    assert_eq!(check_unknown(&story, &member(DEREK)).attempts, 2);

    story.servers.be_honest();
    assert!(story.pass_time_until_full(60_000));
    assert_eq!(lookup(&story, &member(DEREK)).0, Lookup::Present(story.derek.clone()));
}

#[test]
fn nothing_of_the_true_state_is_ever_absent() {
    let users: Vec<String> = (0..12).map(|number| format!("@user{number}:s{}.example", number % 4)).collect();
    for seed in 0..30 {
        let version = &NEWEST_VERSIONS[seed % NEWEST_VERSIONS.len()];
        let mut dice = Dice::new(seed as u64);
        let mut banned: Vec<&String> = Vec::new();
        let mut tell = |room: &mut RoomBuilder, number: usize| {
            let user = dice.pick(&users);
            if banned.contains(&user) {
                return room.message(CHARLIE, &number.to_string()).send();
            }
            match dice.below(8) {
                0..=2 => room.join(user),
                3 => room.member(CHARLIE, user, "leave"),
                4 => {
                    banned.push(user);
                    room.member(CHARLIE, user, "ban")
                }
                5 => room.state(CHARLIE, "m.room.topic", "", json!({ "topic": number })),
                6 => room.state(CHARLIE, "m.room.test", &user[1..], json!({ "n": number })),
                _ => room.message(DEREK, &number.to_string()),
            }
            .send()
        };
        let before = 3 + seed % 12;
        let mut story = Story::joined_with(version, &[], |room| {
            for number in 0..before {
                tell(room, number);
            }
        });
        for number in before..before + 20 {
            let event = tell(&mut story.room, number);
            story.receive(S, &[&event]);
            check_never_absent(&story, &event, &format!("seed {seed}, event {number}"));
        }
        story.release();
        let last = story.room.order().last().expect("much has happened").clone();
        for (key, event_id) in story.room.state_after(&last) {
            let expected = (Lookup::Present(event_id.clone()), Some(Trust::Exact));
            assert_eq!(lookup(&story, key), expected, "seed {seed}: {key}");
        }
    }
}

/// Asserts that nothing of the true state after the last event is said not to be there.
#[track_caller]
fn check_never_absent(story: &Story, last: &OwnedEventId, what: &str) {
    assert_eq!(story.verdict(last), "accepted, partial", "{what}");
    let view = story.view();
    let mut unknown = 0;
    for key in story.room.state_after(last).keys() {
        for at in [At::Now, At::After(last)] {
            let found = view.state_event_at(at, key).expect("the store works");
            assert_ne!(found, Lookup::Absent, "{what}: {key} {at:?}");
            unknown += u32::from(matches!(found, Lookup::Unknown(_)));
        }
    }
    assert!(unknown > 0, "{what}: what was left out is not known");
}
