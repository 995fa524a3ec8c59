//! Where the boxes of a graph lie: in layers, inputs below, with few crossings. Pure, and the same each time.

use std::collections::BTreeMap;

/// A box's size, and where it lies: its left upper corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

pub(super) struct Layout {
    /// In the order of the sizes.
    pub(super) places: Vec<Place>,
    /// For each arrow the points that it goes through, from the one box to the other.
    pub(super) ways: Vec<Vec<(f64, f64)>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

const BETWEEN: f64 = 32.0;
const ROOM: f64 = 56.0;
/// Columns of an arrow that passes a layer.
const PASS: f64 = 12.0;
/// Places that arrows take in passing, of all of them together.
const PASSES: usize = 4096;

/// Boxes of these sizes, and arrows between them by number, each to a box with a greater number than its own.
pub(super) fn layout(sizes: &[(f64, f64)], arrows: &[(usize, usize)]) -> Layout {
    let layers = layers(sizes.len(), arrows);
    // What passes a layer has a place there, too.
    let mut nodes: Vec<(usize, (f64, f64))> = sizes.iter().enumerate().map(|(n, size)| (layers[n], *size)).collect();
    let mut chains = Vec::new();
    for (from, to) in arrows {
        let mut chain = vec![*from];
        let passed = layers[*from] + 1..layers[*to];
        // One for which there is no room goes straight.
        if nodes.len() + passed.len() <= sizes.len() + PASSES {
            for layer in passed {
                nodes.push((layer, (PASS, 0.0)));
                chain.push(nodes.len() - 1);
            }
        }
        chain.push(*to);
        chains.push(chain);
    }
    let mut links: (Vec<Vec<usize>>, Vec<Vec<usize>>) = (vec![Vec::new(); nodes.len()], vec![Vec::new(); nodes.len()]);
    for (from, to) in chains.iter().flat_map(|chain| chain.windows(2).map(|two| (two[0], two[1]))) {
        links.0[to].push(from);
        links.1[from].push(to);
    }
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); layers.iter().max().map_or(0, |last| last + 1)];
    nodes.iter().enumerate().for_each(|(node, (layer, _))| rows[*layer].push(node));
    // One sweep up, one down: each node goes to the middle of its neighbours in the row before.
    for up in [true, false] {
        let order: Vec<usize> =
            if up { (1..rows.len()).collect() } else { (0..rows.len().saturating_sub(1)).rev().collect() };
        for row in order {
            let beside = if up { row - 1 } else { row + 1 };
            let at: BTreeMap<usize, usize> = rows[beside].iter().enumerate().map(|(at, node)| (*node, at)).collect();
            let middle = |node: usize| {
                let near = if up { &links.0[node] } else { &links.1[node] };
                let near: Vec<usize> = near.iter().filter_map(|node| at.get(node)).copied().collect();
                if near.is_empty() { f64::MAX } else { near.iter().sum::<usize>() as f64 / near.len() as f64 }
            };
            let mut keyed: Vec<_> = rows[row].iter().map(|node| (middle(*node), *node)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[row] = keyed.into_iter().map(|(_, node)| node).collect();
        }
    }
    place(&nodes, &rows, sizes.len(), &chains)
}

/// The longest way from a box without inputs.
fn layers(boxes: usize, arrows: &[(usize, usize)]) -> Vec<usize> {
    let mut below = vec![Vec::new(); boxes];
    arrows.iter().for_each(|(from, to)| below[*to].push(*from));
    let mut layers = vec![0; boxes];
    for to in 0..boxes {
        layers[to] = below[to].iter().map(|from| layers[*from] + 1).max().unwrap_or(0);
    }
    layers
}

fn place(nodes: &[(usize, (f64, f64))], rows: &[Vec<usize>], boxes: usize, chains: &[Vec<usize>]) -> Layout {
    let width_of = |row: &Vec<usize>| {
        row.iter().map(|node| nodes[*node].1.0).sum::<f64>() + BETWEEN * row.len().saturating_sub(1) as f64
    };
    let width = rows.iter().map(width_of).fold(0.0, f64::max);
    let heights: Vec<f64> =
        rows.iter().map(|row| row.iter().map(|node| nodes[*node].1.1).fold(0.0, f64::max)).collect();
    let height = heights.iter().sum::<f64>() + ROOM * rows.len().saturating_sub(1) as f64;
    let mut all = vec![Place { x: 0.0, y: 0.0, width: 0.0, height: 0.0 }; nodes.len()];
    let mut bottom = height;
    for (row, high) in rows.iter().zip(&heights) {
        let mut x = (width - width_of(row)) / 2.0;
        for node in row {
            let (width, height) = nodes[*node].1;
            all[*node] = Place { x, y: bottom - high + (high - height) / 2.0, width, height };
            x += width + BETWEEN;
        }
        bottom -= high + ROOM;
    }
    let way = |chain: &Vec<usize>| {
        let last = chain.len() - 1;
        let points = chain.iter().enumerate().map(|(at, node)| {
            let Place { x, y, width, height } = all[*node];
            let y = if at == 0 {
                y
            } else if at == last {
                y + height
            } else {
                y + height / 2.0
            };
            (x + width / 2.0, y)
        });
        points.collect()
    };
    let ways = chains.iter().map(way).collect();
    Layout { places: all[..boxes].to_vec(), ways, width, height }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn boxes_do_not_overlap_and_arrows_point_up() {
        let mut random = Random(11);
        for round in 0..300 {
            let boxes = 1 + random.below(24) as usize;
            let sizes: Vec<_> =
                (0..boxes).map(|_| (40.0 + random.below(300) as f64, 20.0 + random.below(120) as f64)).collect();
            let mut arrows = Vec::new();
            for to in 1..boxes {
                (0..random.below(4)).for_each(|_| arrows.push((random.below(to as u64) as usize, to)));
            }
            let laid = layout(&sizes, &arrows);
            for (index, a) in laid.places.iter().enumerate() {
                assert!(a.x >= 0.0 && a.x + a.width <= laid.width + 0.01 && a.y + a.height <= laid.height + 0.01);
                for b in &laid.places[index + 1..] {
                    let apart =
                        a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
                    assert!(apart, "round {round}: {a:?} and {b:?}");
                }
            }
            for way in &laid.ways {
                assert!(way.windows(2).all(|two| two[1].1 < two[0].1), "round {round}: {way:?}");
            }
        }
    }
}
