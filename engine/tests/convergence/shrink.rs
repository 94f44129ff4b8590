//! The shortest script that still fails, found by taking chunks away (delta debugging).

use crate::script::Script;

/// Returns the shortest script found that fails, after at most so many runs.
pub(crate) fn shrink(script: &Script, runs_max: usize, fails: impl Fn(&Script) -> bool) -> Script {
    let mut best = script.clone();
    let mut runs = 0;
    let mut try_one = |candidate: &Script| {
        runs += 1;
        (runs <= runs_max).then(|| fails(candidate))
    };
    let mut chunk = best.actions.len().div_ceil(2).max(1);
    'smaller: loop {
        let mut at = 0;
        let mut is_shorter = false;
        while at < best.actions.len() {
            let mut candidate = best.clone();
            candidate.actions.drain(at..(at + chunk).min(best.actions.len()));
            match try_one(&candidate) {
                None => break 'smaller,
                Some(true) => {
                    best = candidate;
                    is_shorter = true;
                }
                Some(false) => at += chunk,
            }
        }
        match (chunk, is_shorter) {
            (1, false) => break,
            (1, true) => {}
            _ => chunk = chunk.div_ceil(2),
        }
    }
    // What is told of the room after the join, and not needed.
    let mut step = best.later_max.div_ceil(2).max(1);
    while best.later_max > 0 {
        let candidate = Script { later_max: best.later_max.saturating_sub(step), ..best.clone() };
        match try_one(&candidate) {
            None => break,
            Some(true) => best = candidate,
            Some(false) if step == 1 => break,
            Some(false) => step = step.div_ceil(2),
        }
    }
    best
}

#[test]
fn shrinking_leaves_what_the_failure_needs() {
    use crate::script::Action;
    let actions: Vec<Action> = (0..60).map(Action::Others).collect();
    let script = Script { seed: 1, later_max: 30, actions };
    // Broken on purpose: a comparison that fails whenever two things have happened, in a room with enough in it.
    let fails = |script: &Script| {
        let happened = |seed| script.actions.contains(&Action::Others(seed));
        happened(17) && happened(43) && script.later_max >= 5
    };
    let shortest = shrink(&script, 1_000, fails);
    assert_eq!(shortest.to_string(), "1/5 o17 o43");
    // However few runs there are, what is returned fails.
    assert!((0..100).all(|runs_max| fails(&shrink(&script, runs_max, fails))));
}
