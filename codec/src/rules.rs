//! The only place that asks a room version for its rules.

use ruma::room_version_rules::{
    EventIdFormatVersion, EventsReferenceFormatVersion, RoomIdFormatVersion, RoomVersionRules,
};

use crate::ids::RoomVersionId;

/// The rules of one room version: ruma's, and what ruma lacks.
///
/// Only the stable room versions 1 to 12 are known.
#[derive(Clone, Debug)]
pub struct RoomRules {
    version: RoomVersionId,
    ruma: RoomVersionRules,
    /// The greatest `depth` an event may have: 2⁶³ − 1, from room version 6 on the greatest integer of canonical JSON.
    pub depth_max: u64,
}

impl RoomRules {
    /// Returns the rules of `version`, or `None` if this version of the engine does not know it.
    pub fn of(version: &RoomVersionId) -> Option<Self> {
        let ruma = match version {
            RoomVersionId::V1 => RoomVersionRules::V1,
            RoomVersionId::V2 => RoomVersionRules::V2,
            RoomVersionId::V3 => RoomVersionRules::V3,
            RoomVersionId::V4 => RoomVersionRules::V4,
            RoomVersionId::V5 => RoomVersionRules::V5,
            RoomVersionId::V6 => RoomVersionRules::V6,
            RoomVersionId::V7 => RoomVersionRules::V7,
            RoomVersionId::V8 => RoomVersionRules::V8,
            RoomVersionId::V9 => RoomVersionRules::V9,
            RoomVersionId::V10 => RoomVersionRules::V10,
            RoomVersionId::V11 => RoomVersionRules::V11,
            RoomVersionId::V12 => RoomVersionRules::V12,
            _ => return None,
        };
        let depth_max = if ruma.authorization.strict_canonical_json {
            crate::json::INT_MAX.unsigned_abs()
        } else {
            i64::MAX.unsigned_abs()
        };
        Some(Self { version: version.clone(), ruma, depth_max })
    }

    /// Returns the room version these rules are of.
    pub fn version(&self) -> &RoomVersionId {
        &self.version
    }

    /// Returns ruma's rules of the room version.
    pub fn ruma(&self) -> &RoomVersionRules {
        &self.ruma
    }

    /// Returns whether numbers outside canonical JSON (fractions, great integers) make an event invalid (from version 6 on).
    pub fn strict_canonical_json(&self) -> bool {
        self.ruma.authorization.strict_canonical_json
    }

    /// Returns whether an event states its own ID in `event_id` (versions 1 and 2).
    pub fn explicit_event_id(&self) -> bool {
        self.ruma.event_id_format == EventIdFormatVersion::V1
    }

    /// Returns whether an event ID is in the URL-safe base64 alphabet (from version 4 on).
    pub(crate) fn url_safe_event_id(&self) -> bool {
        self.ruma.event_id_format == EventIdFormatVersion::V3
    }

    /// Returns whether events are cited as `[id, {hashes}]` pairs (versions 1 and 2).
    pub(crate) fn references_with_hashes(&self) -> bool {
        self.ruma.events_reference_format == EventsReferenceFormatVersion::V1
    }

    /// Returns whether the room ID is the create event's reference hash (from version 12 on).
    pub fn room_id_is_create_hash(&self) -> bool {
        self.ruma.room_id_format == RoomIdFormatVersion::V2
    }

    /// Returns whether a key must still be valid at an event's `origin_server_ts` (from version 5 on).
    pub fn key_validity(&self) -> bool {
        self.ruma.enforce_key_validity
    }

    /// Returns whether a server must sign the events whose IDs it gave (versions 1 and 2).
    pub(crate) fn event_id_server_signs(&self) -> bool {
        self.ruma.signatures.check_event_id_server
    }

    /// Returns whether the server of the user who authorised a restricted join must sign it (from version 8 on).
    pub(crate) fn authorising_server_signs(&self) -> bool {
        self.ruma.signatures.check_join_authorised_via_users_server
    }

    /// Returns whether `m.room.aliases` events have a rule of their own (versions 1 to 5).
    pub fn aliases_have_a_rule(&self) -> bool {
        self.ruma.authorization.special_case_room_aliases
    }

    /// Returns whether `m.room.redaction` events have a rule of their own (versions 1 and 2).
    pub fn redactions_have_a_rule(&self) -> bool {
        self.ruma.authorization.special_case_room_redaction
    }

    /// Returns whether changed `notifications` levels are compared with the sender's (from version 6 on).
    pub fn notifications_limited(&self) -> bool {
        self.ruma.authorization.limit_notifications_power_levels
    }

    /// Returns whether users may knock (from version 7 on).
    pub fn knocking(&self) -> bool {
        self.ruma.authorization.knocking
    }

    /// Returns whether there is the join rule `restricted` (from version 8 on).
    pub fn restricted_joins(&self) -> bool {
        self.ruma.authorization.restricted_join_rule
    }

    /// Returns whether there is the join rule `knock_restricted` (from version 10 on).
    pub fn knock_restricted_joins(&self) -> bool {
        self.ruma.authorization.knock_restricted_join_rule
    }

    /// Returns whether power levels are integers and nothing else (from version 10 on).
    pub fn integer_power_levels(&self) -> bool {
        self.ruma.authorization.integer_power_levels
    }

    /// Returns whether the creator is who sent the create event (from version 11 on), not whom its content names.
    pub fn creator_is_sender(&self) -> bool {
        self.ruma.authorization.use_room_create_sender
    }

    /// Returns whether creators, of whom there may be several, stand above every power level (from version 12 on).
    pub fn privileged_creators(&self) -> bool {
        self.ruma.authorization.explicitly_privilege_room_creators
    }
}
