//! How one of our users joins a room: by an event of ours, or by a handshake with another server.

use gibbous_codec::{OwnedServerName, OwnedUserId, Rule, StateKey, UserId, path};
use gibbous_storage::{RoomRows, Txn};
use serde_json::{json, value::to_raw_value};

use super::EventDraft;
use crate::{
    Error,
    resync::each_once,
    room::{Context, Room},
};

/// How one of our users joins a room.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinRoute {
    /// By an event of ours ([`Engine::create`](crate::Engine::create)): the user is in the room already and changes
    /// name or picture, or others of ours are, and the room is full. Whether the rules allow it is told then.
    Local,
    /// By an event of ours that one of these users of ours authorises (`join_authorised_via_users_server`, room version
    /// 8 on), if the host finds that the user meets a condition of the join rules.
    Authorised {
        /// Those of ours who may invite; the first ten of them.
        by: Vec<OwnedUserId>,
    },
    /// By `make_join` and `send_join`, whose response is for [`Engine::begin_join`](crate::Engine::begin_join).
    Handshake {
        /// The servers that are known to be in the room, or were when we left it; the one joined by first. Empty where
        /// the room is not known: an alias or an invite tells whom to ask.
        candidates: Vec<OwnedServerName>,
        /// Whether the members may be left out of the response (`omit_members`).
        omit_members: bool,
    },
}

impl Room {
    /// Tells how one of our users joins.
    ///
    /// - A user who is in the room needs nobody for a new join.
    /// - Members may be omitted where nobody of ours is in the room, or it is partial already.
    /// - While it is partial, a second user joins by a handshake too: a resident server sees bans that we do not.
    pub(crate) fn join_route(&mut self, cx: Context<'_>, txn: &mut Txn<'_>, user: &UserId) -> Result<JoinRoute, Error> {
        let present = self.users_present(txn, usize::MAX)?;
        let is_partial = txn.is_partial()?;
        if present.is_empty() {
            return Ok(JoinRoute::Handshake { candidates: self.candidates(cx, txn)?, omit_members: true });
        }
        let (_, current) = self.provisional(txn)?;
        let member = txn.state_event(current, &path(&StateKey::new("m.room.member", user.as_str())))?;
        let events = self.memory.events(txn);
        if let Some(member) = member
            && events.with_stage(member)?.0.membership() == Some("join")
        {
            return Ok(JoinRoute::Local);
        }
        if is_partial {
            return Ok(JoinRoute::Handshake { candidates: self.candidates(cx, txn)?, omit_members: true });
        }
        if self.join_is_refused_by(txn, user, None)? != Some(Rule::JoinNotAuthorised) {
            return Ok(JoinRoute::Local);
        }
        let by = self.authorisers(txn, present, user)?;
        Ok(match by.is_empty() {
            true => JoinRoute::Handshake { candidates: self.candidates(cx, txn)?, omit_members: false },
            false => JoinRoute::Authorised { by },
        })
    }

    /// Returns those of some of our users who may authorise a restricted join, whosever it is; the first of them.
    pub(crate) fn authorisers(
        &mut self,
        txn: &mut Txn<'_>,
        ours: Vec<OwnedUserId>,
        who_joins: &UserId,
    ) -> Result<Vec<OwnedUserId>, Error> {
        /// One is enough; some more, should the host prefer one.
        const AUTHORISERS_MAX: usize = 10;
        let mut by = Vec::new();
        for user in ours {
            if self.join_is_refused_by(txn, who_joins, Some(&user))?.is_none() {
                by.push(user);
            }
            if by.len() == AUTHORISERS_MAX {
                break;
            }
        }
        Ok(by)
    }

    /// Returns the servers that can be asked to let somebody in: the one joined by first.
    pub(super) fn candidates(&mut self, cx: Context<'_>, txn: &mut Txn<'_>) -> Result<Vec<OwnedServerName>, Error> {
        let mut others = self.servers_in_room(txn)?.servers;
        others.remove(cx.our_server);
        let named = self.resync.servers().named().iter();
        Ok(each_once(named.chain(others.iter().map(|server| &**server))).map(ToOwned::to_owned).collect())
    }

    /// Returns the rule by which the current state refuses a user's join, if it does.
    fn join_is_refused_by(
        &mut self,
        txn: &mut Txn<'_>,
        user: &UserId,
        authoriser: Option<&UserId>,
    ) -> Result<Option<Rule>, Error> {
        let mut content = json!({ "membership": "join" });
        if let Some(authoriser) = authoriser {
            content["join_authorised_via_users_server"] = json!(authoriser);
        }
        let draft = EventDraft {
            sender: user,
            event_type: "m.room.member",
            state_key: Some(user.as_str()),
            content: &to_raw_value(&content).expect("strings can always be written"),
            redacts: None,
            origin_server_ts: 0,
        };
        // A user whose ID makes no event is told so by `create`.
        let Ok(template) = self.template(txn, &draft)? else { return Ok(None) };
        let (_, current) = self.provisional(txn)?;
        Ok(self.refused_by(txn, current, &template.unsigned)?.map(|rejection| rejection.rule))
    }
}
