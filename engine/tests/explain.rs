//! Why an event has its verdict: what the rules read under each state that they were asked under.

use gibbous::{
    Check, EventStatus, Explanation, OwnedEventId, Reading, RoomVersionId, StateKey,
    testing::{CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, S, Story},
};
use serde_json::json;

fn explain(story: &Story, event_id: &OwnedEventId) -> Explanation {
    let explained = story.engine().explain(story.room.id(), event_id).expect("the store works");
    explained.unwrap_or_else(|| panic!("{event_id} is known"))
}

/// The event that was read at a membership, or `None` if nothing was there.
#[track_caller]
fn member_read(reading: &Option<Reading>, user: &str) -> Option<OwnedEventId> {
    let asked = reading.as_ref().and_then(|reading| reading.asked.as_ref()).expect("it was asked");
    let key = StateKey::new("m.room.member", user);
    let cell = asked.read.iter().find(|cell| cell.key == key).unwrap_or_else(|| panic!("{key:?}: {asked:?}"));
    cell.event.clone()
}

/// What was given as verdict and what the rules say now: the same, but for the events that are allowed.
#[track_caller]
fn check_reading(reading: &Option<Reading>, expected: Option<(Check, u16)>) {
    let reading = reading.as_ref().expect("the rules were asked");
    let found = reading.rejection().map(|rejection| (rejection.check, rejection.rule.number()));
    assert_eq!(found, expected, "{reading:?}");
    match &reading.status {
        EventStatus::Rejected(rejection) => assert_eq!(Some(rejection), reading.rejection()),
        EventStatus::SoftFailed => assert_eq!(expected.map(|(check, _)| check), Some(Check::CurrentState)),
        EventStatus::Accepted => assert_eq!(expected, None),
    }
}

#[test]
fn a_verdict_that_flipped_is_explained_under_both_states() {
    // The event of script 25: derek has left, which partial state does not know.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(DEREK, 50)], |room| drop(room.leave(DEREK).send()));
        let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
        let left = story.room.membership_of(DEREK);
        let bad =
            story.room.state(DEREK, "m.room.test", "", json!({})).auth(&[&levels, &derek]).without_effect().send();
        story.receive(S, &[&bad]);
        let before = explain(&story, &bad);
        check_reading(&before.partial, None);
        assert_eq!((before.full, before.current), (None, None));

        story.release();
        let after = explain(&story, &bad);
        assert_eq!(after.partial, before.partial, "it is told as it was");
        assert_eq!(member_read(&after.partial, DEREK), Some(derek.clone()));
        check_reading(&after.full, Some((Check::StateBefore, 2001)));
        assert_eq!(member_read(&after.full, DEREK), Some(left.clone()));
        assert_eq!(after.full.as_ref().unwrap().rejection().unwrap().source, Some(left));
        let cited: Vec<&OwnedEventId> = after.cited.iter().map(|cited| &cited.event_id).collect();
        assert!(cited.contains(&&derek) && cited.contains(&&levels), "{cited:?}");
        story.restart();
        assert_eq!(explain(&story, &bad), after);
    }
}

#[test]
fn a_rejection_that_was_wrong_is_explained_by_what_partial_state_believed() {
    // The event of script 26: elsie was not kicked, since derek had left.
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let elsie = story.room.membership_of(ELSIE);
        let test = story.state_of_kicked(&kick);
        story.receive(S, &[&kick, &test]);
        story.release();
        let explained = explain(&story, &test);
        check_reading(&explained.partial, Some((Check::StateBefore, 2001)));
        assert_eq!(member_read(&explained.partial, ELSIE), Some(kick));
        check_reading(&explained.full, None);
        assert_eq!(member_read(&explained.full, ELSIE), Some(elsie));
    }
}

#[test]
fn a_soft_failure_is_explained_by_the_current_state_that_forbade_it() {
    // The event of X7: derek is banned on one branch, and writes on another. Later he is let back in.
    for version in &NEWEST_VERSIONS {
        for is_partial in [true, false] {
            let story = Story::new(version);
            let mut story = if is_partial { story.join_held() } else { story.join_full() };
            let [join, derek, levels] = [story.join.clone(), story.derek.clone(), story.power_levels.clone()];
            let charlie = story.charlie.clone();
            let ban = story.room.member(CHARLIE, DEREK, "ban").auth(&[&levels, &charlie, &derek]).send();
            let late = story
                .room
                .message(DEREK, "still here")
                .after(&[&join])
                .auth(&[&levels, &derek])
                .without_effect()
                .send();
            let unban = story.room.member(CHARLIE, DEREK, "leave").after(&[&ban]).send();
            story.receive(S, &[&ban, &late, &unban]);
            story.release();
            assert_eq!(story.verdict(&late), "soft_failed");
            let explained = explain(&story, &late);
            assert_eq!(explained.partial.is_some(), is_partial);
            check_reading(&explained.full, None);
            assert_eq!(member_read(&explained.full, DEREK), Some(derek.clone()));
            check_reading(&explained.current, Some((Check::CurrentState, 2001)));
            assert_eq!(member_read(&explained.current, DEREK), Some(ban.clone()));
            assert_eq!(explain(&story, &unban).current, None);
        }
    }
}

#[test]
fn a_partial_state_that_was_collected_is_told_of_as_gone() {
    let mut story = Story::joined_with(&RoomVersionId::V11, &[], |room| drop(room.leave(DEREK).send()));
    let derek = story.derek.clone();
    let levels = story.power_levels.clone();
    let bad = story.room.message(DEREK, "gone").auth(&[&levels, &derek]).without_effect().send();
    story.receive(S, &[&bad]);
    story.release();
    let before = explain(&story, &bad);
    story.engine().collect_garbage(story.room.id()).expect("the store works");
    let after = explain(&story, &bad);
    let [was, is] = [&before, &after].map(|explained| explained.partial.as_ref().expect("it was partial"));
    assert!(was.asked.is_some() && is.asked.is_none());
    assert_eq!((&is.status, is.state), (&was.status, was.state));
    assert_eq!(after.full, before.full);
}

#[test]
fn an_event_that_waits_is_told_what_for_and_one_that_nobody_knows_is_not_explained() {
    let mut story = Story::joined(&RoomVersionId::V11);
    let missing = story.room.message(CHARLIE, "missing").send();
    let waits = story.room.message(CHARLIE, "waits").send();
    story.hand(S, &[&waits]);
    let explained = explain(&story, &waits);
    assert_eq!((explained.status(), &explained.lacks), (None, &vec![missing.clone()]));
    assert_eq!((explained.partial, explained.full), (None, None));
    assert_eq!(story.engine().explain(story.room.id(), &missing).unwrap(), None);
    let charlie = explain(&story, &story.charlie);
    assert_eq!(charlie.full.as_ref().map(|reading| reading.state), Some(None), "by its auth events alone");
    check_reading(&charlie.full, None);
    let nowhere = "!nowhere:s.example".try_into().unwrap();
    assert!(matches!(story.engine().explain(nowhere, &waits), Err(gibbous::Error::UnknownRoom(_))));
}
