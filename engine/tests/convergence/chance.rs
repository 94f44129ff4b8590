//! What happens, by chance made of a seed.

use gibbous::testing::history::Dice;

use crate::{
    script::{Action, How},
    world::World,
};

/// What is still to come.
pub(crate) struct Chance {
    dice: Dice,
    /// The events of the later history that come, in the order in which they come.
    arrivals: Vec<usize>,
    /// How many more things happen when all have come.
    after: usize,
    /// How often, in a hundred times, our users do something.
    ours: usize,
    /// How often somebody lies.
    lies: usize,
}

impl Chance {
    pub(crate) fn new(seed: u64, later: usize) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let arrivals = arrivals(&mut dice, later);
        let after = dice.below(40);
        let ours = [0, 0, 5, 12][dice.below(4)];
        let lies = [0, 0, 10, 30][dice.below(4)];
        Self { dice, arrivals, after, ours, lies }
    }

    /// Returns the next thing that happens, if anything does.
    pub(crate) fn next(&mut self, world: &World) -> Option<Action> {
        if self.arrivals.is_empty() {
            self.after = self.after.checked_sub(1)?;
        }
        let seed = self.dice.below(1_000_000) as u64;
        if self.dice.percent(self.ours) {
            let user = self.dice.below(2);
            return Some(match self.dice.below(12) {
                0 => Action::Leave(user),
                1 | 2 => Action::Join(user, seed),
                3..=5 => Action::Others(seed),
                _ => Action::Speak(user, seed),
            });
        }
        Some(match self.dice.below(21) {
            0 => Action::Restart,
            1 => Action::PassTime,
            2 | 3 if !world.late.is_empty() => Action::Late(self.dice.below(world.late.len())),
            4..=10 if !world.asked.is_empty() => Action::Answer(self.dice.below(world.asked.len()), self.how(seed)),
            11 if !world.handed.is_empty() && self.dice.percent(30) => {
                Action::Again(self.dice.below(world.handed.len()))
            }
            12 if !self.arrivals.is_empty() && self.dice.percent(30) => Action::Redacted(self.arrivals.remove(0)),
            _ => {
                let count = (1 + self.dice.below(3)).min(self.arrivals.len());
                if count == 0 && world.asked.is_empty() {
                    return Some(Action::PassTime);
                }
                if count == 0 {
                    return Some(Action::Answer(self.dice.below(world.asked.len()), How::Well));
                }
                Action::Hand(self.arrivals.drain(..count).collect())
            }
        })
    }

    fn how(&mut self, seed: u64) -> How {
        if self.dice.percent(self.lies) {
            return How::Lie(seed);
        }
        match self.dice.below(10) {
            0 => How::Refuse,
            1 => How::Timeout,
            2 => How::Later,
            3 => How::Empty,
            4 => How::Twice,
            _ => How::Well,
        }
    }
}

/// Returns the events that come, in the order in which they come: somewhat mixed, some not at all, some twice.
fn arrivals(dice: &mut Dice, later: usize) -> Vec<usize> {
    let never = if dice.percent(50) { 25 } else { 5 };
    let delay = [1, 3, 10, 30][dice.below(4)];
    let mut arrivals: Vec<(usize, usize)> = Vec::new();
    for place in 0..later {
        if dice.percent(never) {
            continue;
        }
        arrivals.push((place + dice.below(delay), place));
        if dice.percent(10) {
            arrivals.push((place + dice.below(40), place));
        }
    }
    arrivals.sort_unstable();
    arrivals.into_iter().map(|(_, place)| place).collect()
}
