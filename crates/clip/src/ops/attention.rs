//! Multi-head attention over packed rows: each node of a [`Layout`] attends to the nodes above it and to itself.
//!
//! Keys and values of the sequence that is being looked at lie in one small buffer by their position: nodes come depth
//! first, so that what is above a node is already there, and what its siblings left behind lies further on and is
//! written over. Gradients of keys and values gather in the same places, and go to a node's rows once all below it have
//! added theirs. Scores live only in small buffers of one head of one node; backward computes them again from queries,
//! keys and the saved log-sums (the flash-attention identity), so nothing quadratic is stored.

use pulp::Arch;
use rayon::prelude::*;

use super::gemm::{Mat, Threads, product};
use super::layout::{Layout, Node};
use super::products::Arithmetic;
use super::rows::{exp, max, sum};
use products::Multiplier;

mod products;

/// Nodes that one task takes; gradients of rows above them are summed in order. Fixed, so that rounding does not depend
/// on the number of threads.
const NODES_PER_TASK: usize = 16;
/// Nodes of more rows than this (pictures) are a task each.
const LONG: usize = 48;

/// The rows of a node that ask, and the keys that they see: all above the node, and its own.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// First query row.
    query: usize,
    /// None where only rows below ask.
    queries: usize,
    /// Own position of the first query in the node.
    first: usize,
    node: Node,
    /// Whether nothing is above or below: keys and values are read where they are.
    alone: bool,
}

/// Nodes in a row, looked at one after the other.
#[derive(Clone, Debug)]
struct Task {
    units: Vec<Unit>,
    /// Key rows above the first node, by position. What is above a later node is above the first one too, or among the
    /// nodes of the task.
    above: Vec<usize>,
    /// Most keys that a node sees.
    longest: usize,
}

/// The work of one attention: fixed by the layout and by which rows ask.
#[derive(Clone, Debug)]
pub struct Plan {
    tasks: Vec<Task>,
    query_rows: usize,
    key_rows: usize,
    causal: bool,
}

impl Plan {
    /// Every row asks.
    pub fn all(layout: &Layout) -> Self {
        Self::new(layout, layout.rows(), |_, node| {
            (node.start, node.length, 0)
        })
    }

    /// Only one row of each sequence asks: `positions[s]` is its own position in the node in which sequence `s` ends.
    /// Query row `s` is sequence `s`.
    pub fn one_a_sequence(layout: &Layout, positions: &[usize]) -> Self {
        let ending = layout.ending();
        Self::new(layout, layout.sequences(), |index, _| {
            ending[index].map_or((0, 0, 0), |s| (s, 1, positions[s]))
        })
    }

    /// `asking`: first query row, number of queries and own position of the first, of each node.
    fn new(
        layout: &Layout,
        query_rows: usize,
        asking: impl Fn(usize, &Node) -> (usize, usize, usize),
    ) -> Self {
        let nodes = layout.nodes();
        let mut tasks: Vec<Task> = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let (query, queries, first) = asking(index, node);
            let unit = Unit {
                query,
                queries,
                first,
                node: *node,
                alone: node.parent.is_none()
                    && nodes.get(index + 1).is_none_or(|n| n.parent.is_none()),
            };
            match tasks.last_mut() {
                Some(task) if task.units.len() < NODES_PER_TASK && node.length <= LONG => {
                    task.longest = task.longest.max(node.reach());
                    task.units.push(unit);
                }
                _ => tasks.push(Task {
                    units: vec![unit],
                    above: node.parent.map_or_else(Vec::new, |p| layout.path(p)),
                    longest: node.reach(),
                }),
            }
        }
        Self {
            tasks,
            query_rows,
            key_rows: layout.rows(),
            causal: layout.is_causal(),
        }
    }

    /// Pairs of a query row and a key row that it sees.
    pub fn pairs(&self) -> u64 {
        let of = |u: &Unit| -> usize {
            if !self.causal {
                return u.queries * u.node.reach();
            }
            let before = u.node.position + u.first;
            (1..=u.queries).map(|i| before + i).sum()
        };
        let units = self.tasks.iter().flat_map(|t| &t.units);
        units.map(|u| of(u) as u64).sum()
    }
}

/// Heads of one attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// How many.
    pub count: usize,
    /// Values each: width / count.
    pub size: usize,
}

#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: every task and head writes its own rows and columns; see the uses.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}
impl Out {
    fn at(self, index: usize) -> *mut f32 {
        // SAFETY: callers stay inside the buffer the pointer was taken from.
        unsafe { self.0.add(index) }
    }
}

/// Keys and values of one head, by position in the sequence that is being looked at: `[longest, d]` each.
#[derive(Default)]
struct Path {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Path {
    fn resize(&mut self, longest: usize, d: usize) {
        self.keys.resize(longest * d, 0.0);
        self.values.resize(longest * d, 0.0);
    }

    /// Puts row `row` of `kv` (keys then values, `[_, 2 w]`) at `position`.
    fn put(&mut self, position: usize, kv: &[f32], row: usize, heads: Heads, head: usize) {
        let (d, w) = (heads.size, heads.count * heads.size);
        let from = row * 2 * w + head * d;
        let to = position * d..(position + 1) * d;
        self.keys[to.clone()].copy_from_slice(&kv[from..from + d]);
        self.values[to].copy_from_slice(&kv[from + w..from + w + d]);
    }

    fn put_node(&mut self, node: &Node, kv: &[f32], heads: Heads, head: usize) {
        for i in 0..node.length {
            self.put(node.position + i, kv, node.start + i, heads, head);
        }
    }

    /// Takes over what lies at `positions` in `from`.
    fn copy(&mut self, from: &Self, positions: std::ops::Range<usize>, d: usize) {
        let at = positions.start * d..positions.end * d;
        self.keys[at.clone()].copy_from_slice(&from.keys[at.clone()]);
        self.values[at.clone()].copy_from_slice(&from.values[at]);
    }

    /// Keys and values that `unit` sees, `[reach, d]` each.
    fn seen<'a>(
        &'a self,
        u: &Unit,
        kv: &'a [f32],
        heads: Heads,
        head: usize,
    ) -> (Mat<'a>, Mat<'a>) {
        let (d, w, n) = (heads.size, heads.count * heads.size, u.node.reach());
        if !u.alone {
            let of = |values: &'a [f32]| Mat::new(values, n, d, d);
            return (of(&self.keys), of(&self.values));
        }
        let at = u.node.start * 2 * w + head * d;
        let of = |values: &'a [f32]| Mat::new(values, n, d, 2 * w);
        (of(&kv[at..]), of(&kv[at + w..]))
    }
}

/// Where query `i` of `u` stops seeing in a row of `u.node.reach()` keys.
fn seen_by(u: &Unit, i: usize, causal: bool) -> usize {
    if causal {
        u.node.position + u.first + i + 1
    } else {
        u.node.reach()
    }
}

/// Attention output `[query_rows, heads * size]` into `out`, log-sums `[heads, query_rows]` into `logsum`.
///
/// `q` is `[query_rows, W]`; `kv` holds keys then values, `[key_rows, 2 W]`. Heads of many queries are multiplied as the
/// block's rows are, `by`.
pub fn forward(
    by: Arithmetic,
    plan: &Plan,
    heads: Heads,
    q: &[f32],
    kv: &[f32],
    out: &mut [f32],
    logsum: &mut [f32],
) {
    let (d, w) = (heads.size, heads.count * heads.size);
    assert_eq!(q.len(), plan.query_rows * w);
    assert_eq!(kv.len(), plan.key_rows * 2 * w);
    assert_eq!(
        (out.len(), logsum.len()),
        (q.len(), plan.query_rows * heads.count)
    );
    let scale = 1.0 / (d as f32).sqrt();
    let (out, logsum) = (Out(out.as_mut_ptr()), Out(logsum.as_mut_ptr()));
    let arch = Arch::new();
    (0..plan.tasks.len() * heads.count)
        .into_par_iter()
        .for_each_init(
            || (Path::default(), Vec::new()),
            |(path, buffer): &mut (Path, Vec<f32>), item| {
                let (task, head) = (&plan.tasks[item / heads.count], item % heads.count);
                path.resize(task.longest, d);
                for (position, &row) in task.above.iter().enumerate() {
                    path.put(position, kv, row, heads, head);
                }
                for u in &task.units {
                    if !u.alone {
                        path.put_node(&u.node, kv, heads, head);
                    }
                    if u.queries == 0 {
                        continue;
                    }
                    let keys = u.node.reach();
                    let (k, v) = path.seen(u, kv, heads, head);
                    buffer.resize(u.queries * keys, 0.0);
                    let s = &mut buffer[..u.queries * keys];
                    let asking = Mat::new(&q[u.query * w + head * d..], u.queries, d, w);
                    let multiplier = Multiplier::of(by, u.queries);
                    multiplier.product(s, keys, asking, k.t());
                    arch.dispatch(
                        #[inline(always)]
                        || {
                            for (i, row) in s.chunks_exact_mut(keys).enumerate() {
                                let (row, unseen) = row.split_at_mut(seen_by(u, i, plan.causal));
                                unseen.fill(0.0);
                                let top = max(row) * scale;
                                for v in row.iter_mut() {
                                    *v = exp(*v * scale - top);
                                }
                                let total = sum(row);
                                let at = head * plan.query_rows + u.query + i;
                                // SAFETY: this head's entry for this query, written by this task alone.
                                unsafe { *logsum.at(at) = top + total.ln() };
                                let inverse = 1.0 / total;
                                for v in row.iter_mut() {
                                    *v *= inverse;
                                }
                            }
                        },
                    );
                    let to = out.at(u.query * w + head * d);
                    let p = Mat::new(s, u.queries, keys, keys);
                    // SAFETY: rows of this unit's queries and columns of this head belong to this task alone.
                    unsafe { multiplier.product_into(to, w, p, v) };
                }
            },
        );
}

/// What backward reads.
pub struct Saved<'a> {
    /// Queries `[query_rows, W]`.
    pub q: &'a [f32],
    /// Keys and values `[key_rows, 2 W]`.
    pub kv: &'a [f32],
    /// Attention output `[query_rows, W]`.
    pub out: &'a [f32],
    /// Log-sums `[heads, query_rows]`.
    pub logsum: &'a [f32],
}

/// Gradients of queries `[query_rows, W]` and of keys and values `[key_rows, 2 W]`, given that of the output. Those of
/// keys and values start at zero.
pub fn backward(
    by: Arithmetic,
    plan: &Plan,
    heads: Heads,
    saved: &Saved,
    grad: &[f32],
    dq: &mut [f32],
    dkv: &mut [f32],
) {
    let (d, w) = (heads.size, heads.count * heads.size);
    let (q, kv) = (saved.q, saved.kv);
    assert_eq!(
        (dq.len(), dkv.len(), grad.len()),
        (q.len(), kv.len(), q.len())
    );
    let scale = 1.0 / (d as f32).sqrt();
    let (dq, dkv_out) = (Out(dq.as_mut_ptr()), Out(dkv.as_mut_ptr()));
    let arch = Arch::new();
    // Gradients of rows above a task come from many tasks: each keeps its own sum, added up in order below.
    let partial: Vec<Path> = (0..plan.tasks.len() * heads.count)
        .into_par_iter()
        .map_init(Buffers::default, |b: &mut Buffers, item| {
            let (task, head) = (&plan.tasks[item / heads.count], item % heads.count);
            let mut above = task.above.len();
            let mut done = Path::default();
            done.resize(above, d);
            b.path.resize(task.longest, d);
            b.sums.resize(task.longest, d);
            for (position, &row) in task.above.iter().enumerate() {
                b.path.put(position, kv, row, heads, head);
            }
            b.sums.keys[..above * d].fill(0.0);
            b.sums.values[..above * d].fill(0.0);
            b.open.clear();
            for u in &task.units {
                let keys = u.node.reach();
                while let Some(node) = b.open.pop_if(|n| n.position >= u.node.position) {
                    // SAFETY: this node's rows, in this head's columns, belong to this task alone.
                    unsafe { b.sums.store(&node, dkv_out, heads, head) };
                }
                // Rows above the task that this node is not below: nothing more comes to them, their places are wanted.
                let wanted = u.node.position.min(above);
                done.copy(&b.sums, wanted..above, d);
                above = wanted;
                if !u.alone {
                    b.path.put_node(&u.node, kv, heads, head);
                    let own = u.node.position * d..keys * d;
                    b.sums.keys[own.clone()].fill(0.0);
                    b.sums.values[own].fill(0.0);
                    b.open.push(u.node);
                }
                if u.queries == 0 {
                    continue;
                }
                b.p.resize(u.queries * keys, 0.0);
                b.g.resize(u.queries * keys, 0.0);
                let p = &mut b.p[..u.queries * keys];
                let g = &mut b.g[..u.queries * keys];
                let asking = Mat::new(&q[u.query * w + head * d..], u.queries, d, w);
                let dout = Mat::new(&grad[u.query * w + head * d..], u.queries, d, w);
                let (k, v) = b.path.seen(u, kv, heads, head);
                let multiplier = Multiplier::of(by, u.queries);
                multiplier.product(p, keys, asking, k.t());
                // Gradient of the probabilities: dOut Vt.
                multiplier.product(g, keys, dout, v.t());
                arch.dispatch(
                    #[inline(always)]
                    || {
                        for i in 0..u.queries {
                            let at = (u.query + i) * w + head * d;
                            let delta = super::rows::dot(&grad[at..at + d], &saved.out[at..at + d]);
                            let log = saved.logsum[head * plan.query_rows + u.query + i];
                            let row = i * keys..(i + 1) * keys;
                            let seen = seen_by(u, i, plan.causal);
                            let (p, no_p) = p[row.clone()].split_at_mut(seen);
                            let (g, no_g) = g[row].split_at_mut(seen);
                            for (p, g) in p.iter_mut().zip(g) {
                                *p = exp(*p * scale - log);
                                *g = *p * (*g - delta) * scale;
                            }
                            no_p.fill(0.0);
                            no_g.fill(0.0);
                        }
                    },
                );
                let (p, g) = (
                    Mat::new(p, u.queries, keys, keys),
                    Mat::new(g, u.queries, keys, keys),
                );
                // SAFETY: this unit's query rows and, where it is alone, its key rows, in this head's columns, belong to
                // this task alone.
                unsafe {
                    multiplier.product_into(dq.at(u.query * w + head * d), w, g, k);
                    if u.alone {
                        let at = u.node.start * 2 * w + head * d;
                        let to = dkv_out.at(at);
                        multiplier.transposed_into(to, 2 * w, g, asking);
                        let to = dkv_out.at(at + w);
                        multiplier.transposed_into(to, 2 * w, p, dout);
                    }
                }
                if !u.alone {
                    product(&mut b.sums.keys, d, g.t(), asking, true, Threads::One);
                    product(&mut b.sums.values, d, p.t(), dout, true, Threads::One);
                }
            }
            for node in b.open.drain(..) {
                // SAFETY: as above.
                unsafe { b.sums.store(&node, dkv_out, heads, head) };
            }
            done.copy(&b.sums, 0..above, d);
            done
        })
        .collect();
    for (item, sums) in partial.iter().enumerate() {
        let (task, head) = (&plan.tasks[item / heads.count], item % heads.count);
        for (position, &row) in task.above.iter().enumerate() {
            let (at, from) = (row * 2 * w + head * d, position * d);
            for j in 0..d {
                dkv[at + j] += sums.keys[from + j];
                dkv[at + w + j] += sums.values[from + j];
            }
        }
    }
}

/// What a task of backward needs for itself.
#[derive(Default)]
struct Buffers {
    path: Path,
    /// Gradients of keys and values.
    sums: Path,
    /// Nodes that those looked at next may lie below.
    open: Vec<Node>,
    p: Vec<f32>,
    g: Vec<f32>,
}

impl Path {
    /// Writes the rows of `node` to theirs in `[key_rows, 2 W]`.
    ///
    /// # Safety
    /// No one else may touch this head's columns of these rows meanwhile.
    unsafe fn store(&self, node: &Node, to: Out, heads: Heads, head: usize) {
        let (d, w) = (heads.size, heads.count * heads.size);
        for i in 0..node.length {
            let from = (node.position + i) * d;
            let at = (node.start + i) * 2 * w + head * d;
            // SAFETY: the caller's promise; the row is one of the layout's.
            unsafe {
                std::ptr::copy_nonoverlapping(self.keys[from..from + d].as_ptr(), to.at(at), d);
                let values = self.values[from..from + d].as_ptr();
                std::ptr::copy_nonoverlapping(values, to.at(at + w), d);
            }
        }
    }
}
