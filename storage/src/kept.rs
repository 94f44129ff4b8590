//! What a room's writer need not read or write again: event IDs and how far events have come, since most events of a
//! room cite the same few; who cites those, which state resolution asks of each of them; and which nodes of state groups
//! it has stored, since states come to the same again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gibbous_codec::{ChangedState, EventId, EventNum, IdRow, NodeHash, OwnedEventId, RoomNum};

use crate::{
    Table,
    spans::{Page, PageStart},
    state_index::cited_id,
};

/// How many rows of each kind are kept of a room: half a MiB of each.
const ROWS_MAX: usize = 4_096;

/// How many pages of state events are kept of a room and a table: at most two MiB, but most name few events.
const PAGES_MAX: usize = 1_024;

/// How many hashes of nodes are kept of a room: at most a quarter of a MiB.
const NODES_MAX: usize = 8_192;

/// How many events are kept of those that are cited and not stored: at most a quarter of a MiB.
pub(crate) const CITED_MAX: usize = 1_024;

/// How many rooms' rows are kept between transactions.
const ROOMS_MAX: usize = 16;

/// What a writer has read of one room. None of it is staged.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The room's head row when this was so. Every commit to the room changes it, whoever makes it.
    pub(crate) head: Option<Vec<u8>>,
    ids: BTreeMap<OwnedEventId, IdRow>,
    /// `None`: nothing has changed of the event since it was stored.
    states: BTreeMap<EventNum, Option<ChangedState>>,
    cited: Cited,
    /// Who cites an event, and which events are at a key of the state: the rules ask for it again and again.
    pub(crate) pages: KeptPages,
    /// Nodes that were committed and not removed since: garbage is collected with a record, too.
    nodes: BTreeSet<NodeHash>,
}

/// Pages of [`StateEvents`](crate::StateEvents), by where they begin. No two of a set have a key in common, so that whoever
/// writes a row has one page to forget.
#[derive(Debug, Default)]
pub(crate) struct KeptPages(BTreeMap<Table, BTreeMap<Vec<u8>, KeptPage>>);

#[derive(Debug)]
struct KeptPage {
    page: Page,
    /// How many bytes of the key that it begins with the keys of its set have in common.
    set_len: usize,
}

impl KeptPages {
    pub(crate) fn get(&self, start: PageStart<'_>) -> Option<Page> {
        Some(self.0.get(&start.table)?.get(start.from)?.page.clone())
    }

    pub(crate) fn put(&mut self, start: PageStart<'_>, page: Page) {
        let pages = self.0.entry(start.table).or_default();
        // Where a row was removed, or while others were read, pages begin elsewhere than those that were read before.
        let until = page.next.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = pages.range::<[u8], _>((Bound::Excluded(start.from), until));
        let overlapping = behind.map(|(from, _)| from).take_while(|from| from.starts_with(start.set)).cloned();
        let mut overlapping: Vec<Vec<u8>> = overlapping.collect();
        let before = pages.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(start.from))).next_back();
        overlapping.extend(before.filter(|(from, kept)| kept.holds(from, start.from)).map(|(from, _)| from.clone()));
        for from in overlapping {
            pages.remove(&from);
        }
        let kept = KeptPage { page, set_len: start.set.len() };
        put(pages, PAGES_MAX, start.from.to_vec(), kept);
    }

    /// Another row has been staged at a key.
    fn forget(&mut self, table: Table, key: &[u8]) {
        let Some(pages) = self.0.get_mut(&table) else { return };
        let before = pages.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        let holding = before.filter(|(from, kept)| kept.holds(from, key)).map(|(from, _)| from.clone());
        if let Some(from) = holding {
            pages.remove(&from);
        }
    }
}

impl KeptPage {
    /// Tells whether the page, which begins at `from`, holds the row of a key that is not below, if there is one.
    fn holds(&self, from: &[u8], key: &[u8]) -> bool {
        key.starts_with(&from[..self.set_len]) && self.page.next.as_deref().is_none_or(|next| key < next)
    }
}

/// The events that state events cite and that are not stored, and perhaps some that are no longer cited or missing.
#[derive(Debug, Default)]
enum Cited {
    /// It has not been found out.
    #[default]
    Unknown,
    These(BTreeSet<OwnedEventId>),
    TooMany,
}

impl Kept {
    pub(crate) fn id(&self, event_id: &EventId) -> Option<IdRow> {
        self.ids.get(event_id).copied()
    }

    pub(crate) fn keep_id(&mut self, event_id: &EventId, row: IdRow) {
        put(&mut self.ids, ROWS_MAX, event_id.to_owned(), row);
    }

    pub(crate) fn state(&self, num: EventNum) -> Option<&Option<ChangedState>> {
        self.states.get(&num)
    }

    pub(crate) fn keep_state(&mut self, num: EventNum, state: Option<ChangedState>) {
        put(&mut self.states, ROWS_MAX, num, state);
    }

    /// What is held of an event has been staged, and may yet be discarded.
    pub(crate) fn forget_state(&mut self, num: EventNum) {
        self.states.remove(&num);
    }

    /// Tells whether state events may cite an event that is not stored; `None` where that has not been found out.
    pub(crate) fn may_be_cited(&self, event_id: &EventId) -> Option<bool> {
        match &self.cited {
            Cited::Unknown => None,
            Cited::These(cited) => Some(cited.contains(event_id)),
            Cited::TooMany => Some(true),
        }
    }

    /// Keeps all events that state events cite and that are not stored, unless there are too many.
    pub(crate) fn keep_cited(&mut self, cited: impl IntoIterator<Item = OwnedEventId>) {
        let cited: BTreeSet<OwnedEventId> = cited.into_iter().collect();
        self.cited = if cited.len() > CITED_MAX { Cited::TooMany } else { Cited::These(cited) };
    }

    pub(crate) fn has_node(&self, hash: &NodeHash) -> bool {
        self.nodes.contains(hash)
    }

    pub(crate) fn keep_nodes(&mut self, hashes: Vec<NodeHash>) {
        if self.nodes.len() + hashes.len() > NODES_MAX {
            self.nodes.clear();
        }
        self.nodes.extend(hashes.into_iter().take(NODES_MAX));
    }

    pub(crate) fn forget_nodes(&mut self) {
        self.nodes.clear();
    }

    /// Another row has been staged, which may yet be discarded.
    pub(crate) fn note_staged(&mut self, table: Table, key: &[u8]) {
        self.pages.forget(table, key);
        match table {
            Table::Citations => {
                if let (Cited::These(cited), Ok(event_id)) = (&mut self.cited, cited_id(key)) {
                    cited.insert(event_id);
                    if cited.len() > CITED_MAX {
                        self.cited = Cited::TooMany;
                    }
                }
            }
            Table::EventIds => {
                let id = key.get(size_of::<u64>()..).and_then(|id| std::str::from_utf8(id).ok());
                if let Some(event_id) = id.and_then(|id| <&EventId>::try_from(id).ok()) {
                    self.ids.remove(event_id);
                }
            }
            _ => {}
        }
    }
}

fn put<K: Ord, V>(rows: &mut BTreeMap<K, V>, max: usize, key: K, value: V) {
    if rows.len() >= max {
        rows.clear();
    }
    rows.insert(key, value);
}

/// What the writers of rooms leave to those that come after them; the room that was written to last is the last.
#[derive(Debug, Default)]
pub(crate) struct KeptRows(Mutex<Vec<(RoomNum, Kept)>>);

impl KeptRows {
    /// Takes what was kept of a room, if its head row is this one still.
    pub(crate) fn take(&self, room: RoomNum, head: Option<&Vec<u8>>) -> Kept {
        let kept = self.remove(room).filter(|kept| kept.head.as_ref() == head);
        kept.unwrap_or_else(|| Kept { head: head.cloned(), ..Kept::default() })
    }

    pub(crate) fn put(&self, room: RoomNum, kept: Kept) {
        self.remove(room);
        let mut rooms = self.rooms();
        if rooms.len() >= ROOMS_MAX {
            rooms.remove(0);
        }
        rooms.push((room, kept));
    }

    /// Drops what was kept of a room, and returns it.
    pub(crate) fn remove(&self, room: RoomNum) -> Option<Kept> {
        let mut rooms = self.rooms();
        let at = rooms.iter().position(|(num, _)| *num == room)?;
        Some(rooms.remove(at).1)
    }

    fn rooms(&self) -> MutexGuard<'_, Vec<(RoomNum, Kept)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
