//! Rooms of the convergence tests, and what befalls the homeserver that joins one, out of bytes.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use gibbous::{
    ResyncStatus,
    gibbous_storage::{Store, check},
    testing::{ALL_VERSIONS, history::RandomRoom},
};

use crate::{
    compare::compare,
    script::{Action, How, Script},
    world::World,
};

/// So many rooms are made, of every version the same number: they are kept, since their events are signed.
const ROOMS: u8 = 48;
/// How many events they have after the join.
const LATER: [usize; 4] = [0, 5, 12, 40];
/// Beyond so many steps a homeserver that was lied to is left as it stands.
const STEPS_MAX: usize = 400;

/// A homeserver that has joined a room, and what has befallen it.
pub(crate) struct Simulation {
    pub(crate) world: World,
    pub(crate) script: Script,
    /// Whether it was told what cannot be told from the truth: nobody knows then where it must end.
    pub(crate) is_deceived: bool,
}

impl Simulation {
    /// Makes a room of two bytes and lets one of ours join it; `None` where that cannot be. Keys may come late: what
    /// is closed for want of one is not opened again.
    pub(crate) fn begin(room: u8, later: u8, late_keys: bool) -> Option<Self> {
        let (seed, random) = kept_room(room, later);
        let mut world = World::around(random, seed, late_keys);
        let script = Script { seed, later_max: later_max(later), actions: Vec::new() };
        let joined = world.begin(seed).expect("a join ends as it should");
        joined.then_some(Self { world, script, is_deceived: late_keys })
    }

    /// Something happens.
    pub(crate) fn perform(&mut self, action: Action) {
        self.script.actions.push(action.clone());
        self.world.perform(&action).unwrap_or_else(|why| self.fail(&why));
    }

    /// Everybody answers well from here on. The homeserver ends where the oracle does; if it was deceived, it ends, or
    /// says why it does not.
    pub(crate) fn end(mut self) {
        let ended = match self.is_deceived {
            true => rest(&mut self.world),
            false => self.world.settle().and_then(|()| compare(&mut self.world)),
        };
        ended.unwrap_or_else(|why| self.fail(&why));
    }

    fn fail(&self, why: &str) -> ! {
        let told = self.world.told.join("\n");
        panic!("{told}\nGIBBOUS_SCRIPT='{}'\n{why}", self.script);
    }
}

/// Returns one of the rooms, and its seed.
pub(crate) fn kept_room(room: u8, later: u8) -> (u64, RandomRoom) {
    thread_local! {
        static KEPT: RefCell<BTreeMap<(u64, usize), RandomRoom>> = const { RefCell::new(BTreeMap::new()) };
    }
    let (seed, later_max) = (u64::from(room % ROOMS), later_max(later));
    let made = || RandomRoom::new(&ALL_VERSIONS[(seed % 12) as usize], seed, later_max);
    (seed, KEPT.with_borrow_mut(|kept| kept.entry((seed, later_max)).or_insert_with(made).clone()))
}

fn later_max(later: u8) -> usize {
    LATER[usize::from(later) % LATER.len()]
}

/// Everybody answers well for a while: then the room is full, or it is told why it is not, or until when it waits.
pub(crate) fn rest(world: &mut World) -> Result<(), String> {
    for _ in 0..STEPS_MAX {
        world.poll();
        if !world.asked.is_empty() {
            world.answer(0, How::Well);
        } else if world.host.view().is_partial() && world.host.engine().poll_timeout().is_some() {
            world.perform(&Action::PassTime)?;
        } else {
            break;
        }
    }
    let (view, timeout) = (world.host.view(), world.host.engine().poll_timeout());
    let is_told = match view.resync() {
        ResyncStatus::Resting { .. } => true,
        ResyncStatus::BackingOff { until_ms, .. } => timeout.is_some_and(|at_ms| at_ms <= until_ms),
        // What waits for keys waits until they are asked for again.
        ResyncStatus::Idle | ResyncStatus::Running { .. } => timeout.is_some() || !world.asked.is_empty(),
    };
    if view.is_partial() && !is_told {
        let words = world.host.engine().room_in_words(world.host.room.id()).expect("it can be read");
        return Err(format!("it is partial and silent: {:?}\n{}", view.resync(), words.join("\n")));
    }
    let store = Store::open(Arc::new(world.backend.clone())).expect("the store opens");
    let findings = check(&store).expect("the store can be read").findings;
    if findings.is_empty() { Ok(()) } else { Err(format!("{findings:?}")) }
}

/// Reads an action that says nothing untrue: what happens, and up to three numbers.
pub(crate) fn action([what, a, b, c]: [u8; 4], later: usize) -> Action {
    let [a, b, c] = [a, b, c].map(usize::from);
    let event = |at: usize| at % later.max(1);
    let seed = (b << 8 | c) as u64;
    match what % 32 {
        0..=3 => Action::Hand(vec![event(a)]),
        4..=5 => Action::Hand(vec![event(a), event(b)]),
        6 => Action::Hand(vec![event(a), event(b), event(c)]),
        // As they were told.
        7..=9 => Action::Hand((event(a)..later).take(1 + b % 8).collect()),
        10 => Action::Redacted(event(a)),
        11 => Action::Again(a),
        12..=18 => Action::Answer(a, How::Well),
        19 => Action::Answer(a, How::Refuse),
        20 => Action::Answer(a, How::Timeout),
        21 => Action::Answer(a, How::Later),
        22 => Action::Answer(a, How::Twice),
        23 => Action::Answer(a, How::Empty),
        24 => Action::Late(a),
        25 => Action::Restart,
        26 | 27 => Action::PassTime,
        28 => Action::Speak(a, seed),
        29 => Action::Others(seed),
        30 => Action::Join(a, seed),
        _ => Action::Leave(a),
    }
}
