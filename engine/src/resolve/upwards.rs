//! Upwards from an event to those that cite it, and so on: what rests on it, found without a walk through a whole state.

use std::collections::{BTreeMap, VecDeque};

use gibbous_codec::OwnedEventId;
use gibbous_storage::{RoomRows, StateEvents};

use super::{set::EventSet, source::EventIndex, stored::Stored};
use crate::Error;

/// A walk upwards from one event after another, to goals: each event on the way is looked at once, however many of those
/// asked about are below it, and from a goal nothing goes on. So the cost is that of the part between them and the goals.
pub(super) struct Upwards<'a, R: RoomRows> {
    source: &'a Stored<'a, R>,
    next: VecDeque<(EventIndex, StateEvents)>,
    seen: EventSet,
    /// The goals that were met, and what they rest on.
    reached: EventSet,
    /// What an event cites, of which it is not known whether a goal rests on it.
    below: BTreeMap<EventIndex, Vec<EventIndex>>,
}

impl<'a, R: RoomRows> Upwards<'a, R> {
    pub(super) fn new(source: &'a Stored<'a, R>) -> Self {
        let (seen, reached) = Default::default();
        Self { source, next: VecDeque::new(), seen, reached, below: BTreeMap::new() }
    }

    /// Tells whether a goal rests on an event, directly or over others. A goal is asked about once.
    pub(super) fn is_reached(
        &mut self,
        event: EventIndex,
        is_goal: impl Fn(EventIndex) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        if self.seen.insert(event) {
            self.next.push_front((event, self.source.citing(event)));
        }
        while !self.reached.contains(event) {
            let Some((below, mut citing)) = self.next.pop_front() else { return Ok(false) };
            if self.reached.contains(below) {
                continue;
            }
            let Some(page) = self.source.next_page(&mut citing)? else { continue };
            for above in page {
                if self.seen.insert(above) {
                    if is_goal(above)? {
                        self.reached.insert(above);
                    } else {
                        self.next.push_back((above, self.source.citing(above)));
                    }
                }
                if self.reached.contains(above) {
                    self.reach(below);
                    break;
                }
                self.below.entry(above).or_default().push(below);
            }
            self.next.push_back((below, citing));
        }
        Ok(true)
    }

    fn reach(&mut self, event: EventIndex) {
        let mut next = vec![event];
        while let Some(event) = next.pop() {
            if self.reached.insert(event) {
                next.extend(self.below.remove(&event).unwrap_or_default());
            }
        }
    }
}

/// Demands that no goal rests on an event that is not stored.
pub(super) fn expect_all_below<R: RoomRows>(
    source: &Stored<'_, R>,
    is_goal: impl Fn(EventIndex) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut lacking: BTreeMap<EventIndex, OwnedEventId> = BTreeMap::new();
    for missing in source.cited_and_missing()? {
        let mut citing = source.citing_missing(&missing);
        while let Some(page) = source.next_page(&mut citing)? {
            lacking.extend(page.into_iter().map(|event| (event, missing.clone())));
        }
    }
    let mut upwards = Upwards::new(source);
    for (event, missing) in lacking {
        if is_goal(event)? || upwards.is_reached(event, &is_goal)? {
            return Err(Error::MissingEvent(missing));
        }
    }
    Ok(())
}
