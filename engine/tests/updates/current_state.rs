//! How the current state changes, as it is told.

use gibbous::{
    At, Change, RoomVersionId, StateFilter, StateKey, StateMap, StateRead,
    testing::{CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, S2, Story},
};
use serde_json::json;

use super::{WronglyInRoom, assert_changes, change, changes_at, member, now, told_since, wrongly_in_room};

#[test]
fn s41_a_new_member_of_a_partial_room_is_told_of_at_once() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let before = now(&story);
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        assert_changes(changes_at(&story, before, &member(ELSIE)), &[change(&member(ELSIE), None, Some(&elsie))]);
        let before = now(&story);
        story.release();
        assert_changes(changes_at(&story, before, &member(ELSIE)), &[]);
        assert_eq!(story.view().current_state().expect("the store works").get(&member(ELSIE)), Some(&elsie));
    }
}

#[test]
fn s42_a_new_member_who_leaves_a_partial_room_is_told_of_at_once() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        let before = now(&story);
        let leave = story.room.leave(ELSIE).send();
        story.receive(S, &[&leave]);
        let expected = [change(&member(ELSIE), Some(&elsie), Some(&leave))];
        assert_changes(changes_at(&story, before, &member(ELSIE)), &expected);
    }
}

#[test]
fn s45_a_user_wrongly_believed_to_be_in_the_room_leaves_it_with_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let WronglyInRoom { mut story, elsie, ban, kick } = wrongly_in_room(version);
        let before = now(&story);
        story.release();
        assert_eq!((story.verdict(&ban), story.verdict(&kick)), ("rejected".to_owned(), "accepted".to_owned()));
        let expected = [change(&member(ELSIE), Some(&elsie), Some(&kick))];
        assert_changes(changes_at(&story, before, &member(ELSIE)), &expected);
    }
}

#[test]
fn s47_who_joins_after_the_full_state_has_put_them_out_is_told_of() {
    for version in &NEWEST_VERSIONS {
        let WronglyInRoom { mut story, kick, .. } = wrongly_in_room(version);
        story.release();
        let before = now(&story);
        let again = story.room.join(ELSIE).send();
        story.receive(S, &[&again]);
        let expected = [change(&member(ELSIE), Some(&kick), Some(&again))];
        assert_changes(changes_at(&story, before, &member(ELSIE)), &expected);
    }
}

#[test]
fn s60_s61_the_members_that_were_omitted_come_with_the_full_state() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let before = now(&story);
        story.release();
        for (user, event) in [(CHARLIE, story.charlie.clone()), (DEREK, story.derek.clone())] {
            assert_changes(changes_at(&story, before, &member(user)), &[change(&member(user), None, Some(&event))]);
        }
        // They are there when the room says that it is full, and not only afterwards.
        let updates = told_since(&story, before);
        let at = |is: fn(&Change) -> bool| updates.iter().rposition(|update| is(&update.change));
        let state = at(|change| matches!(change, Change::CurrentState { .. }));
        let full = at(|change| matches!(change, Change::RoomFullStated));
        let unmarked = at(|change| matches!(change, Change::RoomUnPartialStated { .. }));
        assert!(state < full && full < unmarked, "{updates:?}");
    }
}

#[test]
fn the_state_at_each_position_is_the_one_that_was_told_there() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let mut seen = Vec::new();
        let mut look = |story: &Story| {
            let view = story.view();
            seen.push((
                now(story).expect("something was told"),
                view.current_state().expect("the store works"),
                view.is_partial(),
            ));
        };
        look(&story);
        let elsie = story.room.join(ELSIE).send();
        story.receive(S, &[&elsie]);
        look(&story);
        let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "state" })).send();
        story.receive(S, &[&topic]);
        look(&story);
        story.release();
        look(&story);
        let leave = story.room.leave(ELSIE).send();
        story.receive(S, &[&leave]);
        look(&story);
        let view = story.view();
        for (position, state, is_partial) in &seen {
            let known = match view.state(At::Told(*position), &StateFilter::all()).expect("the store works") {
                StateRead::Ready(known) => (known, false),
                StateRead::NotYet { known, .. } => (known, true),
            };
            assert_eq!(known, (state.clone(), *is_partial), "at {position:?}");
        }
        // What differs between any two of them is what makes the one of the other.
        for (from, a, _) in &seen {
            for (to, b, _) in &seen {
                let mut state: StateMap<_> = a.clone();
                for change in view.state_changes(Some(*from), *to).expect("the store works") {
                    let was = match change.is {
                        Some(is) => state.insert(change.key, is),
                        None => state.remove(&change.key),
                    };
                    assert_eq!(was, change.was);
                }
                assert_eq!(&state, b);
            }
        }
        assert_eq!(view.state_changes(None, seen[0].0).expect("the store works").len(), seen[0].1.len());
    }
}

#[test]
fn a_state_that_goes_back_behind_what_was_allowed_is_said_to() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::new(version).join_full();
        let join = story.join.clone();
        // Two topics on two branches: where they meet, one of them wins, and it may be the one that came first.
        let [one, other] = ["one", "other"].map(|topic| {
            let draft = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": topic }));
            draft.after(&[&join]).send()
        });
        let before = now(&story);
        story.receive(S, &[&one]);
        story.receive(S, &[&other]);
        let topic = gibbous::StateKey::new("m.room.topic", "");
        let changes = changes_at(&story, before, &topic);
        let current = story.view().current_state().expect("the store works").get(&topic).cloned();
        assert_eq!(changes.last().and_then(|change| change.is.clone()), current);
        assert!(changes.iter().all(|change| !change.goes_back), "{changes:?}");
        // A second look from the end to the beginning goes back.
        let now = now(&story).expect("something was told");
        let back = story.view().state_changes(Some(now), before.expect("something was told")).expect("the store works");
        assert!(!back.is_empty() && back.iter().all(|change| change.goes_back), "{back:?}");
    }
}

/// Elsie's topic is the last of a fork's, but her join, which it cites, is one that the new join rules of another branch
/// forbid. It is fetched as an outlier, by itself accepted; pushed, it has a place in the room, and is rejected there.
#[track_caller]
fn check_followed(is_settled: bool) {
    let mut story = Story::joined_with(&RoomVersionId::V11, &[(ELSIE, 50)], |_| {});
    let (join, public) = (story.join.clone(), story.join_rules.clone());
    let topic = |topic| json!({ "topic": topic });
    let mut content = story.room.value(&story.power_levels)["content"].clone();
    content["ban"] = json!(51);
    // What rests on an event of the partial room may still change with it.
    let levels = match is_settled {
        true => story.power_levels.clone(),
        false => story.room.state(CHARLIE, "m.room.power_levels", "", content).after(&[&join]).send(),
    };
    let invite = json!({ "join_rule": "invite" });
    let invite = story.room.state(CHARLIE, "m.room.join_rules", "", invite).after(&[&join]).send();
    let by_charlie = story.room.state(CHARLIE, "m.room.topic", "", topic("his")).after(&[&join]).send();
    let elsie = story.room.join(ELSIE).after(&[&invite]).auth(&[&levels, &public]).without_effect().send();
    let by_elsie = story.room.state(ELSIE, "m.room.topic", "", topic("hers"));
    let by_elsie = by_elsie.after(&[&join]).auth(&[&levels, &elsie]).send();
    let current = |story: &Story| {
        story.view().current_state().expect("the store works").get(&StateKey::new("m.room.topic", "")).cloned()
    };
    if !is_settled {
        story.receive(S, &[&levels]);
    }
    story.receive(S, &[&invite, &by_charlie]);
    story.receive(S2, &[&by_elsie]);
    assert_eq!(story.verdict(&elsie), "outlier, accepted");
    assert_eq!(current(&story), Some(by_elsie));
    story.receive(S2, &[&elsie]);
    assert_eq!(story.verdict(&elsie), "rejected, partial");
    assert_eq!(current(&story), Some(by_charlie.clone()));
    story.restart();
    story.run();
    assert_eq!(current(&story), Some(by_charlie));
}

#[test]
fn a_verdict_that_changes_is_followed_by_the_current_state() {
    check_followed(false);
}

#[test]
fn a_settled_verdict_that_is_open_again_is_followed_by_the_current_state() {
    check_followed(true);
}
