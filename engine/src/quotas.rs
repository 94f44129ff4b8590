//! Quotas: how much one origin can make a room store, hold waiting, or ask for, so that none can shut out the others.
//!
//! Each origin has a bucket of tokens in each room ([`Limits::pdus_an_origin_max`]). A PDU that it hands in and that is
//! stored takes one, and so does a question for the gap before a PDU of its; time puts them back. With none left, what is
//! new to us is refused ([`FailureCode::QuotaExceeded`](crate::FailureCode::QuotaExceeded)). Our own server, answers to our
//! questions, and events that are stored already take none. Buckets are in memory alone: after a restart all are full.

use std::collections::BTreeMap;

use gibbous_codec::{EventId, EventNum, OwnedServerName, ServerName};
use gibbous_storage::{RoomRows, Txn};

use crate::{
    Error, Limits,
    open_events::OpenKind,
    room::{Context, Room},
    state::is_stored,
};

/// The buckets of a room that are not full.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    /// When each is full again, in microseconds on the host's clock: so late that it tells how many tokens are left.
    full_at_us: BTreeMap<OwnedServerName, u64>,
}

impl Quotas {
    /// Tells whether an origin has a token left.
    fn has_token(&self, origin: &ServerName, limits: &Limits, now_ms: u64) -> bool {
        let missing_us = self.full_at_us.get(origin).map_or(0, |full_at| full_at.saturating_sub(us(now_ms)));
        missing_us.saturating_add(token_us(limits)) <= bucket_us(limits)
    }

    /// Takes a token from an origin; what was not to be refused any more takes one too where none is left.
    pub(crate) fn take(&mut self, origin: &ServerName, limits: &Limits, now_ms: u64) {
        let now = us(now_ms);
        if !self.full_at_us.contains_key(origin) {
            self.make_room(limits, now);
        }
        let full_at = self.full_at_us.entry(origin.to_owned()).or_default();
        // No debt is greater than a bucket, and none is held against an origin because the host's clock went back.
        let latest = now.saturating_add(bucket_us(limits).saturating_mul(2));
        *full_at = (*full_at).max(now).saturating_add(token_us(limits)).min(latest);
    }

    /// Forgets buckets that are full, or else the fullest one, so that one more can be remembered.
    fn make_room(&mut self, limits: &Limits, now: u64) {
        if self.full_at_us.len() < limits.origins_max {
            return;
        }
        self.full_at_us.retain(|_, full_at| *full_at > now);
        if self.full_at_us.len() >= limits.origins_max {
            let fullest = self.full_at_us.iter().min_by_key(|(_, full_at)| **full_at);
            if let Some(origin) = fullest.map(|(origin, _)| origin.clone()) {
                self.full_at_us.remove(&origin);
            }
        }
    }
}

fn us(ms: u64) -> u64 {
    ms.saturating_mul(1_000)
}

/// Returns how long it takes until one token is back, in microseconds.
fn token_us(limits: &Limits) -> u64 {
    1_000_000 / u64::from(limits.pdus_an_origin_a_second.max(1))
}

/// Returns how long it takes to fill an empty bucket, in microseconds.
fn bucket_us(limits: &Limits) -> u64 {
    token_us(limits).saturating_mul(u64::from(limits.pdus_an_origin_max))
}

impl Room {
    /// Tells whether an origin may hand in an event: it has a token left, or it needs none.
    pub(crate) fn may_hand_in(
        &self,
        cx: Context<'_>,
        txn: &Txn<'_>,
        origin: &ServerName,
        event_id: &EventId,
    ) -> Result<bool, Error> {
        Ok(origin == cx.our_server || self.quotas.has_token(origin, cx.limits, cx.now_ms) || is_stored(txn, event_id)?)
    }

    /// Takes a token for an event that an origin has handed in, if it was stored. `was` is under which number it was
    /// before: a verified copy that takes the place of one that is not is stored anew.
    pub(crate) fn charge(
        &mut self,
        cx: Context<'_>,
        txn: &Txn<'_>,
        origin: &ServerName,
        event_id: &EventId,
        was: Option<EventNum>,
    ) -> Result<(), Error> {
        if origin != cx.our_server && txn.event_num(event_id)? != was {
            self.quotas.take(origin, cx.limits, cx.now_ms);
        }
        Ok(())
    }

    /// Tells whether one more event may wait that a server has sent: the room holds no more, and no server more than half
    /// of them. Where it would be too many, one goes that cannot be verified anyway.
    pub(crate) fn has_room_for_waiting(
        &mut self,
        cx: Context<'_>,
        txn: &mut Txn<'_>,
        origin: &ServerName,
    ) -> Result<bool, Error> {
        let has_its_share = self.has_its_share(cx, origin);
        if !has_its_share && self.open.waiting() < cx.limits.waiting_events_max {
            return Ok(true);
        }
        let hopeless = self.open.iter().find(|(num, event)| {
            event.kind == OpenKind::Unverified && event.is_stuck && (!has_its_share || self.is_from(*num, origin))
        });
        match hopeless.map(|(num, _)| num) {
            Some(num) => self.supersede(txn, num).map(|()| true),
            None => Ok(false),
        }
    }

    /// Tells whether as many events wait that a server has sent as may of one server.
    fn has_its_share(&self, cx: Context<'_>, origin: &ServerName) -> bool {
        let share = cx.limits.waiting_events_max.div_ceil(2);
        if origin == cx.our_server || self.open.waiting() < share {
            return false;
        }
        let waiting = self.open.iter().filter(|(_, event)| event.kind.waits());
        waiting.filter(|(num, _)| self.is_from(*num, origin)).take(share).count() == share
    }

    /// Tells whether a server has sent the PDU that an event fills the gap before, or that is the event itself. After a
    /// restart, what has asked for nothing yet is from nobody.
    fn is_from(&self, num: EventNum, origin: &ServerName) -> bool {
        self.gaps.origin(self.open.root_of(num)) == Some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { pdus_an_origin_max: 2, pdus_an_origin_a_second: 10, origins_max: 2, ..Limits::default() }
    }

    fn name(name: &str) -> OwnedServerName {
        name.try_into().expect("a server name")
    }

    #[test]
    fn tokens_come_back_one_by_one_and_a_debt_is_bounded() {
        let (mut quotas, limits, origin) = (Quotas::default(), limits(), name("a.example"));
        let has_token = |quotas: &Quotas, now_ms| quotas.has_token(&origin, &limits, now_ms);
        quotas.take(&origin, &limits, 1_000);
        assert!(has_token(&quotas, 1_000));
        quotas.take(&origin, &limits, 1_000);
        assert!(!has_token(&quotas, 1_099));
        assert!(has_token(&quotas, 1_100));
        for _ in 0..1_000 {
            quotas.take(&origin, &limits, 1_100);
        }
        assert!(!has_token(&quotas, 1_399));
        assert!(has_token(&quotas, 1_400));
        // The clock goes back by far: what was taken then is forgotten with the next token.
        quotas.take(&origin, &limits, 500);
        assert!(has_token(&quotas, 800));
    }

    #[test]
    fn the_fullest_bucket_is_forgotten_first() {
        let (mut quotas, limits) = (Quotas::default(), limits());
        let [a, b, c] = ["a.example", "b.example", "c.example"].map(name);
        for origin in [&a, &a, &b, &c] {
            quotas.take(origin, &limits, 1_000);
        }
        let remembered: Vec<_> = quotas.full_at_us.keys().collect();
        assert_eq!(remembered, [&a, &c]);
        quotas.take(&b, &limits, 1_200);
        assert_eq!(quotas.full_at_us.len(), 1, "both of the others are full again");
    }

    #[test]
    fn no_limits_are_met_by_overflow() {
        let (mut quotas, origin) = (Quotas::default(), name("a.example"));
        let limits = Limits { pdus_an_origin_max: u32::MAX, pdus_an_origin_a_second: 0, ..limits() };
        quotas.take(&origin, &limits, u64::MAX);
        assert!(quotas.has_token(&origin, &limits, u64::MAX));
        assert!(!quotas.has_token(&origin, &limits, 0));
    }
}
