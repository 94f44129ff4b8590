//! The content of `m.room.create`.

use crate::{
    ids::{OwnedUserId, RoomVersionId, UserId},
    json::text::{Elements, Members, string},
    rules::RoomRules,
};

/// What a create event says of its room.
#[derive(Clone, Debug)]
pub struct Create {
    /// Whether `room_version` is absent or names a version that is known here.
    pub recognised_version: bool,
    /// Whether there is a `creator`, of whatever form.
    pub has_creator: bool,
    /// Whether servers other than the creator's may take part: anything but `"m.federate": false`.
    pub federate: bool,
    /// `additional_creators`, or `None` if it is no array of user IDs.
    pub additional_creators: Option<Vec<OwnedUserId>>,
    /// `creator`, if it is a user ID.
    creator: Option<OwnedUserId>,
}

impl Create {
    pub(super) fn read(json: &str) -> Self {
        let mut create = Self {
            recognised_version: true,
            has_creator: false,
            federate: true,
            additional_creators: Some(Vec::new()),
            creator: None,
        };
        for (key, value) in Members::of(json) {
            match key {
                "room_version" => create.recognised_version = is_recognised(value),
                "creator" => {
                    create.has_creator = true;
                    create.creator = user_id(value);
                }
                "m.federate" => create.federate = value != "false",
                "additional_creators" => {
                    let is_array = value.starts_with('[');
                    create.additional_creators = Elements::of(value).map(user_id).collect::<Option<_>>();
                    create.additional_creators.take_if(|_| !is_array);
                }
                _ => {}
            }
        }
        create
    }

    /// Returns the room's first creator: v1 to v10, whom the content names; v11 on, who sent the event.
    pub fn creator<'a>(&'a self, rules: &RoomRules, sender: &'a UserId) -> Option<&'a UserId> {
        if rules.creator_is_sender() { Some(sender) } else { self.creator.as_deref() }
    }

    /// Tells whether a user is the room's creator or (v12 on) one of several.
    pub fn is_creator(&self, rules: &RoomRules, sender: &UserId, user: &UserId) -> bool {
        let is_additional = |creators: &Vec<OwnedUserId>| creators.iter().any(|creator| creator == user);
        self.creator(rules, sender) == Some(user)
            || rules.privileged_creators() && self.additional_creators.as_ref().is_some_and(is_additional)
    }
}

fn is_recognised(room_version: &str) -> bool {
    let version = string(room_version).and_then(|version| RoomVersionId::try_from(version.as_ref()).ok());
    version.is_some_and(|version| RoomRules::of(&version).is_some())
}

/// Returns the user ID that a JSON value is.
pub(super) fn user_id(value: &str) -> Option<OwnedUserId> {
    string(value).and_then(|user| user.as_ref().try_into().ok())
}
