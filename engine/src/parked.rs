//! Answers that cannot be used yet, because the keys of some servers are being asked for.

use std::{collections::BTreeSet, mem};

use gibbous_codec::{
    OwnedEventId, OwnedServerName, Pdu, QuestionKey, QuestionRow, RoomRules, ServerName, VerifiedPdu, VerifyError,
    required_servers,
};

use crate::{
    Error,
    questions::Writes,
    resync::state_body::StateBody,
    room::{Context, Question},
    verify_pool::map_in_turn,
};

/// Events of one answer on their way through checks 2 and 3.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What the answer was asked for.
    pub(crate) question: Question,
    /// The server that gave it.
    pub(crate) from: OwnedServerName,
    /// The events that were asked for by ID, if they were.
    pub(crate) asked: Option<Vec<OwnedEventId>>,
    /// Those that passed.
    pub(crate) verified: Vec<Pdu>,
    /// The body of the answer, and those of its events that are parsed when the keys that are being asked for have come.
    pub(crate) unread: Option<StateBody>,
    /// Those whose keys are being asked for.
    unverified: Vec<Pdu>,
    /// Those that failed, or whose keys cannot be had.
    pub(crate) failed: Vec<Pdu>,
    awaited: BTreeSet<OwnedServerName>,
}

/// An event, and what checks 2 and 3 say of it.
pub(crate) struct Checked {
    pub(crate) pdu: Pdu,
    pub(crate) result: Result<VerifiedPdu, VerifyError>,
}

impl Checked {
    /// Verifies an event by the keys that are known.
    pub(crate) fn new(cx: Context<'_>, rules: &RoomRules, pdu: Pdu) -> Result<Self, Error> {
        let result = cx.keys.verify(rules, pdu.clone())?;
        if let Ok(verified) = &result {
            // The rules ask for the content next, one event after the other; here it is read on all cores.
            verified.pdu().parsed_content(rules);
        }
        Ok(Self { pdu, result })
    }
}

impl Batch {
    /// Takes the events of an answer, of which none has been verified.
    pub(crate) fn new(question: Question, from: &ServerName, asked: Option<Vec<OwnedEventId>>, pdus: Vec<Pdu>) -> Self {
        Self {
            question,
            from: from.to_owned(),
            asked,
            verified: Vec::new(),
            unread: None,
            unverified: pdus,
            failed: Vec::new(),
            awaited: BTreeSet::new(),
        }
    }

    /// Verifies the events of an answer as far as the keys are known; none of them before those have come that are to be
    /// asked for, as all of them are waited for.
    pub(crate) fn verify(
        cx: Context<'_>,
        rules: &RoomRules,
        question: Question,
        from: &ServerName,
        pdus: Vec<Pdu>,
    ) -> Result<Self, Error> {
        let mut batch = Self::new(question, from, None, pdus);
        let signed_by = |pdu: &Pdu| required_servers(rules, pdu).unwrap_or_default();
        let servers: BTreeSet<_> = batch.unverified.iter().flat_map(signed_by).collect();
        batch.await_keys(cx, &servers)?;
        if batch.is_done() {
            batch.verify_rest(cx, rules)?;
        }
        Ok(batch)
    }

    /// Lets the answer wait for the keys of those of some servers of which none is known, and which may be asked.
    pub(crate) fn await_keys<'s>(
        &mut self,
        cx: Context<'_>,
        servers: impl IntoIterator<Item = &'s OwnedServerName>,
    ) -> Result<(), Error> {
        for server in servers {
            if !cx.keys.knows(server)? && cx.keys.may_ask([server], cx.now_ms)? {
                self.awaited.insert(server.clone());
            }
        }
        Ok(())
    }

    /// Verifies what has not been verified yet, as far as the keys are known.
    pub(crate) fn verify_rest(&mut self, cx: Context<'_>, rules: &RoomRules) -> Result<(), Error> {
        let mut verified = mem::take(&mut self.verified);
        self.verify_in_turn(cx, rules, |passed| {
            verified.extend(passed);
            Ok(())
        })?;
        self.verified = verified;
        Ok(())
    }

    /// Verifies what has not been verified yet, as far as the keys are known, and hands on what passes, in its order and
    /// a piece at a time, while the next is verified.
    pub(crate) fn verify_in_turn(
        &mut self,
        cx: Context<'_>,
        rules: &RoomRules,
        mut take: impl FnMut(Vec<Pdu>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let pdus = mem::take(&mut self.unverified);
        self.awaited.clear();
        map_in_turn(
            pdus,
            |pdu| Checked::new(cx, rules, pdu.clone()),
            |checked| {
                let checked = checked.into_iter().collect::<Result<Vec<_>, _>>()?;
                take(self.take_checked(cx, checked)?)
            },
        )
    }

    /// Takes events that have been checked, and returns those that have passed.
    pub(crate) fn take_checked(
        &mut self,
        cx: Context<'_>,
        checked: impl IntoIterator<Item = Checked>,
    ) -> Result<Vec<Pdu>, Error> {
        let mut passed = Vec::new();
        for Checked { pdu, result } in checked {
            match result {
                Ok(verified) => passed.push(verified.into_pdu()),
                Err(VerifyError::MissingKeys { servers }) if cx.keys.may_ask(&servers, cx.now_ms)? => {
                    self.awaited.extend(servers);
                    self.unverified.push(pdu);
                }
                Err(_) => self.failed.push(pdu),
            }
        }
        Ok(passed)
    }

    /// Returns the servers whose keys are to be asked for.
    pub(crate) fn awaited(&self) -> &BTreeSet<OwnedServerName> {
        &self.awaited
    }

    /// A server's keys have come, or cannot be had.
    pub(crate) fn keys_answered(
        &mut self,
        cx: Context<'_>,
        rules: &RoomRules,
        server: &ServerName,
    ) -> Result<(), Error> {
        if self.awaited.remove(server) && self.awaited.is_empty() {
            self.verify_rest(cx, rules)?;
        }
        Ok(())
    }

    /// Tells whether every event has passed or failed.
    pub(crate) fn is_done(&self) -> bool {
        self.awaited.is_empty()
    }
}

/// The answers of a room that wait for keys. They are in memory alone: after a restart the keys are asked for, and then
/// the questions anew.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    batches: Vec<Batch>,
    writes: Writes,
}

impl Parked {
    pub(crate) fn park(&mut self, batch: Batch) {
        for server in &batch.awaited {
            self.writes.push((QuestionKey::Keys(server.clone()), Some(QuestionRow::Keys(server.clone()))));
        }
        self.batches.push(batch);
    }

    pub(crate) fn take_writes(&mut self) -> Writes {
        mem::take(&mut self.writes)
    }

    /// A server's keys have come, or cannot be had: returns the answers that wait for no other, to be verified.
    pub(crate) fn keys_answered(&mut self, server: &ServerName) -> Vec<Batch> {
        self.writes.push((QuestionKey::Keys(server.to_owned()), None));
        for batch in &mut self.batches {
            batch.awaited.remove(server);
        }
        let (ready, waiting) = mem::take(&mut self.batches).into_iter().partition(Batch::is_done);
        self.batches = waiting;
        ready
    }
}
