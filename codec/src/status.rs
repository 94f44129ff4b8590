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

/// How grave a [`Failure`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The event could not be parsed or verified: it was dropped.
    Fatal,
    /// The event was parsed and rejected, or refused without a verdict.
    Error,
    /// The event was accepted, but is not as expected: soft-failed, say.
    Warn,
}

/// What a failure is about: a stable number for each kind, to be returned to other servers or logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FailureCode {
    /// 101: not a valid event of its room version (check 1).
    BadFormat,
    /// 102: the room is not known here, or nobody of ours is in it.
    UnknownRoom,
    /// 201: a required signature is missing or wrong (check 2).
    BadSignature,
    /// 301: the content hash was wrong, so the event was redacted (check 3).
    Redacted,
    /// 401: not authorised by its auth events (check 4).
    RejectedByAuthEvents,
    /// 501: not authorised by the state before it (check 5).
    RejectedByState,
    /// 601: not authorised by the current state (check 6).
    SoftFailed,
    /// 701: too many events wait for something missing; this one was refused without a verdict.
    TooManyWaiting,
}

impl FailureCode {
    /// Returns the stable number.
    pub fn number(self) -> u16 {
        match self {
            Self::BadFormat => 101,
            Self::UnknownRoom => 102,
            Self::BadSignature => 201,
            Self::Redacted => 301,
            Self::RejectedByAuthEvents => 401,
            Self::RejectedByState => 501,
            Self::SoftFailed => 601,
            Self::TooManyWaiting => 701,
        }
    }
}

/// A drop, rejection, soft failure or refusal, as told to the host (which may return it in its `/send` answer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How grave it is.
    pub severity: Severity,
    /// The stable code of the rule.
    pub code: FailureCode,
    /// The rule of authorisation that the event broke, if it was rejected by one.
    pub rule: Option<Rule>,
    /// The reason, in words.
    pub reason: String,
    /// The event judged, where its ID could be told.
    pub affected: Option<OwnedEventId>,
    /// The event that caused it: the ban, the rejected auth event.
    pub source: Option<OwnedEventId>,
}

impl Failure {
    /// Returns the failure that a verdict means, or `None` for an accepted event.
    pub fn of(event_id: &OwnedEventId, status: &EventStatus) -> Option<Self> {
        let (severity, code, rule, reason, source) = match status {
            EventStatus::Accepted => return None,
            EventStatus::SoftFailed => {
                (Severity::Warn, FailureCode::SoftFailed, None, "not authorised by the current state".to_owned(), None)
            }
            EventStatus::Rejected(rejection) => (
                Severity::Error,
                match rejection.check {
                    Check::AuthEvents => FailureCode::RejectedByAuthEvents,
                    _ => FailureCode::RejectedByState,
                },
                Some(rejection.rule),
                rejection.rule.words().to_owned(),
                rejection.source.clone(),
            ),
        };
        Some(Self { severity, code, rule, reason, affected: Some(event_id.clone()), source })
    }
}
