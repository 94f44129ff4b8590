//! The servers of a room that may be asked.
#![expect(clippy::disallowed_types, reason = "the hash sets are looked into only, never walked: no order can show")]

use std::{collections::HashSet, mem, sync::Arc};

use gibbous_codec::{OwnedServerName, ServerName, ServerNames};

/// The servers that `send_join` responses named, then those that were found to have members here.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// As they were named: one that was named twice comes twice. A join does not wait until that is looked for.
    named: Arc<ServerNames>,
    /// Each once, and none that was named.
    found: Vec<OwnedServerName>,
}

impl Servers {
    /// Takes the servers that responses named, in place of those that were named before; ours is not to be asked.
    ///
    /// The others remain: an event that is being fetched waits for those that were not asked for it yet.
    pub(super) fn set_named(&mut self, mut servers: ServerNames, us: &ServerName) {
        if servers.contains(us) {
            servers = servers.iter().filter(|server| *server != us).collect();
        }
        let before = mem::replace(&mut self.named, servers.into());
        let found = mem::take(&mut self.found);
        if !before.is_empty() || !found.is_empty() {
            self.add_found(before.iter().map(ToOwned::to_owned).chain(found));
        }
    }

    /// Takes servers that have members here.
    pub(super) fn add_found(&mut self, servers: impl Iterator<Item = OwnedServerName>) {
        let named: HashSet<&ServerName> = self.named.iter().collect();
        let not_named: Vec<OwnedServerName> = servers.filter(|server| !named.contains(&**server)).collect();
        let found = self.found.iter().chain(&not_named).map(|server| &**server);
        self.found = each_once(found).map(ToOwned::to_owned).collect();
    }

    /// Returns those that responses named; one that was named twice comes twice.
    pub(crate) fn named(&self) -> &Arc<ServerNames> {
        &self.named
    }

    /// Returns all of them; one that was named twice comes twice.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ServerName> {
        self.named.iter().chain(self.found.iter().map(|server| &**server))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.found.is_empty()
    }
}

/// Returns each server where it comes first.
pub(crate) fn each_once<'s>(servers: impl Iterator<Item = &'s ServerName>) -> impl Iterator<Item = &'s ServerName> {
    let mut seen = HashSet::new();
    servers.filter(move |server| seen.insert(*server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<OwnedServerName> {
        names.iter().map(|name| OwnedServerName::try_from(*name).expect("a server name")).collect()
    }

    #[test]
    fn none_is_lost_none_that_was_found_comes_twice_and_ours_is_not_asked() {
        let us = &owned(&["us"])[0];
        let packed = |names: &[&str]| owned(names).iter().map(|server| &**server).collect();
        let mut servers = Servers::default();
        assert!(servers.is_empty());
        servers.set_named(packed(&["a", "us", "b", "a"]), us);
        servers.add_found(owned(&["c", "b", "d", "c"]).into_iter());
        assert_eq!(servers.iter().collect::<Vec<_>>(), ["a", "b", "a", "c", "d"]);
        assert_eq!(each_once(servers.iter()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        servers.set_named(packed(&["d", "e"]), us);
        assert_eq!(servers.named().iter().collect::<Vec<_>>(), ["d", "e"]);
        assert_eq!(servers.iter().collect::<Vec<_>>(), ["d", "e", "a", "b", "c"]);
    }
}
