//! The rows that are of no room and stand beside the logs: they follow from nothing, and can only be damaged.

use gibbous_codec::{InviteRow, Kind, ServerKeysRow, ServerName};

use crate::{
    Finding, Table,
    keys::{decode_row, invite_key},
};

/// The tables of such rows.
pub(crate) const TABLES: [Table; 2] = [Table::ServerKeys, Table::Invites];

/// Returns what is wrong with a row, if anything is.
pub(crate) fn wrong_with(table: Table, key: &[u8], bytes: &[u8]) -> Option<Finding> {
    let is_at_its_key = match table {
        Table::Invites => decode_row::<InviteRow>(table, key, Kind::Invite, bytes)
            .map(|invite| invite_key(&invite.user, &invite.room_id) == key),
        _ => decode_row::<ServerKeysRow>(table, key, Kind::ServerKeys, bytes).map(|_| is_server(key)),
    };
    match is_at_its_key {
        Ok(true) => None,
        Ok(false) => Some(Finding { table, key: key.to_vec(), what: "is no key of what it holds".to_owned() }),
        Err(error) => Some(Finding::of(table, key, &error)),
    }
}

fn is_server(key: &[u8]) -> bool {
    std::str::from_utf8(key).is_ok_and(|name| <&ServerName>::try_from(name).is_ok())
}
