//! Compares what an engine holds with what a recording says must hold.

use std::{collections::BTreeSet, io};

use gibbous_codec::{
    EventId, OwnedEventId, Pdu, ServerName, StateMap, VerifyError, VerifyKey,
    exchange::{ExpectedState, ExpectedStatus},
    verify,
};
use serde::Deserialize;

use super::{
    index::{Index, Question, StateOnRecord},
    report::{Difference, FoundStatus},
};
use crate::{Error, EventStage, EventStatus, RoomView};

/// Returns what became of an event; `refused` is why it was refused when it was handed over.
pub(super) fn status(
    index: &Index,
    room: Option<&RoomView>,
    event_id: &EventId,
    refused: Option<&String>,
) -> Result<FoundStatus, Error> {
    let stage = match room {
        Some(room) => room.event(event_id)?.map(|event| event.stage),
        None => None,
    };
    Ok(match stage {
        Some(EventStage::Waiting) => FoundStatus::Waiting,
        Some(EventStage::Outlier { status: EventStatus::Rejected(rejection) })
        | Some(EventStage::Placed { status: EventStatus::Rejected(rejection), .. })
        | Some(EventStage::History { status: EventStatus::Rejected(rejection) }) => {
            FoundStatus::Rejected { reason: rejection.to_string() }
        }
        Some(EventStage::Outlier { .. }) => FoundStatus::Outlier,
        Some(
            EventStage::Placed { status: EventStatus::Accepted, .. }
            | EventStage::History { status: EventStatus::Accepted },
        ) => FoundStatus::Accepted,
        Some(
            EventStage::Placed { status: EventStatus::SoftFailed, .. }
            | EventStage::History { status: EventStatus::SoftFailed },
        ) => FoundStatus::SoftFailed,
        None => FoundStatus::Nothing { refused: refused.cloned(), forged: is_forged(index, event_id) },
    })
}

/// Tells whether a status that was found is one that may be.
pub(super) fn status_holds(expected: ExpectedStatus, disputed: bool, found: &FoundStatus) -> bool {
    use FoundStatus as Found;
    match expected {
        // Whatever `disputed` says: of all verdicts only *rejected* is wrong. That there is no verdict is right only
        // where the signature does not hold.
        ExpectedStatus::Dropped => match found {
            Found::Accepted | Found::SoftFailed | Found::Outlier => true,
            Found::Nothing { forged, .. } => *forged,
            Found::Rejected { .. } | Found::Waiting => false,
        },
        _ if disputed => matches!(found, Found::Accepted | Found::SoftFailed),
        ExpectedStatus::Accepted => *found == Found::Accepted,
        ExpectedStatus::SoftFailed => *found == Found::SoftFailed,
        ExpectedStatus::Rejected => matches!(found, Found::Rejected { .. }),
    }
}

/// Tells whether the signature of an event, as it was handed over, is known not to hold.
fn is_forged(index: &Index, event_id: &EventId) -> bool {
    let handed = index.steps.iter().filter_map(|step| step.kind.event()).find(|(handed, _)| *handed == event_id);
    let Some(span) = handed.map(|(_, span)| span).or_else(|| index.pdu(event_id)) else { return false };
    let Ok(json) = index.bytes(span) else { return false };
    let Ok(pdu) = Pdu::parse(&index.rules, &json) else { return false };
    matches!(verify(&index.rules, pdu, &RecordedKeys(index)), Err(VerifyError::BadSignature { .. }))
}

/// The keys that the recording's `server_keys` records name.
struct RecordedKeys<'a>(&'a Index);

impl gibbous_codec::KeySource for RecordedKeys<'_> {
    fn key(&self, server: &ServerName, key_id: &str) -> Option<VerifyKey> {
        #[derive(Deserialize)]
        struct Keys {
            verify_keys: std::collections::BTreeMap<String, Key>,
            old_verify_keys: std::collections::BTreeMap<String, Key>,
            valid_until_ts: u64,
        }
        #[derive(Deserialize)]
        struct Key {
            key: String,
            expired_ts: Option<u64>,
        }
        let server = server.to_owned();
        let series = self.0.series(&Question::ServerKeys(server.clone()), &server);
        series.answers.iter().find_map(|recorded| {
            let json = self.0.bytes(*recorded.body.as_ref().ok()?).ok()?;
            let keys: Keys = serde_json::from_slice(&json).ok()?;
            let key = keys.verify_keys.get(key_id).or_else(|| keys.old_verify_keys.get(key_id))?;
            VerifyKey::from_base64(&key.key, key.expired_ts.unwrap_or(keys.valid_until_ts)).ok()
        })
    }
}

/// The event IDs of a state, sorted.
pub(super) type StateIds = Vec<OwnedEventId>;

/// Returns the event IDs of a state, sorted.
pub(super) fn ids_of(state: StateMap<OwnedEventId>) -> StateIds {
    let mut ids: Vec<_> = state.into_values().collect();
    ids.sort_unstable();
    ids
}

/// Compares a state with the one that must hold; `None` if they are equal.
pub(super) fn difference(
    index: &Index,
    expected: &StateOnRecord,
    found: Option<&StateIds>,
) -> io::Result<Option<Difference>> {
    let Some(found) = found else { return Ok(Some(Difference::Absent)) };
    let ids = found.iter().map(|id| id.as_str());
    match expected {
        StateOnRecord::Ids(span) => {
            let expected: BTreeSet<String> = serde_json::from_slice(&index.bytes(*span)?)?;
            let found: BTreeSet<String> = ids.map(str::to_owned).collect();
            let missing: Vec<_> = expected.difference(&found).cloned().collect();
            let unexpected: Vec<_> = found.difference(&expected).cloned().collect();
            let equal = missing.is_empty() && unexpected.is_empty();
            Ok((!equal).then_some(Difference::Events { missing, unexpected }))
        }
        StateOnRecord::Digest { sha256, count } => {
            let expected = ExpectedState::Digest { sha256: sha256.clone(), count: *count };
            let (sha256, count, found) = (sha256.clone(), *count, found.len() as u64);
            Ok((!expected.is(ids)).then_some(Difference::Digest { sha256, count, found }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{read, room};
    use super::*;
    use serde_json::json;

    fn rejected() -> FoundStatus {
        FoundStatus::Rejected { reason: "a rule".to_owned() }
    }

    fn nothing(forged: bool) -> FoundStatus {
        FoundStatus::Nothing { refused: None, forged }
    }

    #[track_caller]
    fn check(expected: ExpectedStatus, disputed: bool, right: &[FoundStatus]) {
        let all = [
            FoundStatus::Accepted,
            FoundStatus::SoftFailed,
            rejected(),
            FoundStatus::Outlier,
            FoundStatus::Waiting,
            nothing(true),
            nothing(false),
        ];
        for found in &all {
            assert_eq!(status_holds(expected, disputed, found), right.contains(found), "{expected:?}: {found:?}");
        }
    }

    #[test]
    fn a_status_must_be_the_one_expected() {
        check(ExpectedStatus::Accepted, false, &[FoundStatus::Accepted]);
        check(ExpectedStatus::SoftFailed, false, &[FoundStatus::SoftFailed]);
        check(ExpectedStatus::Rejected, false, &[rejected()]);
    }

    #[test]
    fn where_servers_differ_only_that_it_is_not_rejected_must_hold() {
        check(ExpectedStatus::Accepted, true, &[FoundStatus::Accepted, FoundStatus::SoftFailed]);
        check(ExpectedStatus::SoftFailed, true, &[FoundStatus::Accepted, FoundStatus::SoftFailed]);
    }

    #[test]
    fn dropped_is_any_verdict_but_rejected_or_none_for_a_forged_event() {
        let right = [FoundStatus::Accepted, FoundStatus::SoftFailed, FoundStatus::Outlier, nothing(true)];
        check(ExpectedStatus::Dropped, false, &right);
        check(ExpectedStatus::Dropped, true, &right);
    }

    #[test]
    fn states_are_compared_by_events_or_by_digest() {
        let digest = |sha256: &str| json!({"kind": "expect_current_state", "sha256": sha256, "count": 2});
        let index = read(&[
            room(),
            json!({"kind": "expect_current_state", "state": ["$b", "$a"]}),
            json!({"kind": "expect_current_state", "state": ["$c", "$a"]}),
            // printf '$a\n$b' | sha256sum
            digest("0b3b7a4fd77069c9a5f9104d9d9793ead66a9692efeb14d75931611d2d3048aa"),
            digest("0000000000000000000000000000000000000000000000000000000000000000"),
        ])
        .unwrap();
        let states: Vec<_> = index
            .expectations
            .iter()
            .map(|expectation| match &expectation.kind {
                super::super::index::ExpectationKind::CurrentState { state } => state,
                other => panic!("{other:?}"),
            })
            .collect();
        let found: StateIds = ["$a", "$b"].map(|id| id.try_into().unwrap()).into();
        let difference = |nth: usize| difference(&index, states[nth], Some(&found)).unwrap();
        assert_eq!(difference(0), None);
        let (missing, unexpected) = (vec!["$c".to_owned()], vec!["$b".to_owned()]);
        assert_eq!(difference(1), Some(Difference::Events { missing, unexpected }));
        assert_eq!(difference(2), None);
        assert!(matches!(difference(3), Some(Difference::Digest { found: 2, .. })));
        assert_eq!(super::difference(&index, states[0], None).unwrap(), Some(Difference::Absent));
    }
}
