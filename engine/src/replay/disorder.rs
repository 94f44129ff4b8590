//! Answers in another order than they were asked for: early, late or twice, as a seed has it.

use std::collections::VecDeque;

use crate::{Request, RequestId, Response};

/// So many answers are kept to be given again. Each may be a whole state.
const REPEATS_MAX: usize = 4;

/// A seeded disorder: one seed, one order.
#[derive(Debug)]
pub(super) struct Disorder {
    chance: Chance,
    /// Answers that were given and will be given again, under the same request ID, perhaps to an engine that was opened
    /// since.
    repeats: VecDeque<(RequestId, Response)>,
}

impl Disorder {
    pub(super) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), repeats: VecDeque::new() }
    }

    /// Takes any of the open questions.
    pub(super) fn take(&mut self, open: &mut VecDeque<Request>) -> Option<Request> {
        let nth = self.chance.below(open.len())?;
        open.remove(nth)
    }

    /// Parts the questions of a round: those that are answered in it, in their order, and those whose answers come
    /// late. At least one is answered, so that a round is never in vain for being late alone.
    pub(super) fn part(&mut self, mut held: VecDeque<Request>) -> (VecDeque<Request>, VecDeque<Request>) {
        let (mut now, mut late) = (VecDeque::new(), VecDeque::new());
        while let Some(request) = self.take(&mut held) {
            let is_late = !now.is_empty() && self.chance.one_in(4);
            if is_late { &mut late } else { &mut now }.push_back(request);
        }
        (now, late)
    }

    /// Notes an answer that is about to be given; some are given again.
    pub(super) fn note(&mut self, id: RequestId, response: &Response) {
        if self.repeats.len() < REPEATS_MAX && self.chance.one_in(4) {
            self.repeats.push_back((id, response.clone()));
        }
    }

    /// Returns an answer to be given again, if one is due: before one answer in two.
    pub(super) fn poll_repeat(&mut self) -> Option<(RequestId, Response)> {
        if self.repeats.is_empty() || !self.chance.one_in(2) {
            return None;
        }
        self.repeats.pop_front()
    }
}

/// Marsaglia's xorshift64*: small, and the same on every machine.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        // The state must not be zero, and seeds that lie close together should not begin alike (a step of SplitMix64).
        let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// Returns a number below a bound, or `None` for the bound 0.
    fn below(&mut self, bound: usize) -> Option<usize> {
        let bound = u64::try_from(bound).ok().filter(|bound| *bound > 0)?;
        usize::try_from(self.next() % bound).ok()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::request;
    use super::*;
    use crate::{RequestError, RequestKind};

    /// Returns the order of ten questions in a round, and which of them are late.
    fn parted(seed: u64) -> (Vec<u64>, Vec<u64>) {
        let kind = RequestKind::StateIds { event_id: "$e".try_into().unwrap() };
        let held = (0..10).map(|id| request(id, "a.example", kind.clone())).collect();
        let (now, late) = Disorder::new(seed).part(held);
        let ids = |requests: VecDeque<Request>| requests.into_iter().map(|request| request.id.0).collect();
        (ids(now), ids(late))
    }

    #[test]
    fn a_seed_is_an_order_and_another_seed_another() {
        assert_eq!(parted(1), parted(1));
        assert_ne!(parted(1), parted(2));
        assert_ne!(parted(0), parted(1));
    }

    #[test]
    fn every_question_is_answered_in_the_round_or_late_and_one_at_least_in_it() {
        let mut some_late = false;
        for seed in 0..100 {
            let (now, late) = parted(seed);
            assert!(!now.is_empty());
            some_late |= !late.is_empty();
            let mut all = [now, late].concat();
            all.sort_unstable();
            assert_eq!(all, (0..10).collect::<Vec<_>>(), "seed {seed}");
        }
        assert!(some_late);
    }

    #[test]
    fn what_is_given_again_was_given_before_and_once_more_at_most() {
        let mut disorder = Disorder::new(7);
        let mut again = Vec::new();
        for id in 0..100 {
            again.extend(disorder.poll_repeat().map(|(id, _)| id.0));
            disorder.note(RequestId(id), &Response::Failed(RequestError::Timeout));
            assert!(again.iter().all(|repeated| *repeated <= id));
        }
        assert!(again.len() > 5, "{again:?}");
        assert!(again.windows(2).all(|pair| pair[0] < pair[1]), "{again:?}");
    }
}
