//! What is stored of a room's questions to other servers, so that a restart goes on where they stood: which keys
//! answers wait for, who was asked for a gap, an auth chain or a state, and which state a server has named.
//!
//! They are stored after the facts that an answer brought. Where one is lost, its questions are asked again, no more.

use gibbous_codec::{QuestionKey, QuestionRow};
use gibbous_storage::RoomRows;

use crate::{
    Error,
    resync::{Missing, StateIds},
    room::{Context, Room},
};

/// A row to be stored, or removed.
pub(crate) type Write = (QuestionKey, Option<QuestionRow>);

/// Rows that are written together.
pub(crate) type Writes = Vec<Write>;

/// How many bytes the items of one list in a row may have: of the lists of the longest row, four fit what a value may
/// hold.
const LIST_BYTES_MAX: usize = 14 << 10;

/// Returns as many items as a list in a row holds. The others are forgotten by a restart, and asked for once more.
pub(crate) fn that_fit<T>(items: impl IntoIterator<Item = T>, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let mut left = LIST_BYTES_MAX;
    let mut fits = |item: &T| {
        // A length stands before each item, of eight bytes.
        let len = bytes(item).saturating_add(8);
        left.checked_sub(len).inspect(|rest| left = *rest).is_some()
    };
    items.into_iter().take_while(|item| fits(item)).collect()
}

impl Room {
    /// Stores what has changed of the room's questions.
    pub(crate) fn save_questions(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let mut writes = self.parked.take_writes();
        writes.extend(self.gaps.take_writes());
        writes.extend(self.auth_questions.take_writes());
        cx.store.put_questions(self.num, writes.into_iter().chain(self.resync.take_writes()))?;
        Ok(())
    }

    /// Takes up the questions where they stood.
    pub(crate) fn resume_questions(&mut self, cx: Context<'_>) -> Result<(), Error> {
        let rows = cx.store.snapshot(self.num)?;
        for row in rows.questions()? {
            match row {
                // Keys are asked for before what waits for them.
                QuestionRow::Keys(server) => self.ask_keys(server),
                QuestionRow::Gap(gap) => self.gaps.resume(gap),
                QuestionRow::AuthChain(question) => self.auth_questions.resume(question),
                QuestionRow::State(question) => {
                    // Where the IDs were not stored, they are asked for again.
                    let named = match &question.named {
                        Some(named) if named.parts > 0 => StateIds::read(&rows, &question.prev, named.parts)?,
                        Some(_) | None => None,
                    };
                    let missing = named.map(|ids| Missing::look_for(&rows, &question.prev, ids)).transpose()?;
                    self.resync.resume(question, missing);
                }
                QuestionRow::Named(_) => {}
            }
        }
        Ok(())
    }
}
