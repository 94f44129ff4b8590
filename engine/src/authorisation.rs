//! The authorisation rules of room versions 1 to 12, as pure functions: nothing is stored, asked for or kept.
//!
//! [`authorise_citations`] asks what needs no state: the rules on create events, and on the `auth_events` that an event
//! cites. [`authorise`] asks the rest by a state: that of the auth events for check 4, the one before the event for
//! check 5, the current one for check 6. Both say which rule is broken ([`Rule`](gibbous_codec::Rule), a stable
//! number), because of which event, and what they have read. Signatures are not theirs but check 2's, except those of
//! third party invites.
//!
//! ```
//! use gibbous::authorisation::authorise;
//! use gibbous::gibbous_codec::{Check, Pdu, RoomRules, RoomVersionId, Rule, StateKey, StateMap};
//!
//! let rules = RoomRules::of(&RoomVersionId::V11).expect("the version is known");
//! let pdu = |event_type: &str, sender: &str, state_key: &str, content: &str| {
//!     let json = format!(
//!         r#"{{"type": "{event_type}", "sender": "{sender}", "state_key": "{state_key}", "content": {content},
//!             "room_id": "!r:a.example", "auth_events": [], "prev_events": [], "depth": 1, "origin_server_ts": 1,
//!             "hashes": {{"sha256": ""}}, "signatures": {{}}}}"#
//!     );
//!     Pdu::parse(&rules, json.as_bytes())
//! };
//! let (alice, bob) = ("@alice:a.example", "@bob:a.example");
//! let state: StateMap<Pdu> = [
//!     pdu("m.room.create", alice, "", "{}")?,
//!     pdu("m.room.member", alice, alice, r#"{"membership": "join"}"#)?,
//!     pdu("m.room.member", bob, bob, r#"{"membership": "join"}"#)?,
//! ]
//! .into_iter()
//! .map(|pdu| (StateKey::new(pdu.event_type(), pdu.state_key().unwrap_or_default()), pdu))
//! .collect();
//! let rule_broken = |event: &Pdu| {
//!     let found = |key: &StateKey| Ok::<_, std::convert::Infallible>(state.get(key).cloned());
//!     let Ok(authorization) = authorise(&rules, event, Check::StateBefore, found);
//!     authorization.decision.err().map(|rejection| rejection.rule)
//! };
//! assert_eq!(rule_broken(&pdu("m.room.topic", alice, "", r#"{"topic": "moons"}"#)?), None);
//! assert_eq!(rule_broken(&pdu("m.room.topic", bob, "", r#"{"topic": "suns"}"#)?), Some(Rule::RequiredLevel));
//! # Ok::<_, gibbous::gibbous_codec::FormatError>(())
//! ```

pub use crate::auth::{Authorization, Cell, Cited, authorise, authorise_citations, selection, state_keys, user_level};
