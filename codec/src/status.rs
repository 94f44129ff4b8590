//! What the checks on receipt of a PDU can say of an event, and why.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::rule::Rule;

/// The number of a check on receipt of a PDU, as the specification counts them ("Checks performed on receipt of a
/// PDU", server-server API).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Check {
    /// 1: is a valid event, otherwise it is dropped.
    Format,
    /// 2: passes signature checks, otherwise it is dropped.
    Signatures,
    /// 3: passes hash checks, otherwise it is redacted before being processed further.
    Hashes,
    /// 4: passes authorisation rules based on the event's auth events, otherwise it is rejected.
    AuthEvents,
    /// 5: passes authorisation rules based on the state before the event, otherwise it is rejected.
    StateBefore,
    /// 6: passes authorisation rules based on the current state of the room, otherwise it is soft-failed.
    CurrentState,
}

impl Check {
    /// Returns the specification's number of the check, 1 to 6.
    pub fn number(self) -> u8 {
        match self {
            Self::Format => 1,
            Self::Signatures => 2,
            Self::Hashes => 3,
            Self::AuthEvents => 4,
            Self::StateBefore => 5,
            Self::CurrentState => 6,
        }
    }
}

/// Why an event was rejected: the check that it failed, and the rule that it broke.
///
/// ```
/// use gibbous_codec::{Check, EventStatus, Failure, Rejection, Rule};
///
/// let levels = "$levels".try_into()?;
/// let rejection = Rejection { check: Check::StateBefore, rule: Rule::RequiredLevel, source: Some(levels) };
/// let status = EventStatus::Rejected(rejection.clone());
/// let failure = Failure::of("$event".try_into()?, &status).expect("it is no accepted one");
/// assert_eq!((failure.code.number(), failure.rule), (501, Some(Rule::RequiredLevel)));
/// assert_eq!(failure.source, rejection.source);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// The check that failed: [`Check::AuthEvents`] or [`Check::StateBefore`].
    pub check: Check,
    /// The rule that the event broke.
    pub rule: Rule,
    /// The event that caused it, where there is one: the ban, the power levels, a rejected auth event.
    pub source: Option<OwnedEventId>,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "check {}: {}", self.check.number(), self.rule)?;
        match &self.source {
            Some(source) => write!(f, " (because of {source})"),
            None => Ok(()),
        }
    }
}

/// The verdict on an event that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventStatus {
    /// It passed every check that it had to pass.
    Accepted,
    /// It failed check 6: it takes part in the room's history, but is not relayed and is no forward extremity.
    SoftFailed,
    /// It failed check 4 or 5: it takes part in nothing.
    Rejected(Rejection),
}

impl EventStatus {
    /// Tells whether the event failed check 4 or 5.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// Returns the word that recordings use: `accepted`, `soft_failed` or `rejected`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::SoftFailed => "soft_failed",
            Self::Rejected(_) => "rejected",
        }
    }
}
