//! Checks 1 to 3 on all cores: results stand in the order of their input, whatever the number of threads.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::OnceLock,
    thread,
};

use crossbeam::channel::{Receiver, Sender, bounded};

/// Of so many events and fewer each, a further thread costs more than it brings: starting one takes about as long as one
/// check.
const ON_ONE_THREAD: usize = 8;

/// How many items are handed on at a time where that means nothing to who takes the results: he waits for the last piece,
/// and nobody works beside him then.
const SMALL_PIECE: usize = 2;

/// How many items are handed on at a time while the next are worked on, whatever the number of threads: where an event
/// stands in the log depends on it.
const PIECE: usize = 128;

/// How many pieces may be under way, each on one thread: at 4 KiB an event 16 MiB.
const PIECES_UNDER_WAY: usize = 32;

/// Applies `work` to every item on all cores.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let mut results = Vec::with_capacity(items.len());
    let Ok(()) = in_pieces(
        items.iter().collect(),
        SMALL_PIECE,
        |item| work(item),
        |piece| {
            results.extend(piece);
            Ok::<_, Infallible>(())
        },
    );
    results
}

/// Applies `work` to every item on all cores and hands the results on, in the order of the items and a piece at a time,
/// while the next pieces are worked on.
///
/// # Errors
///
/// What `take` says first; nothing more is handed on then.
pub(crate) fn map_in_turn<T: Send + Sync, R: Send, E>(
    items: Vec<T>,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(Vec<R>) -> Result<(), E>,
) -> Result<(), E> {
    match items.len() <= PIECE {
        true => take(map(&items, work)),
        false => in_pieces(items, PIECE, work, take),
    }
}

/// Applies `work` to a few items on all cores and hands the results on, in the order of the items and one at a time,
/// while the next items are worked on.
///
/// # Errors
///
/// What `take` says first; nothing more is handed on then.
pub(crate) fn each_in_turn<T: Send + Sync, R: Send, E>(
    items: Vec<T>,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    in_pieces(items, SMALL_PIECE, work, |results| results.into_iter().try_for_each(&mut take))
}

fn in_pieces<T: Send + Sync, R: Send, E>(
    items: Vec<T>,
    piece: usize,
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(Vec<R>) -> Result<(), E>,
) -> Result<(), E> {
    if items.len() <= ON_ONE_THREAD {
        return take(items.iter().map(work).collect());
    }
    // Of great pieces there are many, and this thread has enough to do with what is handed in. Else it works on some while
    // it waits: a thread less is started.
    let threads = cores().min(items.len().div_ceil(ON_ONE_THREAD)).min(PIECES_UNDER_WAY);
    let workers = if piece == PIECE { threads } else { threads - 1 };
    // Neither channel is ever full: no more pieces are under way than each of them holds.
    let (give, given) = bounded(PIECES_UNDER_WAY);
    let (hand_in, handed_in) = bounded(PIECES_UNDER_WAY);
    let done = thread::scope(|scope| {
        for _ in 0..workers {
            let (given, hand_in) = (given.clone(), hand_in.clone());
            scope.spawn(|| work_off(given, hand_in, &work));
        }
        drop(hand_in);
        // The workers end when `give` is dropped, at the latest with this call.
        take_in_turn(Items { items, piece, work: &work }, give, &given, &handed_in, take)
    });
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Returns how many threads run at once. To ask the system takes as long as to verify an event.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get))
}

/// A part of what is worked on, and its place among the others.
type Piece<T> = (usize, T);

fn work_off<T, R>(
    given: Receiver<Piece<Vec<T>>>,
    hand_in: Sender<Piece<thread::Result<Vec<R>>>>,
    work: &impl Fn(&T) -> R,
) {
    for piece in given {
        if hand_in.send(work_on(piece, work)).is_err() {
            return;
        }
    }
}

fn work_on<T, R>((place, items): Piece<Vec<T>>, work: &impl Fn(&T) -> R) -> Piece<thread::Result<Vec<R>>> {
    // A piece that is never handed in would be waited for forever.
    (place, catch_unwind(AssertUnwindSafe(|| items.iter().map(work).collect())))
}

/// What is to be worked on, so many at a time.
struct Items<'w, T, W> {
    items: Vec<T>,
    piece: usize,
    work: &'w W,
}

fn take_in_turn<T, R, E>(
    Items { items, piece, work }: Items<'_, T, impl Fn(&T) -> R>,
    give: Sender<Piece<Vec<T>>>,
    given: &Receiver<Piece<Vec<T>>>,
    handed_in: &Receiver<Piece<thread::Result<Vec<R>>>>,
    mut take: impl FnMut(Vec<R>) -> Result<(), E>,
) -> thread::Result<Result<(), E>> {
    let mut items = items.into_iter();
    let mut early = BTreeMap::new();
    let (mut next_given, mut next_taken) = (0, 0);
    loop {
        while next_given - next_taken < PIECES_UNDER_WAY && items.len() > 0 {
            let given = items.by_ref().take(piece).collect();
            give.send((next_given, given)).expect("workers take pieces until no more are given");
            next_given += 1;
        }
        if next_taken == next_given {
            return Ok(Ok(()));
        }
        let results = loop {
            if let Some(results) = early.remove(&next_taken) {
                break results;
            }
            let done = handed_in.try_recv().ok();
            let done = done.or_else(|| given.try_recv().ok().map(|piece| work_on(piece, work)));
            let (place, results) =
                done.unwrap_or_else(|| handed_in.recv().expect("every piece that is given is handed in"));
            early.insert(place, results);
        };
        next_taken += 1;
        if let Err(error) = take(results?) {
            return Ok(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Lets other threads work until they have come so far, or there are none that will.
    fn give_way_until(is_so_far: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is_so_far() {
                return;
            }
            thread::yield_now();
        }
    }

    /// Doubles the items; the first is done after others, more than so many where there are.
    fn doubled_the_first_late(others: usize) -> impl Fn(&usize) -> usize {
        let done = AtomicUsize::new(0);
        move |item| {
            if *item == 0 {
                give_way_until(|| done.load(Ordering::SeqCst) > others);
            }
            done.fetch_add(1, Ordering::SeqCst);
            item * 2
        }
    }

    #[test]
    fn results_are_handed_on_in_the_order_of_the_items() {
        for len in [0, 1, PIECE, PIECE + 1, 20 * PIECE + 3] {
            let mut taken = Vec::new();
            let items: Vec<usize> = (0..len).collect();
            let done: Result<(), ()> = map_in_turn(items, doubled_the_first_late(2 * PIECE), |results| {
                taken.extend(results);
                Ok(())
            });
            assert_eq!((done, taken), (Ok(()), (0..len).map(|item| item * 2).collect()));
        }
    }

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        for len in [0, 1, ON_ONE_THREAD, ON_ONE_THREAD + 1, 1_001] {
            let items: Vec<usize> = (0..len).collect();
            let results = map(&items, doubled_the_first_late(2 * ON_ONE_THREAD));
            assert_eq!(results, (0..len).map(|item| item * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "it cannot be worked on")]
    fn a_panic_of_any_thread_is_passed_on() {
        let items: Vec<usize> = (0..100).collect();
        map(&items, |item| assert_ne!(*item, 57, "it cannot be worked on"));
    }

    #[test]
    fn nothing_more_is_handed_on_after_an_error() {
        let mut pieces = 0;
        let done = map_in_turn(
            (0..10 * PIECE).collect(),
            |item| *item,
            |results: Vec<usize>| {
                pieces += 1;
                if results.contains(&(3 * PIECE)) { Err("the fourth") } else { Ok(()) }
            },
        );
        assert_eq!((done, pieces), (Err("the fourth"), 4));
    }

    #[test]
    #[should_panic(expected = "it cannot be worked on")]
    fn a_panic_is_passed_on() {
        let work = |item: &usize| assert_ne!(*item, 7 * PIECE, "it cannot be worked on");
        let done: Result<(), ()> = map_in_turn((0..20 * PIECE).collect(), work, |_| Ok(()));
        done.expect("no error, but a panic");
    }

    #[test]
    fn no_more_pieces_are_under_way_than_may_be() {
        let (begun, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |_: &usize| {
            begun.fetch_add(1, Ordering::SeqCst);
        };
        let mut taken = 0;
        let done: Result<(), ()> = map_in_turn((0..40 * PIECE).collect(), work, |results| {
            give_way_until(|| begun.load(Ordering::SeqCst) - taken >= PIECES_UNDER_WAY * PIECE);
            most.fetch_max(begun.load(Ordering::SeqCst) - taken, Ordering::SeqCst);
            taken += results.len();
            Ok(())
        });
        assert_eq!(done, Ok(()));
        let most = most.into_inner();
        assert!(most <= PIECES_UNDER_WAY * PIECE, "{most}");
    }
}
