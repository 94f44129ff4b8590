//! Garbage: a room goes on after what no state of it rests on was collected, in whole or in part.

use std::{collections::BTreeSet, sync::Arc};

use gibbous::{
    Backend, Config, Engine, Limits, MemoryBackend, RoomVersionId, RoomView, UpdatePosition,
    gibbous_codec::LogSeq,
    gibbous_storage::{Batch, Row, Table, state_group::Node},
    testing::{CHARLIE, DEREK, RoomBuilder, S, Storage, Story, US},
};
use serde_json::json;

#[test]
fn a_room_goes_on_after_its_garbage_was_collected() {
    let mut story = Story::joined(&RoomVersionId::V10);
    let name = story.room.state(CHARLIE, "m.room.name", "", json!({"name": "one"})).send();
    story.receive(S, &[&name]);
    story.release();
    let before = story.state_before(&name);
    let room = story.room.id().to_owned();
    let collected = story.engine().collect_garbage(&room).expect("the store works");
    assert!(collected.nodes > 0, "the partial states of the join and of the name are left");
    assert_eq!(story.state_before(&name), before);

    let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({"topic": "two"})).after(&[&name]).send();
    let other = story.room.state(CHARLIE, "m.room.name", "", json!({"name": "three"})).after(&[&name]).send();
    let meets = story.room.message(DEREK, "hello").after(&[&topic, &other]).send();
    story.receive(S, &[&topic, &other, &meets]);
    assert_eq!(story.verdict(&meets), "accepted");
    story.restart();
    story.assert_converged();
}

#[test]
fn state_ids_are_told_after_what_was_told_last_was_collected() {
    let mut story = Story::joined(&RoomVersionId::V10);
    let name = story.room.state(CHARLIE, "m.room.name", "", json!({"name": "one"})).send();
    let topic = story.room.state(CHARLIE, "m.room.topic", "", json!({"topic": "one"})).send();
    story.receive(S, &[&name, &topic]);
    let partial = story.view();
    let ids_before = |view: &RoomView| view.state_ids_before(&topic).expect("the store works");
    assert!(ids_before(&partial).is_some_and(|ids| ids.contains(&name)));
    story.release();
    let room = story.room.id().to_owned();
    story.engine().collect_garbage(&room).expect("the store works");
    let expected = story.room.state_before(&topic).values().cloned().collect();
    assert_eq!(ids_before(&story.view()), Some(expected));
    assert_eq!(ids_before(&partial), ids_before(&story.view()));
}

#[test]
fn a_collection_that_was_cut_short_leaves_a_room_that_goes_on() {
    let backend = MemoryBackend::new();
    let many = |room: &mut RoomBuilder| {
        for number in 0..40 {
            room.state(CHARLIE, "m.room.test", &number.to_string(), json!({"number": number})).send();
        }
    };
    let storage = Storage::Memory(backend.clone());
    let mut story = Story::with(&RoomVersionId::V10, &[], many, storage, Limits::default()).join_held();
    let mut events = Vec::new();
    for fork in 0..2 {
        let mut prev = story.join.clone();
        for number in 0..12 {
            let key = (fork * 20 + number).to_string();
            let event = story.room.state(CHARLIE, "m.room.test", &key, json!({"fork": fork})).after(&[&prev]);
            prev = event.send();
            events.push(prev.clone());
        }
    }
    // Each makes another current state, of which only the last is still of use.
    for event in &events {
        story.receive(S, &[event]);
    }
    let state = story.view().current_state().expect("the store works");
    let nodes = || backend.snapshot().expect("memory").scan(Table::Nodes, &[], &[], usize::MAX).expect("memory");
    let before = nodes();
    let room = story.room.id().to_owned();
    let collected = story.engine().collect_garbage(&room).expect("the store works");
    // It died when it had removed leaves, but not yet the inner nodes above them.
    let after = nodes();
    let mut batch = Batch::new();
    let is_inner = |value: &[u8]| matches!(Node::decode(value), Ok(Node::Inner(_)));
    for (key, value) in before.into_iter().filter(|row| !after.contains(row) && is_inner(&row.1)) {
        batch.put(Table::Nodes, key, value);
    }
    assert!(batch.rows() > 0 && (batch.rows() as u64) < collected.nodes);
    backend.commit(&batch).expect("memory can be written");
    story.restart();
    assert_eq!(story.view().current_state().expect("the state is made anew"), state);
    let hello = story.room.message(DEREK, "hello").after(&[&events[11], &events[23]]).send();
    story.receive(S, &[&hello]);
    assert_eq!(story.verdict(&hello), "accepted, partial");
    story.release();
    story.assert_converged();
}

/// Returns every row of a backend.
fn all_rows(backend: &MemoryBackend) -> Vec<(Table, Row)> {
    let snapshot = backend.snapshot().expect("memory");
    let rows =
        |table| snapshot.scan(table, &[], &[], usize::MAX).expect("memory").into_iter().map(move |row| (table, row));
    Table::ALL.into_iter().flat_map(rows).collect()
}

fn backend_of<'r>(rows: impl IntoIterator<Item = &'r (Table, Row)>) -> MemoryBackend {
    let backend = MemoryBackend::new();
    let mut batch = Batch::new();
    rows.into_iter().for_each(|(table, (key, value))| batch.put(*table, key.clone(), value.clone()));
    backend.commit(&batch).expect("memory");
    backend
}

fn nodes_of(backend: &MemoryBackend) -> BTreeSet<Vec<u8>> {
    all_rows(backend).into_iter().filter(|(table, _)| *table == Table::Nodes).map(|(_, (key, _))| key).collect()
}

#[test]
fn what_a_state_that_is_not_whole_any_more_shares_with_a_whole_one_is_no_garbage() {
    let backend = MemoryBackend::new();
    let storage = Storage::Memory(backend.clone());
    let mut story = Story::with(&RoomVersionId::V11, &[], |_| {}, storage, Limits::default()).join_held();
    for number in 0..400 {
        let join = story.room.join(&format!("@u{number}:s2.example")).send();
        story.receive("s2.example", &[&join]);
    }
    story.release();
    let room = story.room.id().to_owned();
    let open = |backend: &MemoryBackend| {
        let config = Config::new(US.try_into().expect("a server name"));
        Engine::open(Arc::new(backend.clone()), config, 0).expect("the store can be opened")
    };
    let all = all_rows(&backend);
    let collected = backend_of(&all);
    open(&collected).collect_garbage(&room).expect("the store works");
    let live = nodes_of(&collected);
    let dead: Vec<_> = nodes_of(&backend).into_iter().filter(|key| !live.contains(key)).collect();
    // It was cut short; then the host says of an old update that it has dealt with it.
    for cut in (1..dead.len()).step_by(dead.len() / 8) {
        let is_left = |(table, (key, _)): &&(Table, Row)| *table != Table::Nodes || !dead[..cut].contains(key);
        let cut_short = backend_of(all.iter().filter(is_left));
        let engine = open(&cut_short);
        let position = UpdatePosition { seq: LogSeq(0), index: 0 };
        engine.acknowledge(&room, position, 0).expect("the store works");
        engine.collect_garbage(&room).expect("the store works");
        assert!(nodes_of(&cut_short).is_superset(&live), "cut short after {cut}");
    }
}
