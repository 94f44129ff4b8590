//! The state as the rules read it, cell by cell, with a note of what was read; and how a rule ends a check.

use gibbous_codec::{Check, Membership, OwnedEventId, Pdu, Rejection, RoomRules, Rule, StateKey, UserId};

use super::levels::Levels;

/// What the rules say of an event, and what they have read for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Allowed, or the rule that the event broke.
    pub decision: Result<(), Rejection>,
    /// The cells of the state that decided, in the order in which they were read: while they stay as they are, so does
    /// the decision.
    pub read: Vec<Cell>,
}

/// A cell of a state: a key, and the event that stood there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The key.
    pub key: StateKey,
    /// The event, or `None` if there was none.
    pub event: Option<OwnedEventId>,
}

impl Authorization {
    /// Tells whether the event is allowed.
    pub fn is_allowed(&self) -> bool {
        self.decision.is_ok()
    }
}

/// Why a rule goes no further: the event is refused, or the state could not be read. The two part again where the check
/// ends ([`Cells::answer`]).
pub(super) enum Stop<E> {
    Refused { rule: Rule, source: Option<OwnedEventId> },
    Trouble(E),
}

/// A step of a check.
pub(super) type Step<T, E> = Result<T, Stop<E>>;

/// Refuses the event by a rule if `broken`; `source` is the event of the state that has caused it.
pub(super) fn reject_if<E>(broken: bool, rule: Rule, source: Option<&Pdu>) -> Step<(), E> {
    if broken { reject(rule, source) } else { Ok(()) }
}

/// Refuses the event by a rule.
pub(super) fn reject<T, E>(rule: Rule, source: Option<&Pdu>) -> Step<T, E> {
    Err(Stop::Refused { rule, source: source.map(|event| event.event_id().to_owned()) })
}

/// Reads a state, each cell once.
pub(super) struct Cells<'a, E> {
    state: &'a dyn Fn(&StateKey) -> Result<Option<Pdu>, E>,
    /// A check reads few cells: nothing is faster than looking through them.
    read: Vec<(StateKey, Option<Pdu>)>,
}

/// The membership of a user, and the event that says so.
pub(super) struct Standing {
    pub(super) membership: Membership,
    pub(super) event: Option<Pdu>,
}

impl Standing {
    pub(super) fn is_any(&self, memberships: &[Membership]) -> bool {
        memberships.contains(&self.membership)
    }
}

impl<'a, E> Cells<'a, E> {
    pub(super) fn new(state: &'a dyn Fn(&StateKey) -> Result<Option<Pdu>, E>) -> Self {
        Self { state, read: Vec::new() }
    }

    /// Returns the event at a key.
    pub(super) fn event(&mut self, event_type: &str, state_key: &str) -> Step<Option<Pdu>, E> {
        let is_at = |(key, _): &&(StateKey, _)| key.event_type == event_type && key.state_key == state_key;
        if let Some((_, event)) = self.read.iter().find(is_at) {
            return Ok(event.clone());
        }
        let key = StateKey::new(event_type, state_key);
        let event = (self.state)(&key).map_err(Stop::Trouble)?;
        self.read.push((key, event.clone()));
        Ok(event)
    }

    /// Returns the create event, without which nothing is allowed.
    pub(super) fn create(&mut self) -> Step<Pdu, E> {
        match self.event("m.room.create", "")? {
            Some(create) => Ok(create),
            None => reject(Rule::NoCreateEvent, None),
        }
    }

    /// Returns the membership of a user: `leave` where there is no member event.
    pub(super) fn membership(&mut self, rules: &RoomRules, user: &UserId) -> Step<Standing, E> {
        let event = self.event("m.room.member", user.as_str())?;
        let membership = match &event {
            None => Membership::Leave,
            Some(event) => {
                let member = event.parsed_content(rules).as_member();
                member.and_then(|member| member.membership).unwrap_or(Membership::Other)
            }
        };
        Ok(Standing { membership, event })
    }

    /// Returns the levels of the room, which must be as the rules for power levels ask.
    pub(super) fn levels<'r>(&mut self, rules: &'r RoomRules) -> Step<Levels<'r>, E> {
        let create = self.create()?;
        let power_levels = self.event("m.room.power_levels", "")?;
        let levels = Levels { rules, create, power_levels };
        // v1 to v9 leave levels that are no numbers undefined; no event that holds such is let in (`power_levels`).
        let is_malformed = levels.stated().is_some_and(|levels| levels.malformed.is_some());
        reject_if(is_malformed, Rule::PowerLevelsUnreadable, levels.power_levels.as_ref())?;
        Ok(levels)
    }

    /// Ends a check.
    pub(super) fn answer(self, check: Check, step: Step<(), E>) -> Result<Authorization, E> {
        let decision = match step {
            Ok(()) => Ok(()),
            Err(Stop::Refused { rule, source }) => Err(Rejection { check, rule, source }),
            Err(Stop::Trouble(error)) => return Err(error),
        };
        let cell = |(key, event): (_, Option<Pdu>)| Cell { key, event: event.map(|pdu| pdu.event_id().to_owned()) };
        Ok(Authorization { decision, read: self.read.into_iter().map(cell).collect() })
    }
}
