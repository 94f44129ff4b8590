//! What state groups cost at 100,000 members, in rows, reads and bytes.

use std::collections::BTreeSet;

use gibbous::{
    gibbous_storage::{
        StoreError,
        state_group::{StateGroup, diff, lookup, update},
    },
    testing::history::Dice,
};
use gibbous_benches::states::{Nodes, States, change, member};

pub(super) const MEMBERS: u64 = 100_000;
const TIMES: u64 = 1_000;

pub(super) fn bytes_per_change() -> Result<f64, String> {
    measured(|states| change_often(states, Nodes::bytes))
}

pub(super) fn insert_reads() -> Result<f64, String> {
    measured(|states| change_often(states, Nodes::reads))
}

pub(super) fn lookup_reads() -> Result<f64, String> {
    measured(|states| {
        let mut most = 0;
        for number in 0..TIMES {
            let before = states.nodes.reads();
            lookup(&states.nodes, &states.last, &member(number * (MEMBERS / TIMES)))?;
            most = most.max(states.nodes.reads() - before);
        }
        Ok(most as f64)
    })
}

pub(super) fn diff_reads() -> Result<f64, String> {
    const KEYS: usize = 10;
    measured(|states| {
        let mut most = 0;
        for _ in 0..TIMES {
            let changes: Vec<_> = (0..KEYS).map(|_| states.change()).collect();
            let other = update(&mut states.nodes, &states.last, &changes)?;
            let before = states.nodes.reads();
            diff(&states.nodes, &states.last, &other)?;
            most = most.max(states.nodes.reads() - before);
        }
        Ok(most as f64)
    })
}

/// Counts the IDs of one state that was reached by many orders of the same events, some of which replace others.
pub(super) fn same_state() -> Result<f64, String> {
    const KEYS: u64 = 300;
    measured(|states| {
        let last: Vec<_> = (0..KEYS).map(|number| change(member(number), number)).collect();
        let mut found = BTreeSet::new();
        for order in 0..TIMES {
            let mut state = StateGroup::EMPTY;
            let mut dice = Dice::new(order);
            let mut twice = last.repeat(2);
            for at in (1..twice.len()).rev() {
                twice.swap(at, dice.below(at + 1));
            }
            let mut seen = BTreeSet::new();
            for lasting in twice {
                // At first each key holds something that is replaced later.
                let (path, _) = lasting;
                let now = if seen.insert(path) { change(path, KEYS + order) } else { lasting };
                state = update(&mut states.nodes, &state, &[now])?;
            }
            found.insert(state);
        }
        Ok(found.len() as f64)
    })
}

/// Makes changes one at a time. Returns what was counted, a change.
fn change_often(states: &mut States, count: impl Fn(&Nodes) -> u64) -> Result<f64, StoreError> {
    let before = count(&states.nodes);
    for _ in 0..TIMES {
        states.make_version()?;
    }
    Ok((count(&states.nodes) - before) as f64 / TIMES as f64)
}

fn measured(measure: impl FnOnce(&mut States) -> Result<f64, StoreError>) -> Result<f64, String> {
    States::new(MEMBERS).and_then(|mut states| measure(&mut states)).map_err(|error| error.to_string())
}
