//! How most stories begin: one of ours joins a public room, and its members are still to come.

use std::ops::{Deref, DerefMut};

use gibbous_codec::{OwnedEventId, RoomVersionId};
use serde_json::json;

use super::{
    host::{Host, Storage},
    room_builder::RoomBuilder,
    servers::{Asked, Reply},
};
use crate::{JoinStatus, Limits};

/// Our homeserver.
pub const US: &str = "us.example";
/// The server of those who were in the room before.
pub const S: &str = "s.example";
/// Another server.
pub const S2: &str = "s2.example";
/// Our user who joins.
pub const ALICE: &str = "@alice:us.example";
/// Another user of ours.
pub const BOB: &str = "@bob:us.example";
/// The user who made the room.
pub const CHARLIE: &str = "@charlie:s.example";
/// Another user who was in the room before.
pub const DEREK: &str = "@derek:s.example";
/// A user of the other server.
pub const ELSIE: &str = "@elsie:s2.example";

/// A public room of two members, [`CHARLIE`], who made it, and [`DEREK`], which [`ALICE`] joins; and her homeserver.
///
/// The events are told in this order, each after the one before: create, charlie, power levels, join rules, derek,
/// join.
#[derive(Debug)]
pub struct Story {
    host: Host,
    /// The create event.
    pub create: OwnedEventId,
    /// Charlie's join.
    pub charlie: OwnedEventId,
    /// The power levels: charlie 100, everyone else 0; 50 for state, kicks and bans.
    pub power_levels: OwnedEventId,
    /// The join rules: public.
    pub join_rules: OwnedEventId,
    /// Derek's join.
    pub derek: OwnedEventId,
    /// Alice's join, with which she is in the room or about to be.
    pub join: OwnedEventId,
}

impl Story {
    /// Tells the beginning; alice has yet to join.
    pub fn new(version: &RoomVersionId) -> Self {
        Self::with(version, &[], |_| {}, Storage::Memory(crate::MemoryBackend::new()), Limits::default())
    }

    /// Tells the beginning with these power levels, and between derek's join and alice's what `meanwhile` tells.
    pub fn with(
        version: &RoomVersionId,
        levels: &[(&str, i64)],
        meanwhile: impl FnOnce(&mut RoomBuilder),
        storage: Storage,
        limits: Limits,
    ) -> Self {
        let mut room = RoomBuilder::new(version, CHARLIE);
        let create = room.order()[0].clone();
        let charlie = room.join(CHARLIE).send();
        let power_levels = room.power_levels(levels).send();
        let join_rules = room.state(CHARLIE, "m.room.join_rules", "", json!({ "join_rule": "public" })).send();
        let derek = room.join(DEREK).send();
        meanwhile(&mut room);
        let join = room.join(ALICE).send();
        let host = Host::with_limits(US, room, storage, limits);
        Self { host, create, charlie, power_levels, join_rules, derek, join }
    }

    /// Tells the beginning; alice has joined, and all that the resync asks is held back.
    pub fn joined(version: &RoomVersionId) -> Self {
        Self::new(version).join_held()
    }

    /// Tells the beginning as [`Story::with`] does; alice has joined, and all that the resync asks is held back.
    pub fn joined_with(
        version: &RoomVersionId,
        levels: &[(&str, i64)],
        meanwhile: impl FnOnce(&mut RoomBuilder),
    ) -> Self {
        let storage = Storage::Memory(crate::MemoryBackend::new());
        Self::with(version, levels, meanwhile, storage, Limits::default()).join_held()
    }

    /// Tells the beginning, in which derek may do everything but leaves before alice joins, which she cannot know, and elsie
    /// may set states; then derek kicks elsie. Returns the kick, which nobody has told alice's homeserver yet: it is
    /// accepted by the partial state, and rejected by the full one.
    pub fn wrongly_kicked(version: &RoomVersionId) -> (Self, OwnedEventId) {
        let mut story = Self::joined_with(version, &[(DEREK, 100), (ELSIE, 50)], |room| {
            room.leave(DEREK).send();
            room.join(ELSIE).send();
        });
        let [derek, levels] = [story.derek.clone(), story.power_levels.clone()];
        let elsie = story.room.membership_of(ELSIE);
        let kick = story.room.member(DEREK, ELSIE, "leave").auth(&[&levels, &derek, &elsie]).without_effect().send();
        (story, kick)
    }

    /// Tells that elsie sets a state after that kick: rejected by the partial state, and accepted by the full one.
    pub fn state_of_kicked(&mut self, kick: &OwnedEventId) -> OwnedEventId {
        let (levels, elsie) = (self.power_levels.clone(), self.room.membership_of(ELSIE));
        self.room.state(ELSIE, "m.room.test", "", json!({})).after(&[kick]).auth(&[&levels, &elsie]).send()
    }

    /// Lets alice join; all that the resync asks is held back.
    pub fn join_held(mut self) -> Self {
        self.hold_resync();
        let join = self.join.clone();
        let status = self.join_partially(&join, S);
        assert_eq!(status, JoinStatus::Joined { event_id: join, partial: true });
        self
    }

    /// Lets alice join with full state.
    pub fn join_full(mut self) -> Self {
        let join = self.join.clone();
        let status = self.join_fully(&join, S);
        assert_eq!(status, JoinStatus::Joined { event_id: join, partial: false });
        self
    }

    /// Holds back all that the resync asks.
    pub fn hold_resync(&mut self) {
        for asked in Asked::RESYNC {
            self.servers.set_all(asked, Reply::Held);
        }
    }
}

impl Deref for Story {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl DerefMut for Story {
    fn deref_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}
