//! What goes wrong with events and rooms, each kind with a stable number, its gravity and its words.
//!
//! Numbers are told to hosts and other servers: one is never given to another kind. `FAILURES.md` lists them.

use ruma::{EventId, OwnedEventId};

use crate::{Check, EventStatus, Rejection, Rule};

/// How grave a [`Failure`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The event could not be parsed or verified: it was dropped.
    Fatal,
    /// The event was parsed and rejected, or refused without a verdict.
    Error,
    /// The event was accepted, but is not as expected: soft-failed, say. Or the room is not as it should be.
    Warn,
}

/// Defines [`FailureCode`] from one list, so that no number, gravity, word or variant can be forgotten in another.
macro_rules! failures {
    ($($variant:ident = $number:literal, $severity:ident, $words:literal;)*) => {
        /// What a failure is about: a stable number for each kind, to be returned to other servers or logged.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum FailureCode {
            $(#[doc = concat!(stringify!($number), ": ", $words, ".")] $variant,)*
        }

        impl FailureCode {
            /// Every code, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the stable number. Those of the checks on receipt begin with the specification's number of the check.
            pub const fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// Returns how grave it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// Returns its words: what is so.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

failures! {
    BadFormat = 101, Fatal, "it is not a valid event of its room version, and was dropped (check 1)";
    UnknownRoom = 102, Error, "the room is not known here, or nobody of ours is in it";
    ServerAcl = 103, Error, "the room's server ACL shuts out the server that sent it";
    DamagedRoom = 104, Error, "the room cannot be used here, since what is stored of it is damaged";
    BadSignature = 201, Fatal, "a required signature is missing or wrong, and the event was dropped (check 2)";
    Redacted = 301, Warn, "the content hash does not hold, so that the event is kept redacted (check 3)";
    RejectedByAuthEvents = 401, Error, "its auth events do not allow the event (check 4)";
    RejectedByState = 501, Error, "the state before the event does not allow it (check 5)";
    SoftFailed = 601, Warn, "the current state does not allow the event (check 6)";
    TooManyWaiting = 701, Error, "too many events of the room wait for something missing, and this one was refused";
    QuotaExceeded = 702, Error, "its origin has handed in too many PDUs for the room, and this one was refused";
    TooManyQueued = 703, Error, "too many PDUs wait for a join to be finished, and this one was refused";
    Retracted = 801, Error, "the event was accepted under partial state, and the full state rejects it";
    Revealed = 802, Warn, "the event was rejected under partial state, and the full state accepts it";
    Withdrawn = 803, Warn, "the event has lost its verdict under partial state, since what it needs cannot be had for now";
    AnswersRefused = 901, Warn, "every server has refused to tell the room's state, or has told what cannot be used";
    Hole = 902, Warn, "no server gives events of the room's state with a signature that holds";
}

impl std::fmt::Display for FailureCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.words(), self.number())
    }
}

/// A drop, rejection, soft failure, refusal or change for the worse, as told to the host (which may return it in its
/// `/send` answer, or log it).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How grave it is.
    pub severity: Severity,
    /// The stable code of its kind.
    pub code: FailureCode,
    /// The rule of authorisation that the event broke, if it was rejected or soft-failed by one that is known.
    pub rule: Option<Rule>,
    /// The reason, in words.
    pub reason: String,
    /// The event judged, where its ID could be told.
    pub affected: Option<OwnedEventId>,
    /// The event that caused it: the ban, the rejected auth event.
    pub source: Option<OwnedEventId>,
}

impl Failure {
    /// Makes a failure of a kind, with that kind's words.
    pub fn new(code: FailureCode) -> Self {
        let reason = code.words().to_owned();
        Self { severity: code.severity(), code, rule: None, reason, affected: None, source: None }
    }

    /// Returns it with a reason of its own.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Returns it as one of an event.
    pub fn of_event(mut self, event_id: &EventId) -> Self {
        self.affected = Some(event_id.to_owned());
        self
    }

    /// Returns it as one that a rule of authorisation names.
    pub fn by_rule(mut self, rejection: &Rejection) -> Self {
        self.rule = Some(rejection.rule);
        self.source.clone_from(&rejection.source);
        self.because(rejection.rule.words())
    }

    /// Returns the failure that a verdict means, or `None` for an accepted event.
    pub fn of(event_id: &EventId, status: &EventStatus) -> Option<Self> {
        let failure = match status {
            EventStatus::Accepted => return None,
            EventStatus::SoftFailed => Self::new(FailureCode::SoftFailed),
            EventStatus::Rejected(rejection) => {
                let code = match rejection.check {
                    Check::AuthEvents => FailureCode::RejectedByAuthEvents,
                    Check::Signatures => FailureCode::BadSignature,
                    _ => FailureCode::RejectedByState,
                };
                Self::new(code).by_rule(rejection)
            }
        };
        Some(failure.of_event(event_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/FAILURES.md");

    fn page() -> String {
        let mut page = "\
# Failures

A `Failure` carries the number of its kind. Numbers never change their meaning: a kind that goes leaves its number
unused. The hundreds of those up to 600 are the specification's numbers of the checks on receipt of a PDU. Rejections and
soft failures carry the number of a [rule](RULES.md) besides.

This page is written by `GIBBOUS_FAILURES=write cargo test -p gibbous-codec`, and a test holds it.

| number | gravity | what is so |
| --- | --- | --- |
"
        .to_owned();
        for code in FailureCode::ALL {
            page += &format!("| {} | {:?} | {} |\n", code.number(), code.severity(), code.words());
        }
        page
    }

    #[test]
    fn a_number_has_one_kind() {
        assert!(FailureCode::ALL.is_sorted_by(|a, b| a.number() < b.number()));
    }

    #[test]
    fn every_kind_is_listed_on_its_page() {
        if std::env::var("GIBBOUS_FAILURES").is_ok_and(|what| what == "write") {
            std::fs::write(PAGE, page()).expect("the page is written");
        }
        assert_eq!(std::fs::read_to_string(PAGE).expect("the page is read"), page());
    }
}
