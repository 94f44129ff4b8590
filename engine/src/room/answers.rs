//! Answers of other servers, to the part of the room that asked.

use gibbous_codec::{Pdu, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Error, RequestKind, Response,
    parked::Batch,
    room::{Context, Question, Room},
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
                let pdus = match response {
                    Response::Body(body) => self.pdus_of_answer(&body),
                    Response::Events(_) | Response::Failed(_) => Vec::new(),
                };
                let batch = Batch::verify(cx, &self.memory.rules, question, from, None, pdus)?;
                self.use_or_park(cx, batch)
            }
            Question::Backfill => self.handle_backfill_answer(cx, from, response),
            Question::Keys { server } => self.keys_answered(cx, &server),
            // The join is the engine's.
            Question::JoinAuthChain => Ok(()),
        }
    }

    /// Returns the events of the room in the body of a `get_missing_events`, `event_auth` or `backfill` answer.
    pub(crate) fn pdus_of_answer(&self, body: &[u8]) -> Vec<Pdu> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            events: Vec<Box<RawValue>>,
            #[serde(default)]
            auth_chain: Vec<Box<RawValue>>,
            #[serde(default)]
            pdus: Vec<Box<RawValue>>,
        }
        let Ok(body) = serde_json::from_slice::<Body>(body) else { return Vec::new() };
        let raw: Vec<_> = body.events.iter().chain(&body.auth_chain).chain(&body.pdus).collect();
        let rules = &self.memory.rules;
        let parsed = map(&raw, |pdu| Pdu::parse(rules, pdu.get().as_bytes()).ok());
        parsed.into_iter().flatten().filter(|pdu| pdu.room_id() == self.id).collect()
    }

    /// A server's keys have come, or cannot be had.
    pub(crate) fn keys_answered(&mut self, cx: Context<'_>, server: &ServerName) -> Result<(), Error> {
        for batch in self.parked.keys_answered(cx, &self.memory.rules, server)? {
            self.use_or_park(cx, batch)?;
        }
        self.reverify(cx)?;
        self.advance(cx)
    }
}
