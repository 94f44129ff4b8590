//! The redaction algorithm, on canonical JSON text.

use std::ops::Range;

use ruma::room_version_rules::RedactionRules;

use crate::json::text::{Members, member, write_member};

/// Appends the redacted form of the event `json`, without its members `without`; returns where its content stands.
///
/// Follows the client-server specification, "Redactions", and the room versions' changes to it. Where the
/// specification leaves room, what Synapse does is done, as the result is hashed into the event ID: a
/// `third_party_invite` that is an object stays as an object, even an empty one, and any other is dropped.
pub(crate) fn redact(
    rules: &RedactionRules,
    event_type: &str,
    json: &str,
    without: &[&str],
    out: &mut String,
) -> Range<usize> {
    let mut content_at = 0..0;
    out.push('{');
    for (key, value) in Members::of(json).filter(|(key, _)| !without.contains(key) && keeps(rules, key)) {
        if key == "content" {
            write_member(key, "", out);
            let start = out.len();
            redact_content(rules, event_type, value, out);
            content_at = start..out.len();
        } else {
            write_member(key, value, out);
        }
    }
    out.push('}');
    content_at
}

/// Tells whether an event keeps its top-level member `key`.
fn keeps(rules: &RedactionRules, key: &str) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        // Up to v10.
        "origin" | "membership" | "prev_state" => rules.keep_origin_membership_prev_state,
        _ => false,
    }
}

fn redact_content(rules: &RedactionRules, event_type: &str, content: &str, out: &mut String) {
    // v11 on: the content of a create event stays whole.
    if event_type == "m.room.create" && rules.keep_room_create_content {
        out.push_str(content);
        return;
    }
    out.push('{');
    for (key, value) in Members::of(content) {
        if keeps_content(rules, event_type, key) {
            write_member(key, value, out);
        } else if event_type == "m.room.member"
            && key == "third_party_invite"
            && rules.keep_room_member_third_party_invite_signed
            && value.starts_with('{')
        {
            // v11 on: of a third-party invite its `signed` stays.
            write_member(key, "{", out);
            if let Some(signed) = member(value, "signed") {
                write_member("signed", signed, out);
            }
            out.push('}');
        }
    }
    out.push('}');
}

/// Tells whether the content of an event of type `event_type` keeps its member `key`.
fn keeps_content(rules: &RedactionRules, event_type: &str, key: &str) -> bool {
    match (event_type, key) {
        ("m.room.member", "membership")
        | ("m.room.join_rules", "join_rule")
        | (
            "m.room.power_levels",
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users" | "users_default",
        )
        | ("m.room.history_visibility", "history_visibility")
        | ("m.room.create", "creator") => true,
        // Up to v5.
        ("m.room.aliases", "aliases") => rules.keep_room_aliases_aliases,
        // v8 on.
        ("m.room.join_rules", "allow") => rules.keep_room_join_rules_allow,
        // v9 on.
        ("m.room.member", "join_authorised_via_users_server") => {
            rules.keep_room_member_join_authorised_via_users_server
        }
        // v11 on.
        ("m.room.power_levels", "invite") => rules.keep_room_power_levels_invite,
        ("m.room.redaction", "redacts") => rules.keep_room_redaction_redacts,
        _ => false,
    }
}
