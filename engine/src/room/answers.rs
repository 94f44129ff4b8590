//! Answers of other servers, to the part of the room that asked.

use std::collections::BTreeSet;

use gibbous_codec::{EventNum, Pdu, ServerName, Stage, StateKey, path};
use gibbous_storage::{RoomRows, StateEvents};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error, RequestKind, Response,
    auth::rests_on,
    lookup::by_id,
    parked::Batch,
    partial_join::is_create,
    room::{Context, Question, Room},
    state::stage_of,
    verify_pool::map,
};

impl Room {
    /// Takes the answer to a question of the room.
    pub(crate) fn handle_answer(
        &mut self,
        cx: Context<'_>,
        question: Question,
        from: &ServerName,
        kind: RequestKind,
        response: Response,
    ) -> Result<(), Error> {
        match question {
            Question::Resync { prev } => self.handle_resync_answer(cx, &prev, from, kind, response),
            Question::Gap { .. } | Question::AuthChain { .. } => {
                // An answer that cannot be used is as good as an empty one: the question is asked elsewhere.
                let mut pdus = self.pdus_of_answer(cx, &response)?;
                match question {
                    Question::AuthChain { event } => pdus = self.auth_chain_among(cx, event, pdus)?,
                    _ => keep_deepest(&mut pdus, cx.limits.missing_events_limit as usize),
                }
                self.verify_and_use(cx, Batch::new(question, from, None, pdus))
            }
            Question::Backfill => self.handle_backfill_answer(cx, from, response),
            Question::Keys { server } => self.keys_answered(cx, &server),
            // The join is the engine's.
            Question::JoinAuthChain => Ok(()),
        }
    }

    /// Returns the events of the room in a `get_missing_events`, `event_auth` or `backfill` answer: none, if it is
    /// another kind of answer.
    pub(crate) fn pdus_of_answer(&self, cx: Context<'_>, response: &Response) -> Result<Vec<Pdu>, Error> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            events: Vec<Box<RawValue>>,
            #[serde(default)]
            auth_chain: Vec<Box<RawValue>>,
            #[serde(default)]
            pdus: Vec<Box<RawValue>>,
        }
        let Response::Body(body) = response else { return Ok(Vec::new()) };
        let Ok(body) = serde_json::from_slice::<Body>(body) else { return Ok(Vec::new()) };
        let raw: Vec<_> = body.events.iter().chain(&body.auth_chain).chain(&body.pdus).collect();
        self.parse_own(cx, &raw.iter().map(|pdu| pdu.get().as_bytes()).collect::<Vec<_>>())
    }

    /// Parses PDUs of an answer. What belongs to another room or is no event is passed over.
    pub(crate) fn parse_own(&self, cx: Context<'_>, raw: &[&[u8]]) -> Result<Vec<Pdu>, Error> {
        let rules = &self.memory.rules;
        let rows = cx.store.snapshot(self.num)?;
        let mut own = Vec::new();
        for pdu in map(raw, |json| Pdu::parse(rules, json).ok()).into_iter().flatten() {
            if pdu.room_id() == self.id && !self.is_other_create(&rows, &pdu)? {
                own.push(pdu);
            }
        }
        Ok(own)
    }

    /// Tells whether an event is a create event, but not the one that the room began with. Up to room version 11 the
    /// server in the room's ID can make as many as it likes, each of which is allowed by the rules.
    pub(crate) fn is_other_create<R: RoomRows>(&self, rows: &R, pdu: &Pdu) -> Result<bool, Error> {
        if !is_create(pdu) {
            return Ok(false);
        }
        let mut creates = StateEvents::at(self.num, &path(&StateKey::new("m.room.create", "")));
        match creates.next_page(rows)?.and_then(|page| page.first().copied()) {
            Some(first) => Ok(rows.event_record(first)?.event_id != pdu.event_id()),
            None => Ok(false),
        }
    }

    /// Returns those of some events that another one rests on, directly or over others. The rest was not asked for.
    fn auth_chain_among(&self, cx: Context<'_>, num: EventNum, pdus: Vec<Pdu>) -> Result<Vec<Pdu>, Error> {
        let rows = cx.store.snapshot(self.num)?;
        let events = self.memory.events(&rows);
        let rules = &self.memory.rules;
        let mut given = by_id(pdus);
        let mut chain = Vec::new();
        let mut next = rests_on(rules, &events.with_stage(num)?.0);
        let mut seen = BTreeSet::new();
        while let Some(event_id) = next.pop() {
            if !seen.insert(event_id.clone()) {
                continue;
            }
            let stored = stage_of(&rows, &event_id)?;
            if let Some(pdu) = given.remove(&event_id) {
                next.extend(rests_on(rules, &pdu));
                // What is stored and has been verified is not verified again; what it rests on may be lacking.
                if !stored.is_some_and(|(_, stage)| stage.is_verified()) {
                    chain.push(pdu);
                }
            } else if let Some((num, Stage::Waiting | Stage::Unverified)) = stored {
                next.extend(rests_on(rules, &events.with_stage(num)?.0));
            }
        }
        Ok(chain)
    }

    /// A server's keys have come, or cannot be had.
    pub(crate) fn keys_answered(&mut self, cx: Context<'_>, server: &ServerName) -> Result<(), Error> {
        for batch in self.parked.keys_answered(server) {
            self.verify_and_use(cx, batch)?;
        }
        self.reverify(cx)?;
        self.advance(cx)
    }
}

/// Keeps of the events of a gap no more than were asked for: the deepest, which are next to what they were asked for.
fn keep_deepest(pdus: &mut Vec<Pdu>, max: usize) {
    pdus.sort_by(|a, b| (a.depth(), a.event_id()).cmp(&(b.depth(), b.event_id())));
    pdus.drain(..pdus.len().saturating_sub(max));
}
