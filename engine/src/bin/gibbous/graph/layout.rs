//! Where nodes and edges stand: rows by depth, each row ordered by what its nodes are connected with.
//!
//! The steps are those of Sugiyama's method, each in its simplest form: long edges get a place in every row that they
//! cross, rows are sorted by the mean place of their neighbours, and then drawn towards these as far as there is room.

use std::collections::BTreeMap;

/// How many nodes stand side by side; those of one depth that are more begin another row.
const ROW_MAX: usize = 10;
/// So many places in rows that edges cross; edges beyond go straight.
const BENDS_MAX: usize = 5_000;
/// How often all rows are gone through.
const SWEEPS: usize = 24;

/// The sizes of what is laid out, in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) node: (f64, f64),
    pub(super) gap: (f64, f64),
    /// How much room an edge has that crosses a row, with what is between it and the next.
    pub(super) bend: f64,
}

/// Where everything stands, from the upper left corner on.
#[derive(Debug)]
pub(super) struct Layout {
    /// The centre of each node.
    pub(super) nodes: Vec<(f64, f64)>,
    /// The centres of the places through which each edge goes, between its ends.
    pub(super) bends: Vec<Vec<(f64, f64)>>,
    pub(super) size: (f64, f64),
}

/// A node, or a place of an edge in a row that it crosses.
#[derive(Debug)]
struct Place {
    row: usize,
    /// With what is left free beside it.
    width: f64,
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Lays out nodes, of which the depths are given, and edges between them.
pub(super) fn lay_out(depths: &[u64], edges: &[(usize, usize)], sizes: Sizes) -> Layout {
    let mut places = place_in_rows(depths, sizes.node.0 + sizes.gap.0);
    let bends = bend(&mut places, edges, sizes.bend);
    let rows_count = places.iter().map(|place| place.row + 1).max().unwrap_or(0);
    let mut rows = vec![Vec::new(); rows_count];
    for (nth, place) in places.iter().enumerate() {
        rows[place.row].push(nth);
    }
    sort_rows(&places, &mut rows);
    for row in &rows {
        spread(&mut places, row);
    }
    for sweep in 0..SWEEPS {
        let mut draw = |row: &Vec<usize>| draw_towards(&mut places, row);
        if sweep % 2 == 0 { rows.iter().for_each(&mut draw) } else { rows.iter().rev().for_each(&mut draw) }
    }
    let edge = |place: &Place| (place.width - sizes.gap.0).max(0.0) / 2.0;
    let left = places.iter().map(|place| place.x - edge(place)).fold(f64::INFINITY, f64::min);
    let right = places.iter().map(|place| place.x + edge(place)).fold(f64::NEG_INFINITY, f64::max);
    let height = sizes.node.1 + sizes.gap.1;
    let at = |nth: usize| (places[nth].x - left, places[nth].row as f64 * height + sizes.node.1 / 2.0);
    Layout {
        nodes: (0..depths.len()).map(at).collect(),
        bends: bends.into_iter().map(|bends| bends.into_iter().map(at).collect()).collect(),
        size: if places.is_empty() { (0.0, 0.0) } else { (right - left, rows_count as f64 * height - sizes.gap.1) },
    }
}

/// Gives each node its row. Depths are what other servers say: only their order counts.
fn place_in_rows(depths: &[u64], width: f64) -> Vec<Place> {
    let mut by_depth: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (nth, depth) in depths.iter().enumerate() {
        by_depth.entry(*depth).or_default().push(nth);
    }
    let mut rows = vec![0; depths.len()];
    let chunks = by_depth.values().flat_map(|of_depth| of_depth.chunks(ROW_MAX));
    for (row, chunk) in chunks.enumerate() {
        chunk.iter().for_each(|nth| rows[*nth] = row);
    }
    rows.into_iter().map(|row| Place { row, width, x: 0.0, above: Vec::new(), below: Vec::new() }).collect()
}

/// Connects the places, with one more in each row that an edge crosses. Returns those of each edge, from its beginning.
fn bend(places: &mut Vec<Place>, edges: &[(usize, usize)], width: f64) -> Vec<Vec<usize>> {
    let nodes = places.len();
    let mut bends = Vec::with_capacity(edges.len());
    for (from, to) in edges.iter().copied() {
        let (begin, end) = (places[from].row, places[to].row);
        let crossed: Vec<usize> =
            if begin > end { (end + 1..begin).rev().collect() } else { (begin + 1..end).collect() };
        let has_room = places.len() - nodes + crossed.len() <= BENDS_MAX;
        let mut of_edge = Vec::new();
        let mut last = from;
        for row in crossed.into_iter().filter(|_| has_room) {
            let nth = places.len();
            places.push(Place { row, width, x: 0.0, above: Vec::new(), below: Vec::new() });
            connect(places, last, nth);
            of_edge.push(nth);
            last = nth;
        }
        connect(places, last, to);
        bends.push(of_edge);
    }
    bends
}

fn connect(places: &mut [Place], a: usize, b: usize) {
    let (upper, lower) = match places[a].row.cmp(&places[b].row) {
        std::cmp::Ordering::Less => (a, b),
        std::cmp::Ordering::Greater => (b, a),
        // Side by side, neither draws the other up or down.
        std::cmp::Ordering::Equal => return,
    };
    places[upper].below.push(lower);
    places[lower].above.push(upper);
}

fn sort_rows(places: &[Place], rows: &mut [Vec<usize>]) {
    let mut order = vec![0.0; places.len()];
    let number = |row: &[usize], order: &mut [f64]| {
        row.iter().enumerate().for_each(|(at, nth)| order[*nth] = at as f64 - row.len() as f64 / 2.0);
    };
    rows.iter().for_each(|row| number(row, &mut order));
    for sweep in 0..SWEEPS {
        let downwards = sweep % 2 == 0;
        let mut sort = |row: &mut Vec<usize>| {
            let key = |nth: usize| {
                let neighbours = if downwards { &places[nth].above } else { &places[nth].below };
                mean(neighbours.iter().map(|nth| order[*nth])).unwrap_or(order[nth])
            };
            // Stable, so that what nothing decides stays as it is.
            row.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
            number(row, &mut order);
        };
        if downwards { rows.iter_mut().for_each(&mut sort) } else { rows.iter_mut().rev().for_each(&mut sort) }
    }
}

/// Sets a row's places side by side around the middle.
fn spread(places: &mut [Place], row: &[usize]) {
    let width: f64 = row.iter().map(|nth| places[*nth].width).sum();
    let mut x = -width / 2.0;
    for nth in row {
        let half = places[*nth].width / 2.0;
        places[*nth].x = x + half;
        x += 2.0 * half;
    }
}

/// Moves a row's places towards their neighbours, as near as they can come to all of them without coming too near to
/// each other: those that would are moved together, by the mean of where they want to be.
fn draw_towards(places: &mut [Place], row: &[usize]) {
    let wanted = |place: &Place| {
        let neighbours = place.above.iter().chain(&place.below);
        mean(neighbours.map(|nth| places[*nth].x)).unwrap_or(place.x)
    };
    // Without the room that those before take up, places in order must only not decrease: isotonic regression.
    let mut taken = Vec::with_capacity(row.len());
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (at, nth) in row.iter().enumerate() {
        let before = at
            .checked_sub(1)
            .map_or(0.0, |before| taken[before] + (places[row[before]].width + places[*nth].width) / 2.0);
        taken.push(before);
        let mut block = (wanted(&places[*nth]) - before, 1);
        while let Some((sum, count)) = blocks.pop_if(|(sum, count)| *sum / *count as f64 > block.0 / block.1 as f64) {
            block = (block.0 + sum, block.1 + count);
        }
        blocks.push(block);
    }
    let moved = blocks.into_iter().flat_map(|(sum, count)| std::iter::repeat_n(sum / count as f64, count));
    for ((nth, taken), x) in row.iter().zip(taken).zip(moved) {
        places[*nth].x = x + taken;
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { node: (100.0, 40.0), gap: (20.0, 30.0), bend: 10.0 };

    fn check(depths: &[u64], edges: &[(usize, usize)]) -> Layout {
        let layout = lay_out(depths, edges, SIZES);
        assert_eq!((layout.nodes.len(), layout.bends.len()), (depths.len(), edges.len()));
        for (nth, (x, y)) in layout.nodes.iter().enumerate() {
            assert!(*x >= 49.9 && *x <= layout.size.0 - 49.9 && *y <= layout.size.1 - 19.9, "{layout:?}");
            for (other_x, other_y) in &layout.nodes[..nth] {
                assert!(
                    (x - other_x).abs() >= 119.9 || (y - other_y).abs() >= 69.9,
                    "they lie on each other: {layout:?}"
                );
            }
        }
        layout
    }

    #[test]
    fn a_chain_is_a_straight_line_downwards() {
        let layout = check(&[1, 2, 3, 9], &[(1, 0), (2, 1), (3, 2)]);
        assert_eq!(layout.nodes.iter().map(|(x, _)| *x).collect::<Vec<_>>(), [50.0; 4]);
        assert_eq!(layout.nodes.iter().map(|(_, y)| *y).collect::<Vec<_>>(), [20.0, 90.0, 160.0, 230.0]);
    }

    #[test]
    fn an_edge_over_several_rows_passes_the_nodes_by() {
        let layout = check(&[1, 2, 3], &[(1, 0), (2, 1), (2, 0)]);
        let [(bend, _)] = layout.bends[2][..] else { panic!("{layout:?}") };
        assert!((bend - layout.nodes[1].0).abs() >= 64.9, "{layout:?}");
    }

    #[test]
    fn forks_stand_side_by_side_and_many_of_one_depth_in_several_rows() {
        check(&[1, 2, 2, 3], &[(1, 0), (2, 0), (3, 1), (3, 2)]);
        let depths: Vec<u64> = (0..35).map(|nth| u64::from(nth > 0)).collect();
        let edges: Vec<_> = (1..35).map(|nth| (nth, 0)).collect();
        let layout = check(&depths, &edges);
        assert_eq!(layout.size.1, 5.0 * 70.0 - 30.0);
    }

    #[test]
    fn depths_that_lie_and_rings_are_laid_out_all_the_same() {
        check(&[], &[]);
        check(&[u64::MAX, 0, 7, 7], &[(0, 1), (1, 0), (2, 3), (3, 2), (2, 2)]);
    }

    #[test]
    fn too_many_long_edges_go_straight() {
        let depths: Vec<u64> = (0..200).collect();
        let edges: Vec<_> = (2..200).flat_map(|from| (0..20).map(move |to| (from, to % from))).collect();
        let layout = check(&depths, &edges);
        assert!(layout.bends.iter().map(Vec::len).sum::<usize>() <= BENDS_MAX);
        assert!(layout.bends.iter().any(Vec::is_empty));
    }
}
