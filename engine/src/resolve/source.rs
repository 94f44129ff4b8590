//! What resolution reads of a room: events by dense numbers, their auth edges, and the keys of state by numbers too.

use std::sync::{Arc, OnceLock};

use gibbous_codec::{EventId, RoomRules, StateKey};
pub(crate) use gibbous_storage::EventIndex;

use crate::{
    Error,
    auth::{auth_keys, rests_on},
    lookup::AuthEvent,
};

/// The number of a state key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyIndex(pub(crate) u32);

/// Where resolution finds a room's events.
///
/// Numbers are the source's own and decide nothing: every ordering is by what the events say. An event that is named
/// but not there is [`Error::MissingEvent`], wherever it is asked for.
pub(crate) trait Source {
    /// Returns the events that an event cites as its auth events, in its order; an error, if one of them is not there.
    fn auth_events(&self, event: EventIndex) -> Result<Arc<[EventIndex]>, Error>;

    /// Returns the key of a state event, or `None` where the event is none.
    fn key(&self, event: EventIndex) -> Result<Option<KeyIndex>, Error>;

    /// Returns an event with its verdict.
    fn event(&self, event: EventIndex) -> Result<Arc<Candidate>, Error>;

    /// Returns the number of an event.
    fn by_id(&self, event_id: &EventId) -> Result<EventIndex, Error>;

    /// Returns the number of a key, or `None` where no event can be at it.
    fn key_index(&self, key: &StateKey) -> Option<KeyIndex>;
}

/// An event as resolution reads it: what is parsed of its content is parsed once.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) event: Arc<AuthEvent>,
    reads: OnceLock<Box<[(StateKey, KeyIndex)]>>,
    create_event: OnceLock<Option<EventIndex>>,
}

impl Candidate {
    pub(crate) fn new(event: Arc<AuthEvent>) -> Self {
        Self { event, reads: OnceLock::new(), create_event: OnceLock::new() }
    }

    /// Returns the keys of the state that can decide whether the event is allowed.
    pub(crate) fn reads(&self, rules: &RoomRules, source: &impl Source) -> &[(StateKey, KeyIndex)] {
        self.reads.get_or_init(|| {
            let keys = auth_keys(rules, &self.event).into_iter();
            keys.filter_map(|key| source.key_index(&key).map(|index| (key, index))).collect()
        })
    }

    /// Returns the create event that the room's ID names (v12 on), or `None` where it names none.
    pub(crate) fn create_event(&self, rules: &RoomRules, source: &impl Source) -> Result<Option<EventIndex>, Error> {
        if let Some(create) = self.create_event.get() {
            return Ok(*create);
        }
        let pdu = self.event.pdu();
        let beside_the_auth_events = rests_on(rules, pdu).into_iter().nth(pdu.auth_events().len());
        let create = beside_the_auth_events.map(|create| source.by_id(&create)).transpose()?;
        Ok(*self.create_event.get_or_init(|| create))
    }
}
