//! A set of writes over several tables that takes effect at one instant, and what it expects to find.

use std::collections::BTreeMap;

use gibbous_codec::Hex;

use crate::{BackendError, CommitError, Table};

/// The length of the longest key, without what a backend puts before it.
pub const KEY_MAX: usize = 1 << 10;

/// The length of the longest value: an event (65,536 bytes) and 16 KiB of header, which holds 30 references to events
/// of 255 bytes each and as long a type and state key.
pub const VALUE_MAX: usize = (64 << 10) + (16 << 10);

/// The length up to which a batch is sure to suit every backend. Keeping to it is its maker's business.
pub const BATCH_ADVISED_MAX: usize = 1 << 20;

/// Writes and expectations: all of the writes are done, or, if an expectation does not hold, none.
///
/// A row is written once, by the last `put` or `delete` that names it. Expectations are about what was there before any
/// of the writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    expectations: Vec<Expectation>,
    bytes: usize,
}

/// What a batch expects of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The table of the row.
    pub table: Table,
    /// The key of the row.
    pub key: Vec<u8>,
    /// The value the row must have; `None`: there must be no such row.
    pub value: Option<Vec<u8>>,
}

impl Batch {
    /// Begins an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a row, whether or not it was there.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.write(table, key, Some(value));
    }

    /// Removes a row, whether or not it was there.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.write(table, key, None);
    }

    /// Demands that there is no such row.
    pub fn expect_absent(&mut self, table: Table, key: Vec<u8>) {
        self.expectations.push(Expectation { table, key, value: None });
    }

    /// Demands that a row is there with this value.
    pub fn expect_equals(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.expectations.push(Expectation { table, key, value: Some(value) });
    }

    /// Returns what the batch writes to a row: nothing, a removal, or a value.
    pub fn staged(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.writes.get(&(table, key.to_vec())).map(Option::as_deref)
    }

    /// Returns what the batch writes to a table from a key on, by key; no value is a removal.
    pub(crate) fn staged_from(&self, table: Table, from: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let writes = self.writes.range((table, from.to_vec())..).take_while(move |((staged, _), _)| *staged == table);
        writes.map(|((_, key), value)| (key.as_slice(), value.as_deref()))
    }

    /// Returns all writes by table and key, but those of head rows last; no value is a removal.
    ///
    /// A backend writes in this order. Should it ever tear a batch, a room's head row still counts the records that
    /// stood before: what the torn batch left is known by standing beyond it, and is cut at the next opening.
    pub fn writes(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        const HEADS: (Table, Vec<u8>) = (Table::Head, Vec::new());
        const BEHIND_HEADS: (Table, Vec<u8>) = (Table::Log, Vec::new());
        let before = self.writes.range(..HEADS);
        let writes = before.chain(self.writes.range(BEHIND_HEADS..)).chain(self.writes.range(HEADS..BEHIND_HEADS));
        writes.map(|((table, key), value)| (*table, key.as_slice(), value.as_deref()))
    }

    /// Returns all expectations in the order in which they were made.
    pub fn expectations(&self) -> &[Expectation] {
        &self.expectations
    }

    /// Tells whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Counts the rows written or removed.
    pub fn rows(&self) -> usize {
        self.writes.len()
    }

    /// Counts the bytes of all keys and values written or removed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks what the batch expects against rows as `row` finds them. A backend does so before it writes anything, and
    /// lets nobody else write until it has.
    ///
    /// # Errors
    ///
    /// [`CommitError::Conflict`] with the first row that is not as it is expected to be; whatever `row` fails with.
    pub fn check_expectations(
        &self,
        row: impl Fn(Table, &[u8]) -> Result<Option<Vec<u8>>, BackendError>,
    ) -> Result<(), CommitError> {
        for expected in &self.expectations {
            if row(expected.table, &expected.key)? != expected.value {
                return Err(CommitError::Conflict { table: expected.table, key: expected.key.clone() });
            }
        }
        Ok(())
    }

    /// Checks every row against the limits. A backend does so before it writes anything.
    ///
    /// # Errors
    ///
    /// [`BackendError::TooBig`] with the first row that is over a limit.
    pub fn check_limits(&self) -> Result<(), BackendError> {
        let within = |table, what, key: &[u8], found, limit| {
            if found <= limit {
                return Ok(());
            }
            // Only so much of a key is shown as a legal one could have.
            let key = Hex(key.get(..KEY_MAX).unwrap_or(key)).to_string();
            Err(BackendError::TooBig { table, what, key, limit, found })
        };
        for expectation in &self.expectations {
            within(expectation.table, "key", &expectation.key, expectation.key.len(), KEY_MAX)?;
        }
        self.writes().try_for_each(|(table, key, value)| {
            within(table, "key", key, key.len(), KEY_MAX)?;
            within(table, "value", key, value.map_or(0, <[u8]>::len), VALUE_MAX)
        })
    }

    fn write(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let len = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        let key_len = key.len();
        self.bytes += key_len + len(&value);
        if let Some(former) = self.writes.insert((table, key), value) {
            self.bytes -= key_len + len(&former);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_write_of_a_row_counts() {
        let mut batch = Batch::new();
        batch.put(Table::Head, b"a".to_vec(), b"one".to_vec());
        batch.put(Table::Head, b"a".to_vec(), b"three".to_vec());
        batch.delete(Table::Log, b"gone".to_vec());
        assert_eq!((batch.rows(), batch.bytes()), (2, 10));
        assert_eq!(batch.staged(Table::Head, b"a"), Some(Some(&b"three"[..])));
        assert_eq!(batch.staged(Table::Log, b"gone"), Some(None));
        assert_eq!(batch.staged(Table::Log, b"a"), None);
    }

    #[test]
    fn head_rows_are_written_last() {
        let mut batch = Batch::new();
        for table in Table::ALL {
            batch.put(table, b"key".to_vec(), Vec::new());
        }
        let tables: Vec<Table> = batch.writes().map(|(table, _, _)| table).collect();
        assert_eq!(tables.len(), Table::ALL.len());
        assert_eq!((tables.first(), tables.last()), (Some(&Table::Format), Some(&Table::Head)));
    }

    #[test]
    fn limits_are_those_stated() {
        let check = |key: usize, value: usize| {
            let mut batch = Batch::new();
            batch.put(Table::Log, vec![1; key], vec![2; value]);
            batch.check_limits()
        };
        assert!(check(KEY_MAX, VALUE_MAX).is_ok());
        assert!(matches!(check(KEY_MAX + 1, 0), Err(BackendError::TooBig { what: "key", .. })));
        assert!(matches!(check(0, VALUE_MAX + 1), Err(BackendError::TooBig { what: "value", .. })));
    }
}
