//! Server ACLs (client-server specification, "Server Access Control Lists (ACLs) for rooms").

use std::{collections::BTreeMap, net::Ipv4Addr};

use gibbous_codec::{RoomRules, ServerName, StateGroup, StateKey, content_hash_holds, path};
use gibbous_storage::RoomRows;
use serde_json::value::RawValue;

use crate::{
    Error, RoomView,
    lookup::parse_stored,
    room::{Context, Room},
};

impl RoomView {
    /// Tells whether the room's `m.room.server_acl` lets a server take part. It is never unknown: state that is not of a
    /// member is never left out of a partial join.
    ///
    /// PDUs of a server that is not let in are refused ([`FailureCode::ServerAcl`](crate::FailureCode::ServerAcl)), and it
    /// is answered nothing about the room. EDUs and what else the host keeps of the room are for the host to refuse.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::testing::{CHARLIE, S, Story};
    /// use serde_json::json;
    ///
    /// let acl = json!({ "allow": ["*"], "deny": ["*.evil.example"] });
    /// let mut story = Story::joined(&"11".try_into()?);
    /// let acl = story.room.state(CHARLIE, "m.room.server_acl", "", acl).send();
    /// story.receive(S, &[&acl]);
    /// assert!(!story.view().server_allowed("matrix.evil.example:8448".try_into()?)?);
    /// assert!(story.view().server_allowed("evil.example".try_into()?)?);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn server_allowed(&self, server: &ServerName) -> Result<bool, Error> {
        let rows = self.store.snapshot(self.num)?;
        allows(&rows, &self.rules, self.current, server)
    }
}

impl Room {
    /// Tells whether the current state, as far as it is known, lets a server take part. We are never shut out from here.
    pub(crate) fn server_allowed(&mut self, cx: Context<'_>, server: &ServerName) -> Result<bool, Error> {
        if server == cx.our_server {
            return Ok(true);
        }
        let mut txn = cx.store.txn(self.num)?;
        let (_, current) = self.provisional(&mut txn)?;
        let is_allowed = allows(&txn, &self.memory.rules, current, server)?;
        self.commit(txn)?;
        Ok(is_allowed)
    }
}

/// "If there is no m.room.server_acl event in the room state, allow." So it is with one that was kept redacted because its
/// content hash did not hold, until its whole copy comes: it would shut out everybody, and with them who has that copy.
fn allows<R: RoomRows>(rows: &R, rules: &RoomRules, state: StateGroup, server: &ServerName) -> Result<bool, Error> {
    let key = StateKey::new("m.room.server_acl", "");
    let Some(num) = rows.state_event(state, &path(&key))? else { return Ok(true) };
    let event = rows.event(num)?;
    if content_hash_holds(&parse_stored(rules, &event)?) {
        return Ok(ServerAcl::of_event(event.json()).allows(server));
    }
    Ok(rows.whole_copy(num)?.is_none_or(|copy| ServerAcl::of_event(&copy).allows(server)))
}

/// The content of an `m.room.server_acl` event. What is not as it has to be is as if it were not there.
#[derive(Debug, PartialEq, Eq)]
struct ServerAcl {
    allow: Vec<String>,
    deny: Vec<String>,
    allow_ip_literals: bool,
}

impl ServerAcl {
    fn of_event(json: &[u8]) -> Self {
        let event: Raw<'_> = serde_json::from_slice(json).unwrap_or_default();
        let content: Raw<'_> = event.get("content").and_then(parse).unwrap_or_default();
        let patterns = |name| -> Vec<String> {
            let list: Vec<&RawValue> = content.get(name).and_then(parse).unwrap_or_default();
            list.iter().filter_map(parse).collect()
        };
        let allow_ip_literals = content.get("allow_ip_literals").and_then(parse).unwrap_or(true);
        Self { allow: patterns("allow"), deny: patterns("deny"), allow_ip_literals }
    }

    fn allows(&self, server: &ServerName) -> bool {
        // "the port number is not part of the server name".
        let host = server.host();
        let is_any = |patterns: &[String]| patterns.iter().any(|glob| matches(glob.as_bytes(), host.as_bytes()));
        // "If the server name is an IP address (v4 or v6) literal, and allow_ip_literals is present and false, deny."
        let is_ip_literal = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        if is_ip_literal && !self.allow_ip_literals {
            return false;
        }
        // "If the server name matches an entry in the deny list, deny. If [it] matches an entry in the allow list, allow.
        // Otherwise, deny."
        !is_any(&self.deny) && is_any(&self.allow)
    }
}

/// The members of an object, none of them looked into: numbers may be greater than what can be read.
type Raw<'a> = BTreeMap<String, &'a RawValue>;

/// Reads a value, if it is of the type; anybody may have written it.
fn parse<'a, T: serde::Deserialize<'a>>(raw: &&'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// Tells whether a glob matches a name, whatever the case: `*` is any characters, `?` is one.
///
/// Where what follows a `*` does not match, it is tried one character further on; an earlier `*` never needs to be tried
/// again. So it takes at most the product of both lengths, and a list of the longest event, 64 KiB of patterns, against a
/// name of 255 characters some 16 million steps.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at_glob, mut at_name) = (0, 0);
    let mut behind_star = None;
    loop {
        match (glob.get(at_glob), name.get(at_name)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                at_glob += 1;
                behind_star = Some((at_glob, at_name));
            }
            (Some(one), Some(other)) if *one == b'?' || one.eq_ignore_ascii_case(other) => {
                at_glob += 1;
                at_name += 1;
            }
            _ => match behind_star {
                Some((glob, tried)) if tried < name.len() => {
                    behind_star = Some((glob, tried + 1));
                    (at_glob, at_name) = (glob, tried + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(content: &Value, allowed: &[&str], denied: &[&str]) {
        let acl = ServerAcl::of_event(json!({ "content": content }).to_string().as_bytes());
        let allows = |name: &&str| acl.allows((*name).try_into().expect("a server name"));
        assert_eq!(allowed.iter().filter(|name| !allows(name)).collect::<Vec<_>>(), [] as [&&str; 0], "{content}");
        assert_eq!(denied.iter().filter(|name| allows(name)).collect::<Vec<_>>(), [] as [&&str; 0], "{content}");
    }

    #[test]
    fn deny_goes_over_allow_and_what_is_in_neither_is_denied() {
        check(&json!({}), &[], &["a.example"]);
        check(&json!({ "allow": ["*"] }), &["a.example", "1.2.3.4", "[::1]:8448"], &[]);
        check(&json!({ "allow": ["*"], "deny": ["a.example"] }), &["b.example"], &["a.example"]);
        check(&json!({ "allow": ["a.example"] }), &["a.example"], &["b.example", "a.example.org", "aa.example"]);
        check(&json!({ "deny": ["a.example"] }), &[], &["a.example", "b.example"]);
    }

    #[test]
    fn ports_and_case_do_not_count() {
        check(&json!({ "allow": ["A.Example"] }), &["a.eXAMPLE", "a.example:8448"], &[]);
        check(&json!({ "allow": ["a.example:8448"] }), &[], &["a.example:8448", "a.example"]);
        check(&json!({ "allow": ["*"], "deny": ["[2001:DB8::1]"] }), &["[2001:db8::2]"], &["[2001:db8::1]:443"]);
    }

    #[test]
    fn ip_literals_can_be_shut_out() {
        let acl = json!({ "allow": ["*"], "allow_ip_literals": false });
        check(&acl, &["a.example", "1.2.3.example"], &["1.2.3.4", "1.2.3.4:80", "[::1]", "[::1]:80"]);
    }

    #[test]
    fn a_question_mark_is_one_character_and_a_star_any() {
        check(&json!({ "allow": ["?.example"] }), &["a.example"], &["aa.example", ".example"]);
        check(
            &json!({ "allow": ["a*c*e.example"] }),
            &["ace.example", "abcde.example"],
            &["acf.example", "ae.example"],
        );
        check(&json!({ "allow": ["*.example"] }), &["a.b.example"], &["example", "a.example.org"]);
        check(&json!({ "allow": ["*?"] }), &["a"], &[]);
        check(&json!({ "allow": ["a.exampl[e]", "a.example\\"] }), &[], &["a.example"]);
    }

    #[test]
    fn what_is_not_as_it_has_to_be_is_as_if_it_were_not_there() {
        check(
            &json!({ "allow": ["*", 1, null, {}], "deny": [["a.example"], "b.example"] }),
            &["a.example"],
            &["b.example"],
        );
        check(&json!({ "allow": "*" }), &[], &["a.example"]);
        check(
            &json!({ "allow": ["*"], "deny": "a.example", "allow_ip_literals": "no" }),
            &["a.example", "1.2.3.4"],
            &[],
        );
        check(&json!(["*"]), &[], &["a.example"]);
        let huge = ServerAcl::of_event(br#"{"depth":1e999,"content":{"x":1e999,"allow":["*"]}}"#);
        assert!(huge.allows("a.example".try_into().expect("a server name")));
    }

    #[test]
    fn a_list_made_to_be_slow_is_not() {
        let name = "a".repeat(200);
        let acl = ServerAcl {
            allow: vec!["*a".repeat(120) + "b"; 500],
            deny: vec!["?*".repeat(100) + "b"; 100_000],
            allow_ip_literals: true,
        };
        assert!(!acl.allows(name.as_str().try_into().expect("a server name")));
    }
}
