//! The servers of a room that may be asked.
#![expect(clippy::disallowed_types, reason = "the hash sets are looked into only, never walked: no order can show")]

use std::{collections::HashSet, iter::Chain, mem, slice, sync::Arc};

use gibbous_codec::OwnedServerName;

/// The servers that `send_join` responses named, then those that were found to have members here; each once.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    named: Arc<[OwnedServerName]>,
    found: Vec<OwnedServerName>,
}

impl Servers {
    /// Takes the servers that responses named, in place of those that were named before.
    ///
    /// The others remain: an event that is being fetched waits for those that were not asked for it yet.
    pub(super) fn set_named(&mut self, servers: Vec<OwnedServerName>) {
        let before = mem::replace(&mut self.named, each_once(servers).into());
        let found = mem::take(&mut self.found);
        if !before.is_empty() || !found.is_empty() {
            self.add_found(before.iter().cloned().chain(found));
        }
    }

    /// Takes servers that have members here.
    pub(super) fn add_found(&mut self, servers: impl Iterator<Item = OwnedServerName>) {
        let named: HashSet<&OwnedServerName> = self.named.iter().collect();
        let not_named = servers.filter(|server| !named.contains(server));
        self.found = each_once(self.found.drain(..).chain(not_named).collect());
    }

    /// Returns those that responses named.
    pub(crate) fn named(&self) -> &Arc<[OwnedServerName]> {
        &self.named
    }

    pub(crate) fn iter(&self) -> Chain<slice::Iter<'_, OwnedServerName>, slice::Iter<'_, OwnedServerName>> {
        self.named.iter().chain(&self.found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.found.is_empty()
    }
}

fn each_once(servers: Vec<OwnedServerName>) -> Vec<OwnedServerName> {
    let mut seen = HashSet::with_capacity(servers.len());
    let are_first: Vec<bool> = servers.iter().map(|server| seen.insert(server)).collect();
    servers.into_iter().zip(are_first).filter_map(|(server, is_first)| is_first.then_some(server)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_comes_twice_and_none_is_lost() {
        let names = |names: &[&str]| -> Vec<OwnedServerName> {
            names.iter().map(|name| OwnedServerName::try_from(*name).expect("a server name")).collect()
        };
        let mut servers = Servers::default();
        assert!(servers.is_empty());
        servers.set_named(names(&["a", "b", "a"]));
        servers.add_found(names(&["c", "b", "d", "c"]).into_iter());
        assert_eq!(servers.iter().cloned().collect::<Vec<_>>(), names(&["a", "b", "c", "d"]));
        servers.set_named(names(&["d", "e"]));
        assert_eq!(servers.named()[..], names(&["d", "e"]));
        assert_eq!(servers.iter().cloned().collect::<Vec<_>>(), names(&["d", "e", "a", "b", "c"]));
    }
}
