//! Garbage: nodes of state groups that no state of a room rests on any more, found by what can be reached.

use std::collections::BTreeSet;

use gibbous_codec::{CurrentRow, EventNum, Kind, LogRecord, LogSeq, NodeHash, RoomNum, Stage, StateGroup};

use crate::{
    BATCH_ADVISED_MAX, Batch, Store, StoreError, Table,
    keys::{current_key, decode_row, room_prefix},
    pages::pages,
    rows::{RoomRows, Rows},
    state_group::{Node, NodeSource},
};

/// How many rows are read at a time.
const PAGE: usize = 1_000;

/// What a collection of garbage has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Nodes of state groups.
    pub nodes: u64,
    /// The bytes of their rows, keys and values.
    pub bytes: u64,
}

impl Store {
    /// Removes the nodes that neither a room's current state nor the state before or after any of its events rests on:
    /// what partial states leave behind when their events get their full ones, and states that came to nothing. Reads
    /// the room's log and every node that stays; remembers 16 bytes for each of these.
    ///
    /// It is for the room's writer: a group that is remembered elsewhere, a view among them, may have lost its nodes
    /// afterwards. Where there is something to remove, a record ([`LogRecord::Collected`]) is appended first, by which
    /// other writers know. What a crash leaves undone is left for the next time.
    ///
    /// # Errors
    ///
    /// If the backend fails, a row is damaged, or another writer changes the room meanwhile ([`StoreError::Conflict`]).
    pub fn collect_garbage(&self, room: RoomNum) -> Result<Collected, StoreError> {
        let rows = self.snapshot(room)?;
        let prefix = room_prefix(room);
        let Some(head) = rows.head()? else { return Ok(Collected::default()) };
        let live = live_nodes(&rows)?;
        let mut collected = Collected::default();
        let mut head_after = None;
        for page in pages(prefix.clone(), PAGE, |from, size| rows.rows(Table::Nodes, &prefix, from, size)) {
            let mut batch = Batch::new();
            for (key, value) in page? {
                let is_live = key.get(prefix.len()..).is_some_and(|hash| live.contains(hash));
                if !is_live {
                    collected.nodes += 1;
                    collected.bytes += (key.len() + value.len()) as u64;
                    batch.delete(Table::Nodes, key);
                }
            }
            debug_assert!(batch.bytes() < BATCH_ADVISED_MAX, "a page of keys is no large batch");
            if batch.rows() == 0 {
                continue;
            }
            let head_after = match &head_after {
                Some(head) => head,
                None => head_after.insert(self.announce_collection(room, LogSeq(head.next_seq))?),
            };
            batch.expect_equals(Table::Head, prefix.clone(), head_after.clone());
            self.write(&batch)?;
        }
        self.forget_nodes(|of, hash| of == room && !live.contains(&hash.0[..]));
        Ok(collected)
    }

    /// Appends the record that nodes are about to be removed, to a log that ends where it ended when these were looked
    /// for. Returns the head row.
    fn announce_collection(&self, room: RoomNum, end: LogSeq) -> Result<Vec<u8>, StoreError> {
        let mut txn = self.txn(room)?;
        txn.expect_end(end)?;
        txn.stage(&LogRecord::Collected)?;
        txn.forget_stored_nodes();
        Ok(txn.commit_with_head()?.1.unwrap_or_default())
    }
}

/// Hashes of nodes, each once.
#[derive(Debug, Default)]
pub(crate) struct Nodes(BTreeSet<NodeHash>);

impl Nodes {
    /// Tells whether a node of that hash, given as the bytes in its key, is among them.
    pub(crate) fn contains(&self, hash: &[u8]) -> bool {
        hash.try_into().is_ok_and(|hash| self.0.contains(&NodeHash(hash)))
    }

    /// Adds the nodes of a state.
    fn add(&mut self, nodes: &impl NodeSource, group: StateGroup) -> Result<(), StoreError> {
        let with = self.with(nodes, group)?;
        self.0.extend(with.0);
        Ok(())
    }

    /// Returns the nodes of a state that are not among these: all of them, or none where one is missing.
    fn with(&self, nodes: &impl NodeSource, group: StateGroup) -> Result<Self, StoreError> {
        let mut found = BTreeSet::new();
        let mut next = Vec::new();
        if !group.is_empty() && !self.0.contains(&group.root) {
            found.insert(group.root);
            next.push(group.root);
        }
        while let Some(hash) = next.pop() {
            let node = nodes.node(&hash)?.ok_or(StoreError::MissingNode { hash })?;
            if let Node::Inner(inner) = &*node {
                let children = inner.children().iter().map(|child| child.hash);
                next.extend(children.filter(|hash| !self.0.contains(hash) && found.insert(*hash)));
            }
        }
        Ok(Self(found))
    }
}

/// Returns the nodes that the states of a room rest on: its current one, those before and after its events, and those
/// that it was said to have and that the host has not dealt with yet.
pub(crate) fn live_nodes<R: RoomRows>(rows: &R) -> Result<Nodes, StoreError> {
    let mut live = Nodes::default();
    let Some(head) = rows.head()? else { return Ok(live) };
    live.add(rows, head.current)?;
    let mut next = LogSeq(0);
    loop {
        let page = rows.records_from(next, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        next = LogSeq(last.0 + 1);
        for (seq, record) in page {
            let LogRecord::Event(record) = record else { continue };
            let stage = rows.changed(EventNum(seq.0))?.map_or(record.state.stage, |changed| changed.stage);
            if let Stage::Placed { states, .. }
            | Stage::Outlier { states: Some(states), .. }
            | Stage::History { states, .. } = stage
            {
                live.add(rows, states.before)?;
                live.add(rows, states.after)?;
            }
        }
    }
    // Last, so that of a state that is not whole any more nothing is taken for walked through that a whole one rests on.
    for current in told(rows)? {
        match live.with(rows, current) {
            Ok(with) => live.0.extend(with.0),
            // It was collected before the host said what it has dealt with.
            Err(StoreError::MissingNode { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(live)
}

/// Returns the current states that were told from the last one that the host has dealt with on; the last of all, if it
/// never says what it has dealt with.
fn told<R: RoomRows>(rows: &R) -> Result<Vec<StateGroup>, StoreError> {
    let dealt_with = rows.acknowledged()?.map_or(LogSeq(u64::MAX), |acknowledged| acknowledged.seq);
    let prefix = room_prefix(rows.room());
    let mut told = Vec::new();
    for page in pages(prefix.clone(), PAGE, |from, size| rows.rows(Table::Currents, &prefix, from, size)) {
        for (key, bytes) in page? {
            told.push(decode_row::<CurrentRow>(Table::Currents, &key, Kind::Current, &bytes)?.current);
            if key >= current_key(rows.room(), dealt_with) || dealt_with == LogSeq(u64::MAX) {
                return Ok(told);
            }
        }
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::room_bytes_key;

    #[test]
    fn what_is_no_hash_is_not_among_them() {
        let nodes = Nodes(BTreeSet::from([NodeHash([7; 16])]));
        assert!(nodes.contains(&[7; 16]) && !nodes.contains(&[7; 15]) && !nodes.contains(&[8; 16]));
        let key = room_bytes_key(RoomNum(1), &[7; 16]);
        assert!(nodes.contains(&key[room_prefix(RoomNum(1)).len()..]));
    }
}
