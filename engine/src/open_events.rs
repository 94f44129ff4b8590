//! The events of a room that are not done: those that wait, those with a verdict under partial state, and those that
//! await the fold of check 6.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
};

use gibbous_codec::{EventId, EventNum, EventState, LogSeq, OwnedEventId, Position, Stage};

/// An event's place in the canonical order: [`Position`], then depth and event ID among those that fill one gap.
pub(crate) type OrderKey = (Position, u64, String);

/// What an open event is waiting to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenKind {
    /// Its server's keys are not known.
    Unverified,
    /// It has no verdict, for want of prev or auth events.
    Waiting,
    /// Its verdict may change when the states that it rests on are full.
    Partial,
    /// An outlier whose verdict may change.
    ProvisionalOutlier,
    /// It has its full state and awaits the fold of check 6.
    Full,
}

impl OpenKind {
    /// Tells whether such an event has no verdict yet.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::Unverified | Self::Waiting)
    }
}

/// One open event.
#[derive(Clone, Debug)]
pub(crate) struct OpenEvent {
    pub(crate) kind: OpenKind,
    pub(crate) order: Option<OrderKey>,
    /// Whether it waits for nothing but the resync: what follows it too does not wait for it.
    pub(crate) is_stuck: bool,
}

/// Every open event of a room, in canonical order, and who waits for whom.
#[derive(Debug, Default)]
pub(crate) struct OpenEvents {
    events: BTreeMap<EventNum, OpenEvent>,
    order: BTreeMap<OrderKey, EventNum>,
    /// What each event waits for.
    awaited: Links,
    /// Which events' verdicts it waits for that it neither follows nor cites, but the states before it rest on.
    settling: Links,
    /// How many events wait without a verdict.
    waiting: usize,
    /// Events that something they waited for has happened to.
    ready: BTreeSet<EventNum>,
    /// What each event follows.
    followed: Links,
    /// Roots at which events have stood, and may stand no longer.
    left_roots: BTreeSet<LogSeq>,
}

/// Which events, stored or not, open events refer to; to be read from either end.
#[derive(Debug, Default)]
struct Links {
    to: BTreeMap<EventNum, BTreeSet<OwnedEventId>>,
    from: BTreeMap<OwnedEventId, BTreeSet<EventNum>>,
}

impl Links {
    fn add(&mut self, num: EventNum, event_ids: impl IntoIterator<Item = OwnedEventId>) {
        let to = self.to.entry(num).or_default();
        for event_id in event_ids {
            self.from.entry(event_id.clone()).or_default().insert(num);
            to.insert(event_id);
        }
    }

    fn remove(&mut self, num: EventNum) {
        for event_id in self.to.remove(&num).into_iter().flatten() {
            if let Some(from) = self.from.get_mut(&event_id) {
                from.remove(&num);
                if from.is_empty() {
                    self.from.remove(&event_id);
                }
            }
        }
    }

    /// Cuts the links to an event; returns where they came from.
    fn cut(&mut self, event_id: &EventId) -> BTreeSet<EventNum> {
        let from = self.from.remove(event_id).unwrap_or_default();
        for num in &from {
            if let Some(to) = self.to.get_mut(num) {
                to.remove(event_id);
            }
        }
        from
    }

    fn to(&self, num: EventNum) -> impl Iterator<Item = &OwnedEventId> {
        self.to.get(&num).into_iter().flatten()
    }

    fn from(&self, event_id: &EventId) -> impl Iterator<Item = EventNum> {
        self.from.get(event_id).into_iter().flatten().copied()
    }
}

impl OpenEvents {
    /// Takes up an event, or what it has become; drops it when it is done.
    pub(crate) fn set(&mut self, num: EventNum, event_id: &EventId, depth: u64, state: &EventState) {
        self.take_out(num);
        let kind = match &state.stage {
            Stage::Unverified => OpenKind::Unverified,
            Stage::Waiting => OpenKind::Waiting,
            Stage::Placed { partial: true, .. } => OpenKind::Partial,
            Stage::Placed { partial: false, .. } => OpenKind::Full,
            Stage::Outlier { provisional: true, .. } => OpenKind::ProvisionalOutlier,
            Stage::Outlier { provisional: false, .. } | Stage::Dropped | Stage::History { .. } => {
                self.followed.remove(num);
                return;
            }
        };
        let order = state.position.map(|position| (position, depth, event_id.to_string()));
        if let Some(order) = &order {
            self.order.insert(order.clone(), num);
        }
        self.waiting += usize::from(kind.waits());
        self.events.insert(num, OpenEvent { kind, order, is_stuck: false });
    }

    /// Drops an event that is done, and what it waited for.
    pub(crate) fn remove(&mut self, num: EventNum) {
        self.take_out(num);
        self.followed.remove(num);
    }

    fn take_out(&mut self, num: EventNum) {
        if let Some(event) = self.events.remove(&num) {
            self.waiting -= usize::from(event.kind.waits());
            self.left_roots.insert(LogSeq(num.0));
            if let Some(order) = event.order {
                self.left_roots.insert(order.0.root);
                self.order.remove(&order);
            }
        }
        self.awaited.remove(num);
        self.settling.remove(num);
    }

    pub(crate) fn get(&self, num: EventNum) -> Option<&OpenEvent> {
        self.events.get(&num)
    }

    /// Returns the open events that have a place in the canonical order, in that order.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (EventNum, &OpenEvent)> {
        self.order.values().filter_map(|num| Some((*num, self.events.get(num)?)))
    }

    /// Returns the open events with a verdict that stand behind a place in the canonical order, or all, in that order.
    pub(crate) fn placed_behind(&self, last: Option<&OrderKey>) -> Vec<(EventNum, OrderKey)> {
        let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
        let events = self.order.range::<OrderKey, _>((behind, Bound::Unbounded));
        let is_placed = |num: &EventNum| self.events.get(num).is_some_and(|event| !event.kind.waits());
        events.filter(|(_, num)| is_placed(num)).map(|(order, num)| (*num, order.clone())).collect()
    }

    /// Returns every open event by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EventNum, &OpenEvent)> {
        self.events.iter().map(|(num, event)| (*num, event))
    }

    /// Returns the first open event in canonical order.
    pub(crate) fn first(&self) -> Option<(EventNum, &OpenEvent)> {
        self.in_order().next()
    }

    /// Tells whether no open event has a place in the canonical order: check 6 is final for everything.
    pub(crate) fn is_folded(&self) -> bool {
        self.order.is_empty()
    }

    /// Returns how many events wait without a verdict.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the open events that fill the gap before a root, and the root itself.
    pub(crate) fn of_root(&self, root: LogSeq) -> Vec<EventNum> {
        let first = |root| (Position { root, is_root: false }, 0, String::new());
        self.order.range(first(root)..first(LogSeq(root.0 + 1))).map(|(_, num)| *num).collect()
    }

    /// Returns the root of the gap that an event belongs to: itself, if it has no place in the canonical order yet.
    pub(crate) fn root_of(&self, num: EventNum) -> LogSeq {
        let order = self.events.get(&num).and_then(|event| event.order.as_ref());
        order.map_or(LogSeq(num.0), |(position, ..)| position.root)
    }

    /// Returns the roots at which events have stood since this was asked last, and may stand no longer.
    pub(crate) fn take_left_roots(&mut self) -> BTreeSet<LogSeq> {
        mem::take(&mut self.left_roots)
    }

    /// Tells whether it is still to be said which events an open event follows.
    pub(crate) fn lacks_prev_events(&self, num: EventNum) -> bool {
        self.events.contains_key(&num) && !self.followed.to.contains_key(&num)
    }

    /// Notes which events an open event follows.
    pub(crate) fn follow(&mut self, num: EventNum, prev_events: Vec<OwnedEventId>) {
        self.followed.add(num, prev_events);
    }

    /// Returns which events an open event follows.
    pub(crate) fn followed(&self, num: EventNum) -> impl Iterator<Item = &OwnedEventId> {
        self.followed.to(num)
    }

    /// Returns the open events that follow another.
    pub(crate) fn followers(&self, of_event: &EventId) -> impl Iterator<Item = (EventNum, &OpenEvent)> {
        self.followed.from(of_event).filter_map(|num| Some((num, self.events.get(&num)?)))
    }

    /// Returns where the earliest stands of the open events that follow another and have a place.
    pub(crate) fn earliest_follower(&self, of_event: &EventId) -> Option<LogSeq> {
        self.followers(of_event).filter_map(|(_, event)| Some(event.order.as_ref()?.0.root)).min()
    }

    /// Notes that an event waits for another, which may not be stored yet.
    pub(crate) fn wait(&mut self, num: EventNum, for_event: OwnedEventId) {
        self.awaited.add(num, [for_event]);
    }

    /// Notes that an event waits for the verdict on another one that the states before it rest on.
    pub(crate) fn wait_to_settle(&mut self, num: EventNum, for_event: OwnedEventId) {
        self.settling.add(num, [for_event]);
    }

    /// Returns whose verdicts an event waits for though it neither follows nor cites them.
    pub(crate) fn settling(&self, num: EventNum) -> impl Iterator<Item = &OwnedEventId> {
        self.settling.to(num)
    }

    /// Lets those look again that wait for the verdict on an event though they neither follow nor cite it.
    pub(crate) fn look_whether_settled(&mut self, event_id: &EventId) {
        self.ready.extend(self.settling.cut(event_id));
    }

    /// Lets all look again that wait for the verdict on an event though they neither follow nor cite it.
    pub(crate) fn look_whether_all_settled(&mut self) {
        self.ready.extend(self.settling.to.keys());
    }

    /// Returns the events that wait for another.
    pub(crate) fn waiters(&self, for_event: &EventId) -> impl Iterator<Item = EventNum> {
        self.awaited.from(for_event)
    }

    /// Returns what an event waits for.
    pub(crate) fn awaited(&self, num: EventNum) -> impl Iterator<Item = &OwnedEventId> {
        self.awaited.to(num)
    }

    /// Notes that an event waits for nothing but the resync; those that wait for it look again.
    pub(crate) fn set_stuck(&mut self, num: EventNum, event_id: &EventId) {
        if let Some(event) = self.events.get_mut(&num).filter(|event| !event.is_stuck) {
            event.is_stuck = true;
            self.wake(event_id);
        }
    }

    /// Lets those that wait for an event look again.
    pub(crate) fn wake(&mut self, event_id: &EventId) {
        self.ready.extend(self.awaited.cut(event_id));
        self.look_whether_settled(event_id);
    }

    /// Lets an event look whether it can go on, if it is open.
    pub(crate) fn look_again(&mut self, num: EventNum) {
        if self.events.contains_key(&num) {
            self.ready.insert(num);
        }
    }

    /// Returns the next event that can look again, by number: a fixed order, so that a replay takes the same way.
    pub(crate) fn next_ready(&mut self) -> Option<EventNum> {
        self.ready.pop_first()
    }
}
