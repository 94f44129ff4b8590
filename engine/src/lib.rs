//! gibbous: an embeddable, event-sourced room-state engine for Matrix homeservers.
//!
//! # What it does
//!
//! A homeserver hands an [`Engine`] what arrives over federation. The engine does the checks on receipt of a PDU, finds
//! the state before and after each event, stores all of it durably, and says what to ask other servers ([`Request`])
//! and what has changed ([`Update`]). Of what the homeserver's own users say it makes events ([`Engine::create`]). It
//! makes *faster joins* (MSC3706, MSC3902) available: after a `send_join` response without members a room can be used
//! at once; the full state is fetched in the background, and events flip from partial to full state in place, with
//! their verdicts given anew.
//!
//! # What it does not
//!
//! It opens no socket, reads no clock and, but for those of its database, keeps no thread beyond a call. It keeps no invites to
//! rooms that it does not know. It does not authenticate origins: the host does.
//!
//! The rules of authorisation ([`authorisation`]) and state resolution ([`resolution`]) can be had alone.
//!
//! # The data path
//!
//! ```text
//! PDUs ──▶ Engine::receive             the host ◀── poll_update ◀─────────────┐
//!            │                                                                │
//!            ▼                                                                │
//!          check 1 format ── 2 signatures ── 3 hashes      drop · redact      │
//!            │                                                                │
//!            ▼                                                                │
//!          auth events and states after the prev events at hand?              │
//!            │ yes         │ no: it waits ──▶ poll_request ──▶ other servers  │
//!            │             ▲                                       │          │
//!            │             └─── gap, auth chain, full state ◀── handle_response
//!            ▼                                                                │
//!          state before ── check 4 auth events ── check 5 state before        │
//!            │                                             reject             │
//!            │ partial: judged by what is known, flipped when all is full     │
//!            ▼                                                                │
//!          check 6 current state, in canonical order, once full    soft-fail  │
//!            │                                                                │
//!            ▼                                                                │
//!          log record ─▶ rows ─▶ commit ─▶ sync ──────────────────────────────┘
//! ```
//!
//! A verdict is written as soon as checks 4 and 5 have given it; check 6 of a partial room is folded later and is
//! written then. [`architecture`] tells the way of an event and of an answer file by file.
//!
//! # Use
//!
//! ```
//! use std::sync::Arc;
//!
//! use gibbous::{Config, Engine, JoinTicket, MemoryBackend, RoomId, RoomVersionId, SendJoin};
//!
//! let engine = Engine::open(Arc::new(MemoryBackend::new()), Config::new("our.example".try_into()?), 0)?;
//!
//! // The host has sent the join event to other.example with `omit_members=true`; this is the answer.
//! let join = |room_id: &RoomId, event: &[u8], response: &[u8], now_ms: u64| -> Result<JoinTicket, gibbous::Error> {
//!     let via = "other.example".try_into().expect("a server name");
//!     let room_version = &RoomVersionId::V11;
//!     engine.begin_join(SendJoin { room_id, room_version, via, event, response, asked_partial: true }, now_ms)
//! };
//! let ticket = join("!room:other.example".try_into()?, b"{}", b"{}", 0)?;
//! println!("{:?}", engine.join_status(ticket)); // Failed(MalformedResponse(…)): the body is no answer.
//! while let Some(request) = engine.poll_request(0)? {
//!     println!("{} is to be asked: {:?}", request.destination, request.kind);
//! }
//! # use gibbous::{JoinError, JoinStatus};
//! # assert!(matches!(engine.join_status(ticket), JoinStatus::Failed(JoinError::MalformedResponse(_))));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! [`embedding`] is the guide for hosts: the loop, threads, joins, partial state, what to do on each update, errors.
//!
//! What goes wrong is told as a [`Failure`] with a number that never changes its meaning: `codec/FAILURES.md` lists
//! them, and `codec/RULES.md` the rules that a rejected event can break.
//!
//! # Features
//!
//! `replay` plays recordings through an engine, `cli` is the command line (and needs `replay` and `testing`), `fjall` is a
//! second database (Rust 1.90), `testing` tells rooms as stories and makes them of seeds. None is on by default, and none
//! changes a result or a byte on disk.

#[doc = include_str!("../ARCHITECTURE.md")]
pub mod architecture {}
#[doc = include_str!("../EMBEDDING.md")]
pub mod embedding {}

mod acl;
mod auth;
pub mod authorisation;
mod engine;
mod error;
mod explain;
mod export;
mod history;
mod import;
mod intake;
mod keys;
mod limits;
mod local;
mod lookup;
mod make_join;
mod members;
mod notify;
mod open_events;
mod parked;
mod partial_join;
mod questions;
mod quotas;
mod redactions;
#[cfg(feature = "replay")]
pub mod replay;
mod request;
mod requests;
pub mod resolution;
mod resolve;
mod resync;
mod room;
pub mod serve;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
mod update_queue;
mod verify_pool;
mod view;

pub use engine::{
    Completion, Config, DamagedRoom, Engine, FullState, JoinStatus, JoinTicket, Metric, MetricKind, Stats, supports,
};
pub use error::Error;
pub use explain::{Citation, Explanation, Reading};
pub use export::{Export, ExportRefusal};
pub use gibbous_codec::{
    self, Check, EventId, EventStatus, Failure, FailureCode, LocalSigner, Membership, OwnedEventId, OwnedRoomId,
    OwnedServerName, OwnedUserId, Pdu, RefusalReason, Refused, Rejection, Rest, RoomId, RoomVersionId, ServerName,
    Severity, Signer, SigningKey, StateGroupId, StateKey, StateMap, UserId,
};
pub use gibbous_storage::{self, Backend, Collected, MemoryBackend, SledBackend, SledOptions};
#[cfg(feature = "fjall")]
pub use gibbous_storage::{FjallBackend, FjallOptions};
pub use history::BackfillStatus;
pub use import::{Extremity, Import, ImportError, ImportReport, RedactedEvent, Signatures};
pub use intake::{Outcome, Receipt};
pub use limits::Limits;
pub use local::{
    CreateRefusal, CreateRoomRefusal, Created, CreatedRoom, Destinations, EventDraft, Invite, InviteRefusal, JoinRoute,
    NewRoom, PendingInvite, SendPolicy,
};
pub use make_join::{MakeJoin, MakeJoinError};
pub use members::ServersInRoom;
pub use notify::{Change, Update, UpdatePosition};
pub use partial_join::{JoinError, SendJoin};
pub use request::{Request, RequestError, RequestId, RequestKind, Response, Spooled};
pub use resync::ResyncStatus;
pub use view::{
    At, CatchUp, Corrections, EventInfo, EventStage, Lookup, Member, MembersPage, NotYet, RoomView, StateChange,
    StateFilter, StateRead, Summary, Trust, WaitingOn, WrongMembership,
};

/// The examples of the README, which stands outside the package: it is read for doc tests alone.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct ReadmeExamples;
