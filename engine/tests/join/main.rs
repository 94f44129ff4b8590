//! Joins: what of a `send_join` response is believed, and what a join makes of a room.

mod response;
mod room;

use gibbous::testing::Host;

/// Tells whether the engine knows nothing of the room, also after a restart.
fn nothing_of(host: &Host) -> Result<(), String> {
    match host.engine().room(host.room.id()) {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
