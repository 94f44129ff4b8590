//! Every table of the store in one list.

use std::fmt;

/// A table: its number is the first byte of its keys in a backend with one key space.
///
/// The numbers are on disk and are never given to another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// What the store is and which version of the format it has.
    Format = 0,
    /// From room ID to room number.
    Rooms = 1,
    /// The head row of each room, the only row of a room that changes in place as a matter of course.
    Head = 2,
    /// The log of each room: the facts from which all else can be refolded.
    Log = 3,
    /// From event ID to event number.
    EventIds = 4,
    /// The verdict and states of each event that has others than its record says, by thirty-two neighbours in the log.
    Events = 5,
    /// The nodes of state groups, by hash.
    Nodes = 6,
    /// What waits for the fold of check 6.
    Unfolded = 7,
    /// The servers of each room.
    Servers = 8,
    /// The signing keys of servers.
    ServerKeys = 9,
    /// What is known of each room's questions to other servers: beside the log, and nothing rests on it.
    Questions = 10,
    /// From an event to the state events that cite it as an auth event.
    Citations = 11,
    /// From a key of state to the state events that are at it, whichever state they are in, or none.
    StateEvents = 12,
    /// The current state of each room as it was told, by the place in the log from which on, latest first.
    Currents = 13,
    /// How far the host has dealt with each room's updates: beside the log.
    Acknowledged = 14,
    /// From an event to those that ask to redact it, and the one that does.
    Redactions = 15,
    /// Invites of our users to rooms that nobody of ours is in.
    Invites = 16,
    /// From an event that is stored redacted to its whole copy in the log.
    WholeCopies = 17,
}

impl Table {
    /// All tables by ascending number.
    pub const ALL: [Self; 18] = [
        Self::Format,
        Self::Rooms,
        Self::Head,
        Self::Log,
        Self::EventIds,
        Self::Events,
        Self::Nodes,
        Self::Unfolded,
        Self::Servers,
        Self::ServerKeys,
        Self::Questions,
        Self::Citations,
        Self::StateEvents,
        Self::Currents,
        Self::Acknowledged,
        Self::Redactions,
        Self::Invites,
        Self::WholeCopies,
    ];

    /// Returns the number of the table.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Tells whether the keys of the table begin with the number of a room.
    pub const fn is_by_room(self) -> bool {
        !matches!(self, Self::Format | Self::Rooms | Self::ServerKeys | Self::Invites)
    }

    /// Tells whether the rows of the table are folded from the logs.
    pub const fn is_folded(self) -> bool {
        self.is_by_room() && !matches!(self, Self::Log | Self::Questions | Self::Acknowledged)
    }

    /// Returns the name of the table, as messages and `gibbous check` print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Rooms => "rooms",
            Self::Head => "head",
            Self::Log => "log",
            Self::EventIds => "event_ids",
            Self::Events => "events",
            Self::Nodes => "nodes",
            Self::Unfolded => "unfolded",
            Self::Servers => "servers",
            Self::ServerKeys => "server_keys",
            Self::Questions => "questions",
            Self::Citations => "citations",
            Self::StateEvents => "state_events",
            Self::Currents => "currents",
            Self::Acknowledged => "acknowledged",
            Self::Redactions => "redactions",
            Self::Invites => "invites",
            Self::WholeCopies => "whole_copies",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_table() {
        assert!(Table::ALL.is_sorted_by(|a, b| a.number() < b.number()));
    }
}
