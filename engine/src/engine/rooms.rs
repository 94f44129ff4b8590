//! A room's life beside its events: how one begins that is not joined, is handed over, and learns of its past.

use gibbous_codec::{RoomId, RoomRules, Signer};

use super::Engine;
use crate::{
    BackfillStatus, CreateRoomRefusal, CreatedRoom, Error, Export, ExportRefusal, Import, ImportError, ImportReport,
    NewRoom, Signatures,
    import::ParsedImport,
    room::{Context, Room},
};

impl Engine {
    /// Makes a room, from its create event to the last of its initial events (client-server specification, "Creation"),
    /// at one instant: where one of them is refused, nothing is stored. Each is made, judged and signed as
    /// [`Engine::create`] does it.
    ///
    /// The creator is in the room then, which has its full state: everything works as in any other room. Invites of
    /// users of other servers are to be sent to these ([`Created::destinations`](crate::Created::destinations)).
    ///
    /// ```
    /// use gibbous::{
    ///     Config, CreateRoomRefusal, Engine, EventDraft, LocalSigner, MemoryBackend, NewRoom, OwnedServerName, RoomVersionId,
    ///     SigningKey, UserId,
    /// };
    /// use serde_json::{json, value::to_raw_value};
    /// use std::sync::Arc;
    ///
    /// let us: OwnedServerName = "us.example".try_into()?;
    /// let engine = Engine::open(Arc::new(MemoryBackend::new()), Config::new(us.clone()), 0)?;
    /// let signer = LocalSigner::new(us, "ed25519:1", SigningKey::from_bytes(&[7; 32]));
    ///
    /// let alice: &UserId = "@alice:us.example".try_into()?;
    /// let contents = [
    ///     ("m.room.member", alice.as_str(), json!({ "membership": "join" })),
    ///     // v12: alice has every right, and must not be named.
    ///     ("m.room.power_levels", "", json!({ "users": {}, "state_default": 50 })),
    ///     ("m.room.join_rules", "", json!({ "join_rule": "public" })),
    ///     ("m.room.name", "", json!({ "name": "Moons" })),
    /// ];
    /// let contents = contents.map(|(kind, key, content)| (kind, key, to_raw_value(&content).expect("it is JSON")));
    /// let initial = contents.each_ref().map(|(event_type, state_key, content)| EventDraft {
    ///     sender: alice,
    ///     event_type,
    ///     state_key: Some(state_key),
    ///     content,
    ///     redacts: None,
    ///     origin_server_ts: 1_700_000_000_000,
    /// });
    /// let new_room = NewRoom {
    ///     room_version: &RoomVersionId::V12,
    ///     room_id: None,
    ///     creator: alice,
    ///     creation_content: &to_raw_value(&json!({}))?,
    ///     origin_server_ts: 1_700_000_000_000,
    ///     initial: &initial,
    /// };
    /// let made = engine.create_room(&new_room, &signer, 0)??;
    /// assert_eq!(made.events.len(), 5);
    /// assert_eq!(engine.room(&made.room_id)?.map(|view| view.is_partial()), Some(false));
    ///
    /// // The very same room again is the same room.
    /// let refusal = engine.create_room(&new_room, &signer, 0)?.expect_err("it is there");
    /// assert_eq!(refusal, CreateRoomRefusal::Exists(made.room_id));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged. That the room is not made for another reason is no error.
    pub fn create_room(
        &self,
        new_room: &NewRoom<'_>,
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Result<Result<CreatedRoom, CreateRoomRefusal>, Error> {
        let config = &self.inner.config;
        let (rules, create) = match new_room.create_event(&config.our_server, &config.limits, signer) {
            Ok(made) => made,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let room_id = create.room_id().to_owned();
        let exists = || CreateRoomRefusal::Exists(room_id.clone());
        self.with_new_room(&room_id, rules, now_ms, exists, |room, cx| {
            room.create_room(cx, create, new_room.initial, signer)
        })
    }

    /// Returns a room as another engine takes it over by [`Engine::import`]: its forward extremities, the full states
    /// before them, and the events that these consist of and rest on. For each extremity that is what a full
    /// `send_join` answer tells of a join (server-server specification, "Joining Rooms").
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged or not known. That the room is partial is a refusal.
    pub fn export(&self, room_id: &RoomId) -> Result<Result<Export, ExportRefusal>, Error> {
        self.room(room_id)?.ok_or_else(|| Error::UnknownRoom(room_id.to_owned()))?.export()
    }

    /// Takes a room over from a homeserver that is in it: this engine's own homeserver, whose host has kept its rooms
    /// elsewhere until now, or one that is moved. Everything is stored at one instant, or nothing of it.
    ///
    /// The room has its full state then and goes on as after a join: events that follow the extremities are judged, our
    /// users can speak, other servers can join. Of its history only the extremities are known; what else is brought is
    /// known for the sake of these ([`EventStage::Outlier`](crate::EventStage::Outlier)). [`Engine::backfill`] has the rest.
    ///
    /// What the host tells of the states before the extremities, and of redactions, is taken as it is; that they allow
    /// the extremities, and every event is allowed by its auth events, is checked (server-server specification, "Checks
    /// performed on receipt of a PDU", 5 and 4).
    ///
    /// ```
    /// use gibbous::{
    ///     Config, Engine, EventDraft, Import, LocalSigner, MemoryBackend, NewRoom, OwnedServerName, RoomVersionId,
    ///     Signatures, SigningKey, UserId,
    /// };
    /// use serde_json::{json, value::to_raw_value};
    /// use std::sync::Arc;
    ///
    /// let us: OwnedServerName = "us.example".try_into()?;
    /// let open = || Engine::open(Arc::new(MemoryBackend::new()), Config::new(us.clone()), 0);
    /// let (before, after) = (open()?, open()?);
    /// # let signer = LocalSigner::new(us.clone(), "ed25519:1", SigningKey::from_bytes(&[7; 32]));
    /// # let alice: &UserId = "@alice:us.example".try_into()?;
    /// # let join = EventDraft {
    /// #     sender: alice,
    /// #     event_type: "m.room.member",
    /// #     state_key: Some(alice.as_str()),
    /// #     content: &to_raw_value(&json!({ "membership": "join" }))?,
    /// #     redacts: None,
    /// #     origin_server_ts: 0,
    /// # };
    /// # let new_room = NewRoom {
    /// #     room_version: &RoomVersionId::V12,
    /// #     room_id: None,
    /// #     creator: alice,
    /// #     creation_content: &to_raw_value(&json!({}))?,
    /// #     origin_server_ts: 0,
    /// #     initial: &[join],
    /// # };
    /// let room_id = before.create_room(&new_room, &signer, 0)??.room_id;
    ///
    /// let export = before.export(&room_id)??;
    /// // A host would write them to a file, and read them from there.
    /// let events: Vec<Vec<u8>> = export.events()?.collect::<Result<_, _>>()?;
    /// let import = Import {
    ///     room_id: &export.room_id,
    ///     room_version: &export.room_version,
    ///     events: &mut events.into_iter(),
    ///     extremities: &export.extremities,
    ///     redacted: &export.redacted,
    ///     signatures: Signatures::Checked,
    /// };
    /// let report = after.import(import, 0)??;
    /// assert_eq!((report.events, report.users), (2, vec![alice.to_owned()]));
    ///
    /// let states = [&before, &after].map(|engine| engine.room(&room_id).expect("it can be read"));
    /// let [Some(was), Some(is)] = states else { panic!("both have the room") };
    /// assert_eq!(was.forward_extremities(), is.forward_extremities());
    /// assert_eq!(was.current_state_id(), is.current_state_id());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged. What is wrong with the import is no error of this kind.
    pub fn import(&self, import: Import<'_>, now_ms: u64) -> Result<Result<ImportReport, ImportError>, Error> {
        let (room_id, signatures) = (import.room_id, import.signatures);
        let _span = tracing::debug_span!("import", room = %room_id).entered();
        let mut parsed = match ParsedImport::parse(import, &self.inner.config.limits) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Err(error)),
        };
        if signatures == Signatures::Unchecked
            && let Err(error) = parsed.verify(self.context(now_ms))?
        {
            return Ok(Err(error));
        }
        let exists = || ImportError::Exists(room_id.to_owned());
        self.with_new_room(room_id, parsed.rules.clone(), now_ms, exists, |room, cx| room.import(cx, &parsed))
    }

    /// Asks other servers for what came before the room's known history (server-server specification, "Backfilling and
    /// retrieving missing events"): before we joined it, or it was imported, and in gaps of it; for so many events, if
    /// they have them, the latest first. A call while that goes on changes nothing.
    ///
    /// The events are placed in the history ([`EventStage::History`](crate::EventStage::History)), judged by the state
    /// before them as any, and served; extremities and current state stay as they are (R-20). Each is told by
    /// [`Change::HistoryPersisted`](crate::Change::HistoryPersisted). A host calls it again while clients want more and the
    /// status is [`BackfillStatus::Idle`]. What was being asked at a restart is to be asked again.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::{BackfillStatus, Change, testing::{DEREK, Story}};
    ///
    /// let mut story = Story::with(
    ///     &"11".try_into()?,
    ///     &[],
    ///     |room| (0..30).for_each(|number| drop(room.message(DEREK, &format!("message {number}")).send())),
    ///     gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new()),
    ///     gibbous::Limits::default(),
    /// )
    /// .join_full();
    /// let room_id = story.room.id().to_owned();
    ///
    /// // A client scrolls back.
    /// let status = story.engine().backfill(&room_id, 20, story.now_ms)?;
    /// assert_eq!(status, BackfillStatus::Running);
    /// story.run(); // What the engine asks is answered.
    /// let is_history = |change: &&Change| matches!(change, Change::HistoryPersisted { .. });
    /// assert_eq!(story.changes.iter().filter(is_history).count(), 20);
    /// assert_eq!(story.engine().backfill_status(&room_id)?, BackfillStatus::Idle);
    ///
    /// // And further, until there is no more.
    /// story.engine().backfill(&room_id, 100, story.now_ms)?;
    /// story.run();
    /// assert_eq!(story.engine().backfill_status(&room_id)?, BackfillStatus::Complete);
    /// let create = story.create.clone();
    /// assert_eq!(story.verdict(&create), "history, accepted");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged or not known.
    pub fn backfill(&self, room_id: &RoomId, limit: usize, now_ms: u64) -> Result<BackfillStatus, Error> {
        self.with_room(room_id, now_ms, |room, cx| room.backfill(cx, limit))
    }

    /// Returns how the asking for a room's history stands.
    ///
    /// # Errors
    ///
    /// As [`Engine::backfill`].
    pub fn backfill_status(&self, room_id: &RoomId) -> Result<BackfillStatus, Error> {
        self.with_room(room_id, 0, |room, _| Ok(room.backfill_status()))
    }

    /// Runs the work that makes a room of one of which nothing is stored, and settles it. Where that is refused, nothing is
    /// stored of it afterwards either.
    fn with_new_room<T, E>(
        &self,
        room_id: &RoomId,
        rules: RoomRules,
        now_ms: u64,
        exists: impl FnOnce() -> E,
        work: impl FnOnce(&mut Room, Context<'_>) -> Result<Result<T, E>, Error>,
    ) -> Result<Result<T, E>, Error> {
        self.refuse_damaged(room_id)?;
        let slot = self.slot(room_id);
        let mut slot = self.enter(&slot);
        self.read(room_id, &mut slot)?;
        if slot.room.is_some() || slot.joining.is_some() {
            return Ok(Err(exists()));
        }
        let cx = self.context(now_ms);
        let num = self.inner.store.number_room(room_id)?;
        let room = slot.room.insert(Room::new(num, room_id.to_owned(), rules, cx.limits));
        let done = work(room, cx);
        if matches!(done, Ok(Err(_))) {
            slot.room = None;
            self.inner.store.purge(room_id)?;
        }
        self.settle(cx, room_id, &mut slot, done)
    }
}
