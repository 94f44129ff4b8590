//! Rows read in pages, so that a table of any length takes a bounded memory.

use std::iter::from_fn;

use crate::{Row, keys::after};

/// Returns the rows from a key on, in pages of `size`, of which only the last may be shorter. `read` returns rows that
/// are not below a key, in key order, at most as many as it is told; its error ends the pages.
pub(crate) fn pages<E>(
    from: Vec<u8>,
    size: usize,
    mut read: impl FnMut(&[u8], usize) -> Result<Vec<Row>, E>,
) -> impl Iterator<Item = Result<Vec<Row>, E>> {
    let mut next = Some(from);
    from_fn(move || {
        let page = read(&next.take()?, size);
        if let Ok(rows) = &page
            && rows.len() == size
        {
            next = rows.last().map(|(key, _)| after(key));
        }
        Some(page)
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn every_row_is_read_once_whatever_the_size_of_a_page() {
        let rows: Vec<Row> = (0..6).map(|number| (vec![number], Vec::new())).collect();
        for size in 1..8 {
            let read = |from: &[u8], limit| {
                let rows = rows.iter().filter(|(key, _)| key.as_slice() >= from);
                Ok::<_, Infallible>(rows.take(limit).cloned().collect())
            };
            let found: Vec<Row> = pages(vec![2], size, read).flat_map(Result::unwrap).collect();
            assert_eq!(found, rows[2..], "{size}");
        }
    }

    #[test]
    fn an_error_ends_the_pages() {
        let mut reads = 0;
        let read = |_: &[u8], _| {
            reads += 1;
            Err(())
        };
        assert_eq!(pages(Vec::new(), 1, read).collect::<Vec<_>>(), [Err(())]);
        assert_eq!(reads, 1);
    }
}
