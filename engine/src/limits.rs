//! Every bound of the engine, with the arithmetic that gave it.

/// Bounds. Beyond one stands a named outcome, never a hang; see each field.
///
/// ```
/// use gibbous::Limits;
///
/// // A small server: half the memory for events that wait, and no room has all that it asks for at once.
/// let mut limits = Limits::default();
/// limits.waiting_events_max /= 2;
/// limits.requests_max = 16;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// How many events of a room may wait for something missing: 1,000. A waiting event is at most 64 KiB, so a hostile
    /// server can make a room hold 64 MiB; half of that, for no more than half of them may come from one server. Beyond
    /// it: [`crate::FailureCode::TooManyWaiting`].
    pub waiting_events_max: usize,
    /// How many PDUs that are new to us one origin may hand in for a room at once: 2,000, forty transactions of 50, and
    /// twice what may wait in a room; at most 64 KiB each, 128 MiB. A question for the gap before one of them counts as one
    /// more, so that no origin has us ask without end. Beyond it nothing new is taken from that origin
    /// ([`crate::FailureCode::QuotaExceeded`]) until it has tokens again ([`Limits::pdus_an_origin_a_second`]). Our own
    /// server, answers to our questions and what is stored already cost nothing. Counted in memory, from nought after each
    /// restart.
    ///
    /// What was refused can come again. Either the host answers the whole transaction with a 429, as here: its server tries
    /// it once more, and holds back what it has for other rooms meanwhile. Or the host answers that PDU with an error, and it
    /// is fetched as the gap before a later event.
    ///
    /// ```
    /// # #[cfg(feature = "testing")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use gibbous::{Engine, FailureCode, Outcome, ServerName, testing::{CHARLIE, S, Story}};
    ///
    /// /// What is answered to `PUT /send`: the `error` of each event that has one. `None` is a 429: come again.
    /// fn handle_send(
    ///     engine: &Engine,
    ///     origin: &ServerName,
    ///     pdus: &[&[u8]],
    ///     now_ms: u64,
    /// ) -> Result<Option<Vec<(String, String)>>, gibbous::Error> {
    ///     let receipts = engine.receive(origin, pdus, now_ms)?;
    ///     let is_beyond = |outcome: &Outcome| {
    ///         matches!(outcome, Outcome::Refused(failure) if failure.code == FailureCode::QuotaExceeded)
    ///     };
    ///     if receipts.iter().any(|receipt| is_beyond(&receipt.outcome)) {
    ///         // What was taken is `Known` the next time, and costs nothing.
    ///         return Ok(None);
    ///     }
    ///     let failures = receipts.iter().filter_map(|receipt| receipt.failure());
    ///     Ok(Some(failures.filter_map(|failure| Some((failure.affected?.to_string(), failure.reason))).collect()))
    /// }
    ///
    /// let mut limits = gibbous::Limits::default();
    /// limits.pdus_an_origin_max = 1;
    /// let storage = gibbous::testing::Storage::Memory(gibbous::MemoryBackend::new());
    /// let mut story = Story::with(&"11".try_into()?, &[], |_| {}, storage, limits).join_full();
    /// let said = ["one", "two"].map(|body| story.room.message(CHARLIE, body).send());
    /// let pdus: Vec<&[u8]> = said.iter().map(|event_id| story.room.json(event_id).as_bytes()).collect();
    /// assert_eq!(handle_send(story.engine(), S.try_into()?, &pdus, story.now_ms)?, None);
    /// assert_eq!(handle_send(story.engine(), S.try_into()?, &pdus, story.now_ms + 100)?, Some(vec![]));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "testing"))]
    /// # fn main() {}
    /// ```
    pub pdus_an_origin_max: u32,
    /// How many of them come back in a second: 10. At a KiB an event 0.9 GB a day; at the greatest size, 64 KiB, 55 GB a
    /// day. The busiest rooms see some events a second, of all servers together.
    pub pdus_an_origin_a_second: u32,
    /// How many origins are remembered whose quota is not whole, in each room: 1,000; at some 100 bytes each, 100 KB. Beyond
    /// it the one is forgotten of which the least is missing.
    pub origins_max: usize,
    /// How many PDUs may wait for a join to be finished, in memory: 2,000, half of them of one server, so that none can
    /// keep out all others. At most 64 KiB each, 128 MiB. Beyond it: [`crate::FailureCode::TooManyQueued`].
    pub queued_pdus_max: usize,
    /// How many events one `get_missing_events` question asks for: 20, the most that Synapse answers.
    pub missing_events_limit: u32,
    /// How many such questions are asked for one event in a row: 10, so a gap of 200 events is filled event by event. A
    /// larger one is bridged by asking for the state.
    pub missing_events_rounds_max: u32,
    /// How many events one [`crate::RequestKind::Events`] names: 50.
    pub events_a_request_max: usize,
    /// How many servers are asked for the events of one state side by side: 4. With fewer than two requests' worth of events
    /// missing, it is the one that named the state alone.
    pub events_servers_max: usize,
    /// How many event IDs may be unknown before the whole state is asked for instead of single events: 500.
    pub single_events_max: usize,
    /// How many questions may be in flight at a time, over all rooms: 64. The rooms take turns; the rest wait in memory.
    /// As many again may be for keys, and for joins that a user waits for.
    pub requests_max: usize,
    /// How many of them may go to one server: 8. One that is slow or silent holds up none of the others.
    pub requests_a_server_max: usize,
    /// How many events one [`crate::RequestKind::Backfill`] asks for: 100, the most that Synapse answers.
    pub backfill_limit: u32,
    /// How long a question may take, in milliseconds: 60 s, as in Synapse.
    pub request_ms_max: u64,
    /// How long the answer to a `state` question may take: 600 s; `/state` of the largest rooms takes 90 s.
    pub state_request_ms_max: u64,
    /// The pause after the first round in which every server refused: 1 s; it doubles with every further round.
    pub backoff_ms_min: u64,
    /// The longest such pause: 1 h.
    pub backoff_ms_max: u64,
    /// After how many rounds in which every server refused an event that waits no longer holds up its room: 3. It goes
    /// on waiting, and is asked for as before.
    pub rounds_before_set_aside: u32,
    /// After how many such rounds the host is told that the resync will hardly end without help: 12, half an hour after
    /// the first. Servers are asked on.
    pub rounds_before_stalled: u32,
    /// How long a server that has told its keys is not asked for them again, in milliseconds: 60 s. An event that is
    /// signed by a key which it did not tell cannot be verified meanwhile.
    pub keys_fresh_ms: u64,
    /// How many copies are kept of events that wait for keys beside those that are stored, in each room: 32, one an event
    /// and server; at most 64 KiB each, 2 MiB. Beyond it the copy that came first is the only one.
    pub other_copies_max: usize,
    /// Of how many servers the keys are at hand: 10,000, at most four of each on the average. With a key or two each that
    /// is 5 MB, with four 12 MB. Those of others are read from the store again. Of as many servers it is remembered when
    /// they may be asked again.
    pub key_servers_max: usize,
    /// How many event IDs a `state_ids` answer may name: 1,000,000, five times Matrix HQ's.
    pub state_ids_max: usize,
    /// How many servers of a `send_join` response are kept: 100,000; at 40 bytes a name, 4 MB.
    pub servers_max: usize,
    /// How many parsed PDUs a room keeps at hand: 20,000; at about 2 KiB, 40 MB.
    pub cached_pdus_max: usize,
    /// How many events one step of the fold takes, which is one record of the log: 512; at about 200 bytes each, 100 KB,
    /// and 1.3 MB of rows where each soft-fails beside thirty-one others in the log that have changed before.
    pub flips_a_commit_max: usize,
    /// How many initial events a room that we create may have: 1,000, which is one batch of at most 64 MiB. An ordinary
    /// room has ten, of half a KiB each; the rest is for invites and what a template of rooms brings.
    pub initial_events_max: usize,
    /// How many events an import may bring: 1,000,000, as many as a `state_ids` answer may name. They are one batch.
    pub import_events_max: usize,
    /// How many bytes the events of an import may have: 1 GiB, all of them in memory and one batch.
    pub import_bytes_max: usize,
    /// How many bytes the IDs of those of our users may have who are in a room that is imported: 48 KiB, of some 1,500
    /// users. They stand in the room's head row, which holds 80 KiB.
    pub imported_users_bytes_max: usize,
    /// How many invites of one of our users are kept that wait for an answer: 100; at 80 KiB each at the most, 8 MiB.
    pub invites_a_user_max: usize,
    /// How many stripped state events are kept with each of them: 100. The specification names seven.
    pub stripped_state_max: usize,
    /// How many events of a room one call takes a step further, each of them a placing, a flip, or a step of the fold of
    /// many: 4,096, about a second. What is left is done by [`Engine::handle_timeout`](crate::Engine::handle_timeout),
    /// which is then due at once.
    pub events_a_call_max: usize,
    /// How many records of a room's log may be untold before the host is told only that it lags: 100,000. Most tell of one
    /// event, those of flips of 64 at most. They stand in the log, so that they take no memory: it is a bound on how long
    /// the host is busy with what is past.
    pub updates_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting_events_max: 1_000,
            pdus_an_origin_max: 2_000,
            pdus_an_origin_a_second: 10,
            origins_max: 1_000,
            queued_pdus_max: 2_000,
            missing_events_limit: 20,
            missing_events_rounds_max: 10,
            events_a_request_max: 50,
            events_servers_max: 4,
            single_events_max: 500,
            requests_max: 64,
            requests_a_server_max: 8,
            backfill_limit: 100,
            request_ms_max: 60_000,
            state_request_ms_max: 600_000,
            backoff_ms_min: 1_000,
            backoff_ms_max: 3_600_000,
            rounds_before_set_aside: 3,
            rounds_before_stalled: 12,
            keys_fresh_ms: 60_000,
            other_copies_max: 32,
            key_servers_max: 10_000,
            state_ids_max: 1_000_000,
            servers_max: 100_000,
            cached_pdus_max: 20_000,
            flips_a_commit_max: 512,
            invites_a_user_max: 100,
            stripped_state_max: 100,
            events_a_call_max: 4_096,
            initial_events_max: 1_000,
            import_events_max: 1_000_000,
            import_bytes_max: 1 << 30,
            imported_users_bytes_max: 48 << 10,
            updates_max: 100_000,
        }
    }
}

impl Limits {
    /// Returns the pause after so many rounds in which every server refused.
    pub(crate) fn backoff_ms(&self, rounds: u32) -> u64 {
        let doubled =
            self.backoff_ms_min.saturating_mul(1_u64.checked_shl(rounds.saturating_sub(1)).unwrap_or(u64::MAX));
        doubled.min(self.backoff_ms_max)
    }
}
