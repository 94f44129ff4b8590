//! A state read through, a page at a time.

use gibbous_codec::{Path, StateGroup};

use super::{Child, Entry, Node, NodeSource, read, root};
use crate::StoreError;

/// Returns at most `limit` entries of a state behind a path, or from the first, by ascending path.
///
/// The next page is asked for with the path of the last entry; fewer entries than `limit` are the last ones.
///
/// # Errors
///
/// [`StoreError`] if a node could not be read, is missing or damaged.
pub fn entries(
    nodes: &impl NodeSource,
    group: &StateGroup,
    after: Option<Path>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut page = Page { after: after.as_ref(), limit, entries: Vec::new() };
    if let Some(root) = root(group) {
        page.fill(nodes, root, after.is_some(), 0)?;
    }
    Ok(page.entries)
}

struct Page<'a> {
    after: Option<&'a Path>,
    limit: usize,
    entries: Vec<Entry>,
}

impl Page<'_> {
    /// Adds a subtree. `edge`: the way to it is the beginning of `after`, so that part of it lies before the page.
    fn fill(&mut self, nodes: &impl NodeSource, child: Child, edge: bool, depth: usize) -> Result<(), StoreError> {
        if self.entries.len() >= self.limit {
            return Ok(());
        }
        match &*read(nodes, child, depth)? {
            Node::Leaf(entries) => {
                let start =
                    entries.partition_point(|entry| edge && self.after.is_some_and(|after| entry.path <= *after));
                let room = self.limit - self.entries.len();
                self.entries.extend(entries.iter().skip(start).take(room));
            }
            Node::Inner(inner) => {
                let first = self.after.filter(|_| edge).map_or(0, |after| after.digit(depth));
                for digit in first..8 {
                    if let Some(child) = inner.child(digit) {
                        self.fill(nodes, child, edge && digit == first, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }
}
