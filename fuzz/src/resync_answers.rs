//! Answers: whatever other servers answer, a partial room never falls silent, and what can be found out changes nothing.

use std::collections::BTreeMap;

use gibbous::{
    Request, RequestId, RequestKind, Response, ServerName,
    testing::{S, S2},
};

use crate::{
    answers::{changed, deceives},
    script::{Action, How},
    simulation::{Simulation, action},
};

/// What happens in one input at most.
const ACTIONS_MAX: usize = 48;
/// In flight at most: `Limits::requests_max`, as many again for keys and joins, and `Limits::requests_a_server_max`.
const ASKED_MAX: (usize, usize) = (128, 8);

/// Makes a room of two bytes, of which one also says whether keys come late. What befalls the homeserver that joins it
/// is told in four bytes each: every second thing is an answer, true or not; one of raw bytes is followed by them. The host
/// may have the servers asked again at once.
pub fn resync_answers(bytes: &[u8]) {
    if let Some(simulation) = live(bytes) {
        simulation.end();
    }
}

/// Lives through what the bytes say; `None` where there is no room.
fn live(bytes: &[u8]) -> Option<Simulation> {
    let (&[room, later], mut rest) = bytes.split_first_chunk()?;
    let mut simulation = Simulation::begin(room, later, later & 0xf0 == 0xf0)?;
    let later = simulation.world.random.later.len();
    for _ in 0..ACTIONS_MAX {
        let Some((&said, tail)) = rest.split_first_chunk() else { break };
        rest = tail;
        let [what, a, b, c] = said;
        match what {
            0..=0x5f => simulation.perform(action(said, later)),
            0x60..=0x7f => simulation.perform(Action::Answer(a.into(), How::Lie(u64::from(b) << 8 | u64::from(c)))),
            0x80..=0x87 => {
                let id = RequestId(u64::MAX - u64::from(b));
                simulation.world.give(id, Response::Body(rest[..usize::from(c).min(rest.len())].to_vec()));
            }
            0x88..=0x8f => {
                let via = [None, Some(S), Some(S2)][usize::from(a) % 3].map(|via| via.try_into().expect("a name"));
                let host = &simulation.world.host;
                host.engine().retry(host.room.id(), via, host.now_ms).expect("the store works");
            }
            _ => {
                let raw = rest.split_at(if b == 0 { usize::from(c).min(rest.len()) } else { 0 });
                rest = raw.1;
                answer(&mut simulation, a.into(), [b, c], raw.0);
            }
        }
        check_asked(&mut simulation);
    }
    Some(simulation)
}

/// Gives a changed answer to one of the questions that are open.
fn answer(simulation: &mut Simulation, at: usize, how: [u8; 2], raw: &[u8]) {
    let world = &mut simulation.world;
    world.poll();
    if world.asked.is_empty() {
        return;
    }
    let at = at % world.asked.len();
    let another = world.host.honest_answer(&world.asked[(at + 1) % world.asked.len()]);
    let request = world.asked.swap_remove(at);
    let honest = world.host.honest_answer(&request);
    let response = changed(&world.random, &honest, another, how, raw);
    simulation.is_deceived |= deceives(world, &request, &honest, &response);
    world.told.push(format!("answer {:?} of {}: {how:?}", request.kind, request.destination));
    world.give(request.id, response);
}

/// No more is in flight than may be.
fn check_asked(simulation: &mut Simulation) {
    let world = &mut simulation.world;
    world.poll();
    let now_ms = world.host.now_ms;
    let waits = |request: &&Request| request.deadline_ms > now_ms;
    assert!(world.asked.iter().filter(waits).count() <= ASKED_MAX.0, "{:?}", world.asked);
    let of_resync = |request: &&Request| {
        !matches!(request.kind, RequestKind::ServerKeys { .. } | RequestKind::EventAuth { .. }) && waits(request)
    };
    let mut by_server: BTreeMap<&ServerName, usize> = BTreeMap::new();
    for request in world.asked.iter().filter(of_resync) {
        *by_server.entry(&request.destination).or_default() += 1;
    }
    assert!(by_server.values().all(|count| *count <= ASKED_MAX.1), "{by_server:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Were all deceived, or none, or could nobody join, little would be held.
    #[test]
    fn some_are_deceived_and_most_are_not() {
        let (mut deceived, mut all) = (0, 0);
        for room in 0..48_u8 {
            let mut bytes = [0; 66];
            blake3::Hasher::new().update(&[room]).finalize_xof().fill(&mut bytes);
            [bytes[0], bytes[1]] = [room, 2];
            if let Some(simulation) = live(&bytes) {
                deceived += usize::from(simulation.is_deceived);
                all += 1;
                simulation.end();
            }
        }
        assert!(all > 36 && (all / 8..all * 7 / 8).contains(&deceived), "{deceived} of {all}");
    }
}
