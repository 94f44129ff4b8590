//! Bodies that the host has put in files.

use std::{fs::File, io::Write};

use gibbous::{
    Limits, Request, RequestError, Response, RoomVersionId, Spooled,
    testing::{Asked, Reply, RoomBuilder, S, S2, Story},
};

use super::{in_memory, join, on_two_servers};

/// Every kind of question that the joining server has.
const ALL: [Asked; 6] =
    [Asked::StateIds, Asked::State, Asked::Events, Asked::MissingEvents, Asked::EventAuth, Asked::ServerKeys];

/// Returns the response in a file, and another handle of that.
fn spooled(response: &Response) -> (Response, File) {
    let Response::Body(body) = response else { panic!("it is no body, but {response:?}") };
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    file.write_all(body).expect("there is room for it");
    let other = file.try_clone().expect("it is open");
    (Response::Spooled(Spooled::new(file)), other)
}

fn answer(story: &mut Story, request: &Request) {
    let response = story.honest_answer(request);
    story.answer(request.id, response);
}

/// Alice has joined, and nobody has answered anything yet.
fn unanswered() -> Story {
    let mut story = on_two_servers(&RoomVersionId::V11, in_memory());
    for asked in ALL {
        story.servers.set_all(asked, Reply::Silence);
    }
    story.servers.set(S, Asked::ServerKeys, Reply::Honest);
    join(story)
}

fn kinds(story: &Story) -> Vec<Asked> {
    story.asked.iter().map(|request| Asked::of(&request.kind)).collect()
}

#[test]
fn a_body_in_a_file_says_what_it_says_in_memory() {
    let mut story = unanswered();
    let mut at = 0;
    while let Some(request) = story.asked.get(at).cloned() {
        let response = story.honest_answer(&request);
        let response = if matches!(response, Response::Body(_)) { spooled(&response).0 } else { response };
        story.answer(request.id, response);
        at += 1;
    }
    for asked in [Asked::StateIds, Asked::State, Asked::ServerKeys] {
        assert!(kinds(&story).contains(&asked), "{asked:?}");
    }
    assert!(!story.view().is_partial());
    assert_eq!(story.holes(), Some(Vec::new()));
    story.assert_converged();
}

#[test]
fn a_file_that_cannot_be_read_is_no_answer_and_the_next_server_is_asked() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    for kind in [Asked::StateIds, Asked::State] {
        let mut story = unanswered();
        let mut at = 0;
        while let Some(request) = story.asked.get(at).cloned() {
            at += 1;
            let honest = story.honest_answer(&request);
            let response = match Asked::of(&request.kind) == kind && request.destination == S {
                // It is opened for writing alone.
                true => Response::Spooled(Spooled::new(File::create(dir.path().join("body")).expect("it can be made"))),
                false => honest,
            };
            story.answer(request.id, response);
        }
        assert!(story.questions().contains(&(S2, Asked::StateIds)), "{:?}", story.questions());
        assert!(!story.view().is_partial());
        assert_eq!(story.holes(), Some(Vec::new()));
        story.assert_converged();
    }
}

#[test]
fn events_that_are_gone_from_the_file_when_the_keys_have_come_are_asked_for_anew() {
    // More servers than members are told at the join: the keys of most are not known before the state comes.
    let members = |room: &mut RoomBuilder| (0..10).for_each(|n| drop(room.join(&format!("@user:s{n}.example")).send()));
    let mut story = Story::with(&RoomVersionId::V11, &[], members, in_memory(), Limits::default());
    story.servers.set_all(Asked::StateIds, Reply::Silence);
    story.servers.set_all(Asked::State, Reply::Silence);
    let mut story = join(story);
    let spool = |story: &mut Story, kind: Asked| {
        let request =
            story.asked.iter().rfind(|request| Asked::of(&request.kind) == kind).expect("it was asked").clone();
        let (response, file) = spooled(&story.honest_answer(&request));
        story.answer(request.id, response);
        file
    };
    spool(&mut story, Asked::StateIds);
    story.servers.set_all(Asked::ServerKeys, Reply::Held);
    let before = story.asked.len();
    let file = spool(&mut story, Asked::State);
    assert!(kinds(&story)[before..].iter().all(|asked| *asked == Asked::ServerKeys), "{:?}", story.questions());
    assert!(story.asked.len() > before && story.view().is_partial());
    file.set_len(0).expect("it is open");
    story.release();
    assert!(kinds(&story)[before..].contains(&Asked::Events), "{:?}", story.questions());
    assert!(!story.view().is_partial());
    assert_eq!(story.holes(), Some(Vec::new()));
    story.assert_converged();
}

#[test]
fn events_wait_unread_as_often_as_their_servers_may_be_asked_again() {
    let members = |room: &mut RoomBuilder| (0..10).for_each(|n| drop(room.join(&format!("@user:s{n}.example")).send()));
    let mut story = Story::with(&RoomVersionId::V11, &[], members, in_memory(), Limits::default());
    story.servers.set_all(Asked::State, Reply::Silence);
    let mut story = join(story);
    story.servers.set_all(Asked::ServerKeys, Reply::Silence);
    let state = story.asked.last().expect("something was asked").clone();
    assert_eq!(Asked::of(&state.kind), Asked::State);
    story.take_asked();
    let (response, _) = spooled(&story.honest_answer(&state));
    story.answer(state.id, response);
    let asked = story.take_asked();
    assert!(asked.len() > 2 && asked.iter().all(|request| Asked::of(&request.kind) == Asked::ServerKeys), "{asked:?}");
    // One fails, and may be asked again when the last one answers.
    let (failing, others) = asked.split_first().expect("keys were asked for");
    story.answer(failing.id, Response::Failed(RequestError::Timeout));
    story.now_ms += Limits::default().backoff_ms_min;
    for request in others {
        assert_eq!(story.take_asked(), [], "nothing is asked before all have answered");
        answer(&mut story, request);
    }
    let asked = story.take_asked();
    let destinations: Vec<_> = asked.iter().map(|request| (&request.destination, Asked::of(&request.kind))).collect();
    assert_eq!(destinations, [(&failing.destination, Asked::ServerKeys)]);
    assert!(story.view().is_partial());
    answer(&mut story, &asked[0]);
    // The event that the state is at has not come with it.
    while let Some(request) = story.take_asked().iter().find(|request| Asked::of(&request.kind) == Asked::ServerKeys) {
        answer(&mut story, request);
    }
    assert!(!story.view().is_partial());
    assert_eq!(story.holes(), Some(Vec::new()));
    story.assert_converged();
}
