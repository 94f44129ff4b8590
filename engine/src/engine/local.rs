//! Events of our own: made, judged and stored; to whom they go; and how our users join.

use std::collections::BTreeSet;

use gibbous_codec::{EventId, OwnedServerName, Pdu, RoomId, RoomRules, ServerName, Signer, UserId};

use super::{Engine, lock};
use crate::{
    CreateRefusal, Created, Destinations, Error, EventDraft, Invite, InviteRefusal, JoinRoute, PendingInvite,
    SendPolicy, room::Ask,
};

impl Engine {
    /// Makes an event of what one of our users wants to say: it is placed behind the room's forward extremities, given
    /// its auth events (server-server specification, "Auth events selection"), hashed, signed, and judged as any other
    /// (checks 4 and 5, and 6 where the room is full). Only what is allowed is stored; it is durable by then, and is to
    /// be sent to [`Created::destinations`].
    ///
    /// Nothing is waited for: while the room is partial the state as far as it is known decides, and the refusal says
    /// whether that is to blame.
    ///
    /// ```
    /// use gibbous::{
    ///     Config, CreateRefusal, Engine, Error, EventDraft, LocalSigner, MemoryBackend, OwnedEventId, OwnedServerName,
    ///     RoomId, Signer, SigningKey, UserId,
    /// };
    /// use serde_json::{json, value::to_raw_value};
    /// use std::sync::Arc;
    ///
    /// /// What a host does when a client sends a message.
    /// fn say(
    ///     engine: &Engine,
    ///     signer: &dyn Signer,
    ///     (room_id, sender, body): (&RoomId, &UserId, &str),
    ///     now_ms: u64,
    ///     send: impl Fn(&OwnedServerName, &str),
    /// ) -> Result<Option<OwnedEventId>, Box<dyn std::error::Error>> {
    ///     let draft = EventDraft {
    ///         sender,
    ///         event_type: "m.room.message",
    ///         state_key: None,
    ///         content: &to_raw_value(&json!({ "msgtype": "m.text", "body": body }))?,
    ///         redacts: None,
    ///         origin_server_ts: now_ms,
    ///     };
    ///     match engine.create(room_id, &draft, signer, now_ms)? {
    ///         Ok(created) => {
    ///             for server in &created.destinations.servers {
    ///                 send(server, created.pdu.canonical_json());
    ///             }
    ///             Ok(Some(created.pdu.event_id().to_owned()))
    ///         }
    ///         // The client may be told to try again when the room has its full state.
    ///         Err(CreateRefusal::Rejected { because_partial: true, .. }) => Ok(None),
    ///         Err(refusal) => Err(refusal.into()),
    ///     }
    /// }
    ///
    /// let us: OwnedServerName = "us.example".try_into()?;
    /// let engine = Engine::open(Arc::new(MemoryBackend::new()), Config::new(us.clone()), 0)?;
    /// let signer = LocalSigner::new(us, "ed25519:1", SigningKey::from_bytes(&[7; 32]));
    /// let hello = ("!room:other.example".try_into()?, "@alice:us.example".try_into()?, "hello");
    /// let sent = say(&engine, &signer, hello, 0, |server, pdu| println!("{pdu} goes to {server}"));
    /// // Nobody of ours has joined that room.
    /// let error = sent.expect_err("the room is not known");
    /// assert!(matches!(error.downcast_ref(), Some(Error::UnknownRoom(_))));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails, the room is damaged, or it is not known here.
    pub fn create(
        &self,
        room_id: &RoomId,
        draft: &EventDraft<'_>,
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Result<Result<Created, CreateRefusal>, Error> {
        let _span = tracing::debug_span!("create", room = %room_id, sender = %draft.sender, draft.event_type).entered();
        self.with_room(room_id, now_ms, |room, cx| room.create(cx, draft, signer))
    }

    /// Returns to which servers an event of ours is to be sent, as far as is known now, or `None` for an event that has
    /// no place in the room's history. It may be asked again for an event that a server may have missed.
    ///
    /// When the room is full: the servers that had members in it before the event. While it is partial: see
    /// [`SendPolicy`]. Besides, the server of whom the event invites, or whose invite it takes back. Nobody gets events
    /// of other servers from us, a join that another server has let in, which sends it itself (server-server
    /// specification, "Joining Rooms"), or what was rejected or soft-failed.
    ///
    /// # Errors
    ///
    /// If the store fails, the room is damaged, or it is not known here.
    pub fn destinations(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        policy: SendPolicy,
    ) -> Result<Option<Destinations>, Error> {
        self.with_room(room_id, 0, |room, cx| room.destinations(cx, event_id, policy))
    }

    /// Tells how one of our users joins a room: by an event of ours, or by a handshake with another server
    /// (server-server specification, "Joining Rooms"), and then with which, and whether the members may be left out of
    /// its response (MSC3706, `omit_members`).
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged.
    pub fn how_to_join(&self, room_id: &RoomId, user: &UserId) -> Result<JoinRoute, Error> {
        let route = self.with_room(room_id, 0, |room, cx| {
            let mut txn = cx.store.txn(room.num)?;
            let route = room.join_route(cx, &mut txn, user)?;
            room.commit(txn)?;
            Ok(route)
        });
        match route {
            Err(Error::UnknownRoom(_)) => Ok(JoinRoute::Handshake { candidates: Vec::new(), omit_members: true }),
            route => route,
        }
    }
    /// Takes an invite of one of our users that `origin`, whom the host has authenticated, has handed over, and returns
    /// it with our signature, to be given back (server-server specification, "Inviting to a room").
    ///
    /// Where one of ours is in the room, it is durable by then, and its verdict comes as an [`Update`](crate::Update). Else
    /// it is kept ([`Engine::invites`]), with what the server tells of the room, until the user joins or says no.
    ///
    /// ```
    /// use gibbous::{Engine, Error, Invite, InviteRefusal, ServerName, Signer};
    ///
    /// /// The body of the answer to `PUT /invite`, or the HTTP status and code of the refusal.
    /// fn invited(
    ///     engine: &Engine,
    ///     signer: &dyn Signer,
    ///     (origin, invite): (&ServerName, Invite<'_>),
    ///     now_ms: u64,
    /// ) -> Result<Result<String, (u16, &'static str)>, Error> {
    ///     Ok(match engine.handle_invite(origin, invite, signer, now_ms)? {
    ///         Ok(signed) => Ok(format!(r#"{{"event":{}}}"#, signed.canonical_json())),
    ///         // What `poll_request` names is to be asked first.
    ///         Err(InviteRefusal::MissingKeys(_)) => Err((503, "M_UNKNOWN")),
    ///         Err(InviteRefusal::UnknownRoomVersion(_)) => Err((400, "M_UNSUPPORTED_ROOM_VERSION")),
    ///         Err(InviteRefusal::Format(_) | InviteRefusal::NoInvite(_)) => Err((400, "M_INVALID_PARAM")),
    ///         Err(_) => Err((403, "M_FORBIDDEN")),
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store fails, or the room is damaged.
    pub fn handle_invite(
        &self,
        origin: &ServerName,
        invite: Invite<'_>,
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Result<Result<Pdu, InviteRefusal>, Error> {
        let in_room = self.with_room(invite.room_id, now_ms, |room, cx| room.handle_invite(cx, origin, invite, signer));
        let signed = match in_room {
            Err(Error::UnknownRoom(_)) => self.handle_invite_elsewhere(origin, invite, signer, now_ms)?,
            signed => signed?,
        };
        if let Err(InviteRefusal::MissingKeys(servers)) = &signed {
            self.ask_keys(invite.room_id, servers, now_ms)?;
        }
        Ok(signed)
    }

    fn handle_invite_elsewhere(
        &self,
        origin: &ServerName,
        invite: Invite<'_>,
        signer: &dyn Signer,
        now_ms: u64,
    ) -> Result<Result<Pdu, InviteRefusal>, Error> {
        let Some(rules) = RoomRules::of(invite.room_version) else {
            return Ok(Err(InviteRefusal::UnknownRoomVersion(invite.room_version.clone())));
        };
        let cx = self.context(now_ms);
        let signed = match invite.sign(cx, &rules, origin, signer)? {
            Ok(signed) => signed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let kept = invite.keep(cx, origin, &signed)?;
        self.inner.store.sync()?;
        Ok(kept.map(|()| signed))
    }

    /// Asks for servers' keys, but those that were asked for a moment ago.
    fn ask_keys(&self, room_id: &RoomId, servers: &BTreeSet<OwnedServerName>, now_ms: u64) -> Result<(), Error> {
        let mut asks = Vec::new();
        for server in servers {
            if self.inner.keys.may_ask([server], now_ms)? {
                asks.push(Ask::keys(server.clone()));
            }
        }
        lock(&self.inner.requests).add(room_id, asks);
        self.inner.wake();
        Ok(())
    }

    /// Returns the invites of one of our users that wait for an answer, to rooms that nobody of ours is in or that do not
    /// say otherwise by now: where one of ours is in the room, its state decides.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn invites(&self, user: &UserId) -> Result<Vec<PendingInvite>, Error> {
        let mut invites = Vec::new();
        for row in self.inner.store.invites(user)? {
            let is_answered = match self.room(&row.room_id) {
                Ok(Some(view)) => view.answers_invite(user)?,
                Ok(None) | Err(Error::DamagedRoom { .. }) => false,
                Err(error) => return Err(error),
            };
            if !is_answered {
                invites.push(PendingInvite::of(row)?);
            }
        }
        Ok(invites)
    }

    /// Forgets an invite that one of our users has turned down: by `make_leave` and `send_leave` with the server that
    /// has handed it over ([`PendingInvite::via`]; server-server specification, "Leaving Rooms (Rejecting Invites)"),
    /// or for himself. Who joins answers it by that.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn forget_invite(&self, user: &UserId, room_id: &RoomId) -> Result<(), Error> {
        self.inner.store.remove_invite(user, room_id)?;
        self.inner.store.sync()?;
        Ok(())
    }
}
