//! Redactions (client-server specification, "Redactions"), and whole copies of events that are stored redacted (check 3):
//! they act where events are shown and served. The rules of authorisation read events as they are stored, so that no
//! verdict depends on when a redaction or a whole copy came.

use std::{borrow::Cow, collections::BTreeSet};

use gibbous_codec::{
    EventId, EventNum, EventStatus, LogRecord, Named, OwnedEventId, Pdu, RedactedRecord, RedactionRecord, RoomRules,
    Stage, StateGroup, StateKey, WholeCopyRecord, is_whole_copy, path,
};
use gibbous_storage::{RoomRows, StoredEvent, Txn};

use crate::{
    Error, EventInfo, RoomView,
    auth::user_level,
    lookup::{EventSource, is_rejected, parse_copy, parse_stored},
    room::Room,
    state::stage_of,
    view::stored_event,
};

/// Which redactions are to be looked at before the next commit.
#[derive(Debug, Default)]
pub(crate) struct Redactions {
    /// Whether any event asks to redact another one: in most rooms and batches none does, and nothing is looked at.
    are_any: bool,
    changed: BTreeSet<OwnedEventId>,
}

impl Redactions {
    /// Begins where the store stands: what had changed was looked at with the commit that changed it.
    pub(crate) fn of<R: RoomRows>(rows: &R) -> Result<Self, Error> {
        Ok(Self { are_any: rows.has_redactions()?, changed: BTreeSet::new() })
    }

    /// What is held of an event has changed: it may redact another one, or be redacted.
    pub(crate) fn look_again(&mut self, event_id: &EventId) {
        if self.are_any {
            self.changed.insert(event_id.to_owned());
        }
    }
}

impl Room {
    /// Notes an event that has just been stored if it asks to redact another one.
    pub(crate) fn note_redaction(&mut self, txn: &mut Txn<'_>, num: EventNum, pdu: &Pdu) -> Result<(), Error> {
        let Some(target) = target_of(pdu) else { return Ok(()) };
        txn.stage(&LogRecord::Redaction(RedactionRecord { redaction: num, target: target.to_owned() }))?;
        self.redactions.are_any = true;
        Ok(())
    }

    /// Keeps another copy of a stored event that is whole, where the stored one is redacted. It is shown and served from
    /// here on; if it asks to redact an event, what is stored may not have said which.
    pub(crate) fn keep_whole_copy(&mut self, txn: &mut Txn<'_>, num: EventNum, copy: &Pdu) -> Result<(), Error> {
        let event = txn.event(num)?;
        let json = copy.canonical_json().as_bytes();
        if event.json() == json || txn.whole_copy(num)?.is_some() {
            return Ok(());
        }
        let stored = parse_stored(&self.memory.rules, &event)?;
        if !is_whole_copy(&self.memory.rules, copy, &stored) {
            return Ok(());
        }
        txn.stage(&LogRecord::WholeCopy(WholeCopyRecord { event: num, json: json.to_vec() }))?;
        if target_of(&stored).is_none() {
            self.note_redaction(txn, num, copy)?;
            self.redactions.look_again(copy.event_id());
        }
        Ok(())
    }

    /// Looks again at what may redact or be redacted, so that it is told with the commit that has brought it about.
    pub(crate) fn settle_redactions(&mut self, txn: &mut Txn<'_>) -> Result<(), Error> {
        while let Some(event_id) = self.redactions.changed.pop_first() {
            // What was staged may have been discarded.
            let Some(num) = txn.event_num(&event_id)? else { continue };
            let (pdu, _) = self.memory.events(txn).with_stage(num)?;
            if let Some(target) = self.target_of(txn, num, &pdu)? {
                self.settle_redaction(txn, &target, Some(num))?;
            }
            self.settle_redaction(txn, &event_id, None)?;
        }
        Ok(())
    }

    /// Finds out which event redacts another one: the one that has until now, or the first that does. `changed` is the only
    /// one that may have come to. One that an import has told of goes on unless it is rejected: what soft-fails here was
    /// accepted there.
    fn settle_redaction(&self, txn: &mut Txn<'_>, target: &EventId, changed: Option<EventNum>) -> Result<(), Error> {
        let was = txn.redaction_of(target)?;
        if let Some(was) = was
            && (self.redacts(txn, was.redaction, target)? || was.told && !is_rejected(&txn.stage_of(was.redaction)?))
        {
            return Ok(());
        }
        let asked = match (was, changed) {
            (None, Some(changed)) => vec![changed],
            _ => txn.redactions_asked(target)?,
        };
        let mut by = None;
        for redaction in asked {
            if self.redacts(txn, redaction, target)? {
                by = Some(redaction);
                break;
            }
        }
        if by != was.map(|was| was.redaction) {
            txn.stage(&LogRecord::Redacted(RedactedRecord { target: target.to_owned(), by, told: false }))?;
        }
        Ok(())
    }

    /// Tells whether an event redacts another one: it is accepted, and its sender may do so.
    fn redacts(&self, txn: &Txn<'_>, redaction: EventNum, target: &EventId) -> Result<bool, Error> {
        let rules = &self.memory.rules;
        let (pdu, stage) = self.memory.events(txn).with_stage(redaction)?;
        let (Stage::Placed { status: EventStatus::Accepted, states, .. }
        | Stage::History { status: EventStatus::Accepted, states }) = stage
        else {
            return Ok(false);
        };
        if self.target_of(txn, redaction, &pdu)?.as_deref() != Some(target) {
            return Ok(false);
        }
        let Some((num, stage)) = stage_of(txn, target)? else { return Ok(false) };
        if !stage.is_verified() {
            return Ok(false);
        }
        // v1, v2: the rule of authorisation has asked all there is to ask.
        if rules.redactions_have_a_rule() {
            return Ok(true);
        }
        // v3 on ("Handling redactions"): "The redaction event's sender's power level is greater than or equal to the redact
        // level", or "the domain of the redaction event's sender matches that of the original event's sender".
        let (redacted, _) = self.memory.events(txn).with_stage(num)?;
        Ok(redacted.sender().server_name() == pdu.sender().server_name()
            || self.may_redact(txn, &pdu, states.before)?)
    }

    /// Returns the event that a stored event asks to redact. A copy that is stored redacted names none (v1 to v10).
    fn target_of(&self, txn: &Txn<'_>, num: EventNum, stored: &Pdu) -> Result<Option<OwnedEventId>, Error> {
        if stored.event_type() != "m.room.redaction" || stored.redacts().is_some() {
            return Ok(target_of(stored).map(ToOwned::to_owned));
        }
        let copy = txn.whole_copy(num)?;
        let whole = copy.map(|json| parse_copy(&self.memory.rules, stored.event_id(), &json)).transpose()?;
        Ok(whole.as_ref().and_then(target_of).map(ToOwned::to_owned))
    }

    fn may_redact(&self, txn: &Txn<'_>, redaction: &Pdu, before: StateGroup) -> Result<bool, Error> {
        let rules = &self.memory.rules;
        let events = self.memory.events(txn);
        let at = |event_type: &str| -> Result<Option<Pdu>, Error> {
            let num = txn.state_event(before, &path(&StateKey::new(event_type, "")))?;
            num.map(|num| Ok(events.by_num(num)?.pdu().clone())).transpose()
        };
        let Some(create) = at("m.room.create")? else { return Ok(false) };
        let power_levels = at("m.room.power_levels")?;
        let stated = power_levels.as_ref().and_then(|event| event.parsed_content(rules).as_power_levels());
        let required = stated.map_or(Named::Redact.default(), |levels| levels.named(Named::Redact));
        let level = user_level(rules, redaction.sender(), &create, power_levels.as_ref());
        Ok(level >= gibbous_codec::Level::Finite(required))
    }
}

/// Returns the event that an event asks to redact, if it is a redaction.
fn target_of(pdu: &Pdu) -> Option<&EventId> {
    pdu.redacts().filter(|_| pdu.event_type() == "m.room.redaction")
}

/// The events of a room as they are shown: redacted where a redaction applies, else as whole as they are known.
pub(crate) struct Showing<'r, R> {
    rows: &'r R,
    rules: &'r RoomRules,
    /// In most rooms there are none, and nothing is looked up.
    has_redactions: bool,
    has_whole_copies: bool,
}

impl<'r, R: RoomRows> Showing<'r, R> {
    pub(crate) fn of(rows: &'r R, rules: &'r RoomRules) -> Result<Self, Error> {
        let (has_redactions, has_whole_copies) = (rows.has_redactions()?, rows.has_whole_copies()?);
        Ok(Self { rows, rules, has_redactions, has_whole_copies })
    }

    /// Returns which event redacts another one.
    pub(crate) fn redacted_by(&self, event: &StoredEvent) -> Result<Option<EventNum>, Error> {
        Ok(match self.has_redactions {
            true => self.rows.redaction_of(&event.record.event_id)?.map(|row| row.redaction),
            false => None,
        })
    }

    /// Returns an event as it is if nothing redacts it, as canonical JSON.
    pub(crate) fn whole<'e>(&self, event: &'e StoredEvent) -> Result<Cow<'e, [u8]>, Error> {
        let copy = if self.has_whole_copies { self.rows.whole_copy(event.num)? } else { None };
        Ok(copy.map_or(Cow::Borrowed(event.json()), Cow::Owned))
    }

    /// Returns an event as it is shown.
    pub(crate) fn pdu(&self, event: &StoredEvent) -> Result<Pdu, Error> {
        Ok(self.shown(event)?.0)
    }

    /// Returns an event as it is shown, and which event redacts it.
    fn shown(&self, event: &StoredEvent) -> Result<(Pdu, Option<EventNum>), Error> {
        let by = self.redacted_by(event)?;
        let pdu = match by {
            Some(_) => parse_stored(self.rules, event)?.redacted(self.rules),
            None => parse_copy(self.rules, &event.record.event_id, &self.whole(event)?)?,
        };
        Ok((pdu, by))
    }
}

impl RoomView {
    /// Returns an event as clients may see it: redacted where a redaction applies, and then by which event; else whole. All
    /// else as [`RoomView::event`], which returns an event as the rules read it.
    ///
    /// An event whose content hash did not hold when it came is stored redacted (server-server specification, "Checks
    /// performed on receipt of a PDU", 3), and is shown so until a copy comes for which it holds, by [`Engine::receive`] or
    /// in a gap ([`Change::WholeCopy`](crate::Change::WholeCopy)). No verdict changes by that.
    ///
    /// [`Engine::receive`]: crate::Engine::receive
    ///
    /// A redaction applies while it is accepted and its sender is of the server of who sent the event, or has the level
    /// that `redact` asks for in the state before the redaction (room version 3 on; in versions 1 and 2 its own rule of
    /// authorisation asks as much). Where several do, the first to have applied is named.
    ///
    /// # Errors
    ///
    /// If it could not be read.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::testing::{CHARLIE, S, Story};
    ///
    /// let mut story = Story::joined(&"11".try_into()?);
    /// let hello = story.room.message(CHARLIE, "hello").send();
    /// let redaction = story.room.redact(CHARLIE, &hello).send();
    /// story.receive(S, &[&hello, &redaction]);
    /// let (shown, by) = story.view().event_shown(&hello)?.expect("it is stored");
    /// assert_eq!((shown.pdu.content().get(), by), ("{}", Some(redaction)));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub fn event_shown(&self, event_id: &EventId) -> Result<Option<(EventInfo, Option<OwnedEventId>)>, Error> {
        let rows = self.store.snapshot(self.num)?;
        let Some((event, stage)) = stored_event(&rows, event_id)? else { return Ok(None) };
        let (pdu, by) = Showing::of(&rows, &self.rules)?.shown(&event)?;
        let by = by.map(|by| Ok::<_, Error>(rows.event_record(by)?.event_id.clone())).transpose()?;
        Ok(Some((EventInfo { event_id: event_id.to_owned(), stage, pdu }, by)))
    }
}
