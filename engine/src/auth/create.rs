//! "If type is m.room.create".

use gibbous_codec::{Pdu, RoomRules, Rule};

use super::{Step, reject_if};

/// The rules on create events, which ask nothing of anything else.
pub(super) fn create<E>(rules: &RoomRules, event: &Pdu) -> Step<(), E> {
    // v1 on: "If it has any prev_events, reject."
    reject_if(!event.prev_events().is_empty(), Rule::CreateHasPrevEvents, None)?;
    if rules.room_id_is_create_hash() {
        // v12 on: "If the event has a room_id, reject."
        reject_if(event.field("room_id").is_some(), Rule::CreateHasRoomId, None)?;
    } else {
        // v1 to v11: "If the domain of the room_id does not match the domain of the sender, reject."
        let is_senders = event.room_id().server_name() == Some(event.sender().server_name());
        reject_if(!is_senders, Rule::CreateRoomIdDomain, None)?;
    }
    let parsed = event.parsed_content(rules);
    let Some(content) = parsed.as_create() else { return Ok(()) };
    // v1 on: "If content.room_version is present and is not a recognised version, reject." One that is recognised but
    // not that of the rules breaks none.
    reject_if(!content.recognised_version, Rule::CreateRoomVersion, None)?;
    // v1 to v10: "If content has no creator property, reject." v11 on, the creator is the sender.
    reject_if(!rules.creator_is_sender() && !content.has_creator, Rule::CreateWithoutCreator, None)?;
    // v12 on: "If the additional_creators property is present in content and is not an array of strings where each
    // string passes the same user ID validation applied to sender, reject."
    let is_malformed = content.additional_creators.is_none();
    reject_if(rules.privileged_creators() && is_malformed, Rule::CreateAdditionalCreators, None)
}
