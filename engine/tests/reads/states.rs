//! States read as far as a filter admits: the current one, and those around events.

use std::collections::BTreeSet;

use gibbous::{
    At, JoinStatus, Lookup, OwnedEventId, StateFilter, StateMap, StateRead, WaitingOn,
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, S, Story},
};

use crate::{member, members_of};

fn everything_but_members() -> StateFilter {
    StateFilter::none().with_keys("m.room.member", []).and_others()
}

fn all_members() -> StateFilter {
    StateFilter::none().with_type("m.room.member")
}

fn read(story: &Story, at: At<'_>, filter: &StateFilter) -> StateRead {
    story.view().state(at, filter).expect("the store works")
}

/// Asserts that a read must wait, and what is known by then.
#[track_caller]
fn check_waits(read: &StateRead, on: &WaitingOn, expected: &StateMap<OwnedEventId>) {
    match read {
        StateRead::NotYet { known, not_yet } => assert_eq!((known, &not_yet.waiting_on), (expected, on)),
        StateRead::Ready(_) => panic!("it is said to be all: {read:?}"),
    }
}

#[test]
fn s04_a_lazy_sync_is_answered_during_a_partial_join() {
    for version in &NEWEST_VERSIONS {
        let story = Story::joined(version);
        let filter = StateFilter::none().with_keys("m.room.member", [ALICE]).and_others();
        let StateRead::Ready(state) = read(&story, At::Now, &filter) else { panic!("it does not wait") };
        let expected = [&story.create, &story.power_levels, &story.join_rules, &story.join];
        assert_eq!(state.values().collect::<BTreeSet<_>>(), expected.into_iter().collect());
    }
}

#[test]
fn s19_a_request_for_the_members_at_a_token_waits_for_the_full_state_there() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let join = story.join.clone();
        let waiting_on = WaitingOn::Event(join.clone());
        check_waits(&read(&story, At::Before(&join), &all_members()), &waiting_on, &members_of(&[]));
        let ours = members_of(&[(ALICE, &join)]);
        check_waits(&read(&story, At::After(&join), &all_members()), &waiting_on, &ours);
        story.release();
        let expected = members_of(&[(ALICE, &join), (CHARLIE, &story.charlie), (DEREK, &story.derek)]);
        assert_eq!(read(&story, At::After(&join), &all_members()), StateRead::Ready(expected));
    }
}

#[test]
fn s29_a_request_for_the_joined_members_waits_for_the_full_state_of_the_room() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let ours = members_of(&[(ALICE, &story.join)]);
        check_waits(&read(&story, At::Now, &all_members()), &WaitingOn::Room, &ours);
        let page = story.view().members(None, 100).expect("the store works");
        assert_eq!((page.known.len(), page.is_complete), (1, false));
        story.release();
        let expected = members_of(&[(ALICE, &story.join), (CHARLIE, &story.charlie), (DEREK, &story.derek)]);
        assert_eq!(read(&story, At::Now, &all_members()), StateRead::Ready(expected));
        let page = story.view().members(None, 100).expect("the store works");
        assert_eq!((page.known.len(), page.is_complete), (3, true));
    }
}

#[test]
fn all_of_a_state_is_what_the_filters_make_of_it() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.release();
        let state = story.view().current_state().expect("the store works");
        assert_eq!(read(&story, At::Now, &StateFilter::all()), StateRead::Ready(state.clone()));
        assert_eq!(read(&story, At::Now, &StateFilter::none()), StateRead::Ready(StateMap::new()));
        let (members, others): (StateMap<_>, StateMap<_>) =
            state.into_iter().partition(|(key, _)| key.event_type == "m.room.member");
        assert_eq!(read(&story, At::Now, &all_members()), StateRead::Ready(members));
        assert_eq!(read(&story, At::Now, &everything_but_members()), StateRead::Ready(others));
        // Found by its key, and by a walk.
        let named = StateFilter::none().with_keys("m.room.member", [DEREK, ELSIE]);
        let walked = named.clone().with_type("m.room.name");
        let derek = StateRead::Ready(members_of(&[(DEREK, &story.derek)]));
        assert_eq!(read(&story, At::Now, &named), derek);
        assert_eq!(read(&story, At::Now, &walked), derek);
    }
}

#[test]
fn the_state_at_an_event_is_partial_as_long_as_the_event_is_and_not_as_its_room_is() {
    for version in &NEWEST_VERSIONS {
        // With full state first; then all of ours leave, and one joins again after what nobody here has seen.
        let mut story = Story::new(version).join_full();
        let hello = story.room.message(DEREK, "hello").send();
        story.receive(S, &[&hello]);
        let leave = story.room.leave(ALICE).send();
        story.submit(&leave);
        let unseen = story.room.join(ELSIE).send();
        let again = story.room.join(ALICE).send();
        story.hold_resync();
        let status = story.join_partially(&again, S);
        assert_eq!(status, JoinStatus::Joined { event_id: again.clone(), partial: true });

        let view = story.view();
        assert!(view.is_partial());
        for (key, expected) in [(DEREK, Lookup::Present(story.derek.clone())), (ELSIE, Lookup::Absent)] {
            let found = view.state_event_at(At::Before(&hello), &member(key)).expect("the store works");
            assert_eq!(found, expected);
        }
        let all = story.room.state_before(&hello).clone();
        assert_eq!(read(&story, At::Before(&hello), &StateFilter::all()), StateRead::Ready(all));
        let found = view.state_event_at(At::Before(&again), &member(ELSIE)).expect("the store works");
        assert!(matches!(&found, Lookup::Unknown(not_yet) if not_yet.waiting_on == WaitingOn::Event(again.clone())));

        // An event that is full before the room is: what it follows is known, that of another is held back.
        story.servers.be_honest();
        let gap = story.room.message(CHARLIE, "gap").send();
        let late = story.room.message(CHARLIE, "late").send();
        story.servers.set_all(Asked::MissingEvents, Reply::Body("{\"events\":[]}".to_owned()));
        story.servers.set_about(&gap, Asked::StateIds, Reply::Held);
        story.deliver_held();
        story.receive(S, &[&late]);
        assert!(story.view().is_partial());
        assert_eq!(story.verdict(&again), "accepted");
        let found = story.view().state_event_at(At::Before(&again), &member(ELSIE)).expect("the store works");
        assert_eq!(found, Lookup::Present(unseen));
        story.release();
        assert!(!story.view().is_partial());
    }
}

#[test]
fn of_an_event_without_a_place_nothing_is_known() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        story.servers.set_all(Asked::MissingEvents, Reply::Held);
        story.room.message(DEREK, "unseen").send();
        let waits = story.room.message(DEREK, "waits").send();
        story.receive(S, &[&waits]);
        assert_eq!(story.verdict(&waits), "waiting");
        let never_heard_of: OwnedEventId = "$never".try_into().expect("it is an event ID");
        for event in [&waits, &never_heard_of, &story.charlie] {
            let waiting_on = WaitingOn::Event(event.clone());
            // Not even what every state has.
            for filter in [everything_but_members(), StateFilter::none()] {
                check_waits(&read(&story, At::Before(event), &filter), &waiting_on, &StateMap::new());
            }
            let create = gibbous::StateKey::new("m.room.create", "");
            let found = story.view().state_event_at(At::After(event), &create).expect("the store works");
            assert!(matches!(found, Lookup::Unknown(not_yet) if not_yet.waiting_on == waiting_on));
        }
        story.release();
        assert!(matches!(read(&story, At::Before(&waits), &StateFilter::all()), StateRead::Ready(_)));
    }
}
