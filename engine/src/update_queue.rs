//! What the host is still to be told: of each room a range of its log, however long, since the log keeps it.

use std::collections::{BTreeMap, VecDeque};

use gibbous_codec::{LogSeq, OwnedRoomId, RoomId};

use crate::{Change, Update, UpdatePosition};

/// The rooms that have something to tell, in turn.
#[derive(Debug, Default)]
pub(crate) struct UpdateQueue {
    turns: VecDeque<OwnedRoomId>,
    rooms: BTreeMap<OwnedRoomId, Untold>,
    /// The updates of the record that was read last.
    ready: VecDeque<Update>,
}

/// What is still to be told of a room.
#[derive(Debug)]
struct Untold {
    next: LogSeq,
    /// The record behind the last.
    end: LogSeq,
    /// What the host has dealt with: not told again.
    dealt_with: Option<UpdatePosition>,
    /// Records were passed over, from here on.
    lagged: Option<LogSeq>,
}

impl UpdateQueue {
    /// Takes up what a room has committed: so many records from a place in its log on. Of more than `records_max` that are
    /// untold the host is told only that it lags.
    pub(crate) fn add(&mut self, room_id: &RoomId, from: LogSeq, records: u64, records_max: usize) {
        let end = LogSeq(from.0.saturating_add(records));
        // A room has a turn as long as it is here.
        let untold = self.rooms.entry(room_id.to_owned()).or_insert_with(|| {
            self.turns.push_back(room_id.to_owned());
            Untold { next: from, end, dealt_with: None, lagged: None }
        });
        if untold.next == untold.end && untold.lagged.is_none() {
            untold.next = untold.next.max(from);
        }
        untold.end = untold.end.max(end);
        if untold.end.0.saturating_sub(untold.next.0) > records_max as u64 {
            untold.lagged.get_or_insert(untold.next);
            untold.next = untold.end;
        }
    }

    /// Returns how many records have not been told.
    pub(crate) fn untold(&self) -> u64 {
        self.rooms.values().map(|untold| untold.end.0.saturating_sub(untold.next.0)).sum()
    }

    /// Takes up a room where the host has left it: so many records of its log may not have been dealt with.
    pub(crate) fn resume(&mut self, room_id: &RoomId, position: UpdatePosition, records: u64, records_max: usize) {
        let UpdatePosition { seq, .. } = position;
        self.add(room_id, seq, 0, records_max);
        self.acknowledge(room_id, position);
        self.add(room_id, seq, records, records_max);
    }

    /// The host has dealt with a room's updates up to this one: they are not told again.
    pub(crate) fn acknowledge(&mut self, room_id: &RoomId, position: UpdatePosition) {
        self.ready.retain(|update| update.room_id != room_id || update.position > position);
        let Some(untold) = self.rooms.get_mut(room_id) else { return };
        untold.dealt_with = untold.dealt_with.max(Some(position));
        untold.next = untold.next.max(position.seq).min(untold.end);
        if position.seq.0.saturating_add(1) >= untold.next.0 {
            untold.lagged = None;
        }
    }

    /// Returns the next update, where the record that it follows from has been read.
    pub(crate) fn pop(&mut self) -> Option<Update> {
        if let Some(update) = self.ready.pop_front() {
            return Some(update);
        }
        let room_id = self.turns.front()?.clone();
        let untold = self.rooms.get_mut(&room_id)?;
        let from = untold.lagged.take()?;
        // Who acknowledges it has dealt with all that was passed over.
        let position = UpdatePosition { seq: LogSeq(untold.next.0.saturating_sub(1)), index: u32::MAX };
        self.end_turn();
        Some(Update { room_id, position, change: Change::Lagged { from } })
    }

    /// Returns the record that is to be read next.
    pub(crate) fn next(&self) -> Option<(OwnedRoomId, LogSeq)> {
        let room_id = self.turns.front()?;
        let untold = self.rooms.get(room_id)?;
        Some((room_id.clone(), untold.next))
    }

    /// Takes the updates of that record.
    pub(crate) fn read(&mut self, updates: Vec<Update>) {
        let Some(untold) = self.turns.front().and_then(|room_id| self.rooms.get_mut(room_id)) else { return };
        let dealt_with = untold.dealt_with;
        self.ready.extend(updates.into_iter().filter(|update| Some(update.position) > dealt_with));
        untold.next = LogSeq(untold.next.0.saturating_add(1)).min(untold.end);
        self.end_turn();
    }

    /// That record could not be read: it waits until the other rooms have had their turns.
    pub(crate) fn put_off(&mut self) {
        self.turns.rotate_left(self.turns.len().min(1));
    }

    /// The next room's turn. A room with nothing to tell waits for none.
    fn end_turn(&mut self) {
        let Some(room_id) = self.turns.pop_front() else { return };
        match self.rooms.get(&room_id) {
            Some(untold) if untold.next < untold.end => self.turns.push_back(room_id),
            _ => drop(self.rooms.remove(&room_id)),
        }
    }

    /// Forgets the updates of a room that is no more.
    pub(crate) fn forget(&mut self, room_id: &RoomId) {
        self.turns.retain(|turn| turn != room_id);
        self.rooms.remove(room_id);
        self.ready.retain(|update| update.room_id != room_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> OwnedRoomId {
        format!("!{name}:a.example").try_into().expect("a room ID")
    }

    fn told(queue: &mut UpdateQueue) -> Vec<(OwnedRoomId, UpdatePosition, Change)> {
        let mut told = Vec::new();
        loop {
            if let Some(update) = queue.pop() {
                told.push((update.room_id, update.position, update.change));
                continue;
            }
            let Some((room_id, seq)) = queue.next() else { return told };
            // Each record tells of two updates.
            let update = |index| Update {
                room_id: room_id.clone(),
                position: UpdatePosition { seq, index },
                change: Change::RoomFullStated,
            };
            queue.read(vec![update(0), update(1)]);
        }
    }

    fn positions(queue: &mut UpdateQueue) -> Vec<(u64, u32)> {
        told(queue).into_iter().map(|(_, position, _)| (position.seq.0, position.index)).collect()
    }

    #[test]
    fn each_record_is_told_once_and_the_rooms_take_turns() {
        let mut queue = UpdateQueue::default();
        queue.add(&room("a"), LogSeq(0), 2, 10);
        queue.add(&room("b"), LogSeq(7), 1, 10);
        queue.add(&room("a"), LogSeq(2), 1, 10);
        let told: Vec<_> = told(&mut queue).into_iter().map(|(room, position, _)| (room, position.seq.0)).collect();
        let [a, b] = ["a", "b"].map(room);
        let expected = [(&a, 0), (&a, 0), (&b, 7), (&b, 7), (&a, 1), (&a, 1), (&a, 2), (&a, 2)];
        assert_eq!(told, expected.map(|(room, seq)| (room.clone(), seq)));
        queue.add(&a, LogSeq(3), 1, 10);
        assert_eq!(positions(&mut queue), [(3, 0), (3, 1)]);
    }

    #[test]
    fn what_is_dealt_with_is_not_told() {
        let mut queue = UpdateQueue::default();
        queue.add(&room("a"), LogSeq(0), 5, 10);
        queue.acknowledge(&room("a"), UpdatePosition { seq: LogSeq(3), index: 0 });
        assert_eq!(positions(&mut queue), [(3, 1), (4, 0), (4, 1)]);
    }

    #[test]
    fn what_is_ready_and_dealt_with_is_not_told() {
        let mut queue = UpdateQueue::default();
        queue.add(&room("a"), LogSeq(0), 1, 10);
        queue.read(vec![Update {
            room_id: room("a"),
            position: UpdatePosition { seq: LogSeq(0), index: 0 },
            change: Change::RoomFullStated,
        }]);
        queue.acknowledge(&room("a"), UpdatePosition { seq: LogSeq(0), index: 0 });
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_host_that_lags_is_told_so_once_and_then_what_is_new() {
        let mut queue = UpdateQueue::default();
        for seq in 0..12 {
            queue.add(&room("a"), LogSeq(seq), 1, 10);
        }
        queue.add(&room("b"), LogSeq(0), 1, 10);
        let told = told(&mut queue);
        let (_, position, change) = told.first().expect("something is told");
        assert_eq!(change, &Change::Lagged { from: LogSeq(0) });
        assert_eq!(*position, UpdatePosition { seq: LogSeq(10), index: u32::MAX });
        let rest: Vec<_> = told[1..].iter().map(|(room, position, _)| (room.clone(), position.seq.0)).collect();
        let [a, b] = ["a", "b"].map(room);
        assert_eq!(rest, [(b.clone(), 0), (b, 0), (a.clone(), 11), (a, 11)]);
    }
}
