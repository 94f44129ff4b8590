//! A room's history: in whatever order its events come, a partial join ends where one with full state does.

use crate::simulation::{Simulation, action};

/// What happens in one input at most.
const ACTIONS_MAX: usize = 48;

/// Makes a room of two bytes; what befalls the homeserver that joins it is told in four bytes each. Whoever answers
/// answers what is true.
pub fn room_history(bytes: &[u8]) {
    let Some((&[room, later], actions)) = bytes.split_first_chunk() else { return };
    let Some(mut simulation) = Simulation::begin(room, later, false) else { return };
    let later = simulation.world.random.later.len();
    for said in actions.as_chunks().0.iter().take(ACTIONS_MAX) {
        simulation.perform(action(*said, later));
    }
    simulation.end();
}
