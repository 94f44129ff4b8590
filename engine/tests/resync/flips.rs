//! What becomes of events when they have their full state.

use gibbous::{
    EventStatus, Limits, RoomVersionId, StateKey,
    testing::{ALICE, Asked, CHARLIE, DEREK, ELSIE, NEWEST_VERSIONS, Reply, RoomBuilder, S, Story},
};
use serde_json::json;

use super::{in_memory, member, on_two_servers};

/// A user who is invited.
const FRED: &str = "@fred:s3.example";

#[test]
fn x04_an_event_that_the_full_state_rejects_leaves_the_extremities() {
    // From script 25: derek has left before alice joins, which she cannot know.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined_with(version, &[(DEREK, 50)], |room| drop(room.leave(DEREK).send()));
        let [join, derek] = [story.join.clone(), story.derek.clone()];
        let levels = story.power_levels.clone();
        let bad =
            story.room.state(DEREK, "m.room.test", "", json!({})).auth(&[&levels, &derek]).without_effect().send();
        story.receive(S, &[&bad]);
        assert_eq!(story.verdict(&bad), "accepted, partial");
        story.assert_extremities(&[&bad]);
        story.release();
        assert_eq!(story.verdict(&bad), "rejected");
        story.assert_extremities(&[&join]);
        assert!(
            !story.view().current_state().expect("the store works").contains_key(&StateKey::new("m.room.test", ""))
        );
        let change = story.verdict_change(&bad).expect("the host is told");
        assert!(matches!(change, (EventStatus::Accepted, EventStatus::Rejected(_))), "{change:?}");
        story.assert_converged();
    }
}

#[test]
fn x05_an_event_that_the_full_state_allows_becomes_an_extremity() {
    // From script 26: derek, who has left, kicks elsie, who then sets a state.
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let join = story.join.clone();
        let elsie = story.room.membership_of(ELSIE);
        let test = story.state_of_kicked(&kick);
        story.receive(S, &[&kick, &test]);
        assert_eq!(story.verdict(&kick), "accepted, partial");
        assert_eq!(story.verdict(&test), "rejected, partial");
        story.assert_extremities(&[&kick]);
        story.release();
        assert_eq!(story.verdict(&kick), "rejected");
        assert_eq!(story.verdict(&test), "accepted");
        story.assert_extremities(&[&test]);
        let current = story.view().current_state().expect("the store works");
        assert_eq!((&current[&StateKey::new("m.room.test", "")], &current[&member(ELSIE)]), (&test, &elsie));
        assert_eq!(&current[&member(ALICE)], &join);
        story.assert_converged();
    }
}

#[test]
fn x07_an_event_that_the_current_state_forbids_is_soft_failed_at_completion() {
    // Derek is banned on one branch, and writes on another.
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let [join, derek, levels] = [story.join.clone(), story.derek.clone(), story.power_levels.clone()];
        let charlie = story.charlie.clone();
        let ban = story.room.member(CHARLIE, DEREK, "ban").auth(&[&levels, &charlie, &derek]).send();
        let late =
            story.room.message(DEREK, "still here").after(&[&join]).auth(&[&levels, &derek]).without_effect().send();
        story.receive(S, &[&ban]);
        story.receive(S, &[&late]);
        assert_eq!(story.verdict(&late), "accepted, partial");
        story.release();
        assert_eq!(story.verdict(&late), "soft_failed");
        assert_eq!(story.verdict_change(&late), Some((EventStatus::Accepted, EventStatus::SoftFailed)));
        story.assert_extremities(&[&ban]);
        story.assert_converged();
    }
}

#[test]
fn events_that_arrive_while_answers_are_on_their_way_become_full_with_the_rest() {
    for version in &NEWEST_VERSIONS {
        let mut story = Story::joined(version);
        let mut messages = Vec::new();
        for number in 0..50 {
            let sender = if number % 2 == 0 { DEREK } else { CHARLIE };
            messages.push(story.room.message(sender, &number.to_string()).send());
            let newest = messages[number].clone();
            story.receive(S, &[&newest]);
            assert_eq!(story.verdict(&newest), "accepted, partial");
        }
        story.release();
        for message in &messages {
            assert_eq!(story.verdict(message), "accepted");
        }
        story.assert_converged();
    }
}

#[test]
fn a_restart_after_each_answer_changes_nothing() {
    for version in &NEWEST_VERSIONS {
        let mut story = on_two_servers(version, in_memory()).join_held();
        let hello = story.room.message(DEREK, "hello").send();
        let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({ "topic": "t" })).send();
        story.receive(S, &[&hello, &topic]);
        // Each kind of question is answered once and then held again, with a restart between.
        for asked in [Asked::StateIds, Asked::State, Asked::Events] {
            story.servers.set_all(asked, Reply::Honest);
            story.restart();
            story.run();
        }
        assert!(!story.view().is_partial(), "{:?}", story.questions());
        story.assert_converged();
    }
}

#[test]
fn a_flip_asks_the_rules_only_where_what_they_read_has_changed() {
    // Derek has left, which we do not know until the room is full.
    let left = |room: &mut RoomBuilder| drop(room.leave(DEREK).send());
    let story = Story::with(&RoomVersionId::V10, &[(DEREK, 50)], left, in_memory(), Limits::default());
    let mut story = story.join_held();
    let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
    let bad = story.room.state(DEREK, "m.room.test", "", json!({})).auth(&[&levels, &derek]).without_effect().send();
    story.receive(S, &[&bad]);
    for number in 0..20 {
        let hello = story.room.message(CHARLIE, &format!("hello {number}")).send();
        story.receive(S, &[&hello]);
    }
    story.release();
    assert_eq!(story.verdict(&bad), "rejected");
    let stats = story.engine().stats();
    // The join itself, and what Derek did.
    assert_eq!((stats.events_flipped, stats.judged_anew, stats.verdicts_changed), (22, 2, 1));
}

#[test]
fn x06_what_cites_an_invite_that_the_full_state_accepts_is_judged_anew() {
    // Derek, who has left, kicks elsie, so that her invite of fred is rejected as far as is known, and so is his join.
    for version in &NEWEST_VERSIONS {
        let (mut story, kick) = Story::wrongly_kicked(version);
        let levels = story.power_levels.clone();
        let elsie = story.room.membership_of(ELSIE);
        let invite_only = json!({ "join_rule": "invite" });
        let rules = story.room.state(CHARLIE, "m.room.join_rules", "", invite_only).after(&[&kick]).send();
        let invite = story.room.member(ELSIE, FRED, "invite").after(&[&rules]).auth(&[&levels, &elsie, &rules]).send();
        let join = story.room.join(FRED).after(&[&invite]).send();
        // Fred's display name comes with an auth chain of its own: another server's branch has it, which nobody sends us.
        let hidden = story.room.join(FRED).content("displayname", json!("Fred")).after(&[&join]).send();
        let cites = story.room.message(FRED, "hello").after(&[&join]).auth(&[&levels, &hidden]).without_effect().send();
        story.receive(S, &[&kick, &rules, &invite, &join, &cites]);
        assert_eq!(story.verdict(&kick), "accepted, partial");
        assert_eq!(story.verdict(&invite), "rejected, partial");
        assert_eq!(story.verdict(&join), "rejected, partial");
        assert_eq!(story.verdict(&hidden), "outlier, rejected");
        assert_eq!(story.verdict(&cites), "rejected, partial");
        story.release();
        assert_eq!(story.verdict(&kick), "rejected");
        assert_eq!(story.verdict(&invite), "accepted");
        assert_eq!(story.verdict(&join), "accepted");
        assert_eq!(story.verdict(&hidden), "outlier, accepted");
        assert_eq!(story.verdict(&cites), "accepted");
        assert_eq!(story.engine().stats().verdicts_changed, 5);
        story.assert_converged();
    }
}
