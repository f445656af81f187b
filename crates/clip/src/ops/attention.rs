//! Multi-head attention over packed rows: each segment attends to its group's prefix and to itself.
//!
//! Scores live only in small buffers of one head of one segment; backward computes them again from queries, keys and
//! the saved log-sums (the flash-attention identity), so nothing quadratic is stored.

use pulp::Arch;
use rayon::prelude::*;

use super::gemm::{Mat, Threads, product, product_into};
use super::layout::Layout;
use super::rows::{exp, max, sum};

/// Segments with a shared prefix that one task takes; their prefix gradients are summed in order. Fixed, so that
/// rounding does not depend on the number of threads.
const SEGMENTS_PER_TASK: usize = 16;

/// A run of query rows and the key rows it sees.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// First query row.
    query: usize,
    queries: usize,
    /// Own position of the first query among the unit's own keys.
    position: usize,
    prefix_start: usize,
    prefix: usize,
    start: usize,
    length: usize,
}

/// Units whose prefix gradients are added up together.
#[derive(Clone, Debug)]
struct Task {
    units: Vec<Unit>,
    prefix_start: usize,
    prefix: usize,
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
        let mut tasks = Vec::new();
        let mut row = 0;
        for group in layout.groups() {
            let prefix_start = row;
            if group.prefix > 0 {
                let unit = Unit {
                    query: row,
                    queries: group.prefix,
                    position: 0,
                    prefix_start: row,
                    prefix: 0,
                    start: row,
                    length: group.prefix,
                };
                tasks.push(Task {
                    units: vec![unit],
                    prefix_start: row,
                    prefix: 0,
                });
                row += group.prefix;
            }
            let units = group.segments.iter().map(|&length| {
                let unit = Unit {
                    query: row,
                    queries: length,
                    position: 0,
                    prefix_start,
                    prefix: group.prefix,
                    start: row,
                    length,
                };
                row += length;
                unit
            });
            push_tasks(&mut tasks, units.collect(), prefix_start, group.prefix);
        }
        Self {
            tasks,
            query_rows: layout.rows(),
            key_rows: layout.rows(),
            causal: layout.is_causal(),
        }
    }

    /// Only one row of each segment asks: `positions[s]` is its own position in segment `s`. Query row `s` is segment `s`.
    pub fn one_a_segment(layout: &Layout, positions: &[usize]) -> Self {
        let spans: Vec<_> = layout.spans().collect();
        let mut tasks = Vec::new();
        let mut s = 0;
        for group in layout.groups() {
            let n = group.segments.len();
            let units: Vec<Unit> = (s..s + n)
                .map(|i| Unit {
                    query: i,
                    queries: 1,
                    position: positions[i],
                    prefix_start: spans[i].prefix_start,
                    prefix: spans[i].prefix,
                    start: spans[i].start,
                    length: spans[i].length,
                })
                .collect();
            if let Some(first) = units.first() {
                let prefix_start = first.prefix_start;
                push_tasks(&mut tasks, units, prefix_start, group.prefix);
            }
            s += n;
        }
        Self {
            tasks,
            query_rows: s,
            key_rows: layout.rows(),
            causal: layout.is_causal(),
        }
    }

    /// Pairs of a query row and a key row that it sees.
    pub fn pairs(&self) -> u64 {
        let of = |u: &Unit| -> usize {
            if !self.causal {
                return u.queries * (u.prefix + u.length);
            }
            let before = u.prefix + u.position;
            (1..=u.queries).map(|i| before + i).sum()
        };
        let units = self.tasks.iter().flat_map(|t| &t.units);
        units.map(|u| of(u) as u64).sum()
    }
}

fn push_tasks(tasks: &mut Vec<Task>, units: Vec<Unit>, prefix_start: usize, prefix: usize) {
    // Long segments without a prefix (pictures) are a task each; short ones (class names) share one.
    let a_task = if units.first().is_some_and(|u| u.length > 48) {
        1
    } else {
        SEGMENTS_PER_TASK
    };
    for chunk in units.chunks(a_task) {
        tasks.push(Task {
            units: chunk.to_vec(),
            prefix_start,
            prefix,
        });
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

/// Scores of one unit and head into `scores` `[queries, prefix + length]`, not scaled, `-inf` where the mask forbids.
/// `kv` starts at the head's first key value; its rows are `stride` apart.
fn scores(u: &Unit, causal: bool, q: Mat, kv: &[f32], stride: usize, scores: &mut [f32]) {
    let (keys, d) = (u.prefix + u.length, q.cols());
    if u.prefix > 0 {
        let k = Mat::new(&kv[u.prefix_start * stride..], u.prefix, d, stride);
        product(scores, keys, q, k.t(), false, Threads::One);
    }
    let k = Mat::new(&kv[u.start * stride..], u.length, d, stride);
    product(&mut scores[u.prefix..], keys, q, k.t(), false, Threads::One);
    if causal {
        for i in 0..u.queries {
            let seen = u.prefix + u.position + i + 1;
            scores[i * keys + seen..(i + 1) * keys].fill(f32::NEG_INFINITY);
        }
    }
}

/// Attention output `[query_rows, heads * size]` into `out`, log-sums `[heads, query_rows]` into `logsum`.
///
/// `q` is `[query_rows, W]`; `kv` holds keys then values, `[key_rows, 2 W]`.
pub fn forward(
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
        .for_each_init(Vec::new, |buffer: &mut Vec<f32>, item| {
            let (task, head) = (&plan.tasks[item / heads.count], item % heads.count);
            for u in &task.units {
                let keys = u.prefix + u.length;
                buffer.resize(u.queries * keys, 0.0);
                let s = &mut buffer[..u.queries * keys];
                scores(
                    u,
                    plan.causal,
                    Mat::new(&q[u.query * w + head * d..], u.queries, d, w),
                    &kv[head * d..],
                    2 * w,
                    s,
                );
                arch.dispatch(
                    #[inline(always)]
                    || {
                        for (i, row) in s.chunks_exact_mut(keys).enumerate() {
                            let top = max(row) * scale;
                            for v in row.iter_mut() {
                                *v = exp(*v * scale - top);
                            }
                            let total = sum(row);
                            // SAFETY: this head's entry for this query, written by this task alone.
                            unsafe {
                                *logsum.at(head * plan.query_rows + u.query + i) = top + total.ln()
                            };
                            let inverse = 1.0 / total;
                            for v in row.iter_mut() {
                                *v *= inverse;
                            }
                        }
                    },
                );
                let to = out.at(u.query * w + head * d);
                let p = Mat::new(&s[u.prefix..], u.queries, u.length, keys);
                let v = Mat::new(&kv[u.start * 2 * w + w + head * d..], u.length, d, 2 * w);
                // SAFETY: rows of this unit's queries and columns of this head belong to this task alone.
                unsafe { product_into(to, w, p, v, false, Threads::One) };
                if u.prefix > 0 {
                    let p = Mat::new(s, u.queries, u.prefix, keys);
                    let v = Mat::new(
                        &kv[u.prefix_start * 2 * w + w + head * d..],
                        u.prefix,
                        d,
                        2 * w,
                    );
                    // SAFETY: as above.
                    unsafe { product_into(to, w, p, v, true, Threads::One) };
                }
            }
        });
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

/// Gradients of queries and of keys and values, both starting at zero, given that of the output.
pub fn backward(
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
    // Gradients of a prefix come from many tasks: each keeps its own sum `[prefix, 2 d]`, added up in order below.
    let partial: Vec<Vec<f32>> = (0..plan.tasks.len() * heads.count)
        .into_par_iter()
        .map_init(
            || (Vec::new(), Vec::new()),
            |(p_buffer, g_buffer): &mut (Vec<f32>, Vec<f32>), item| {
                let (task, head) = (&plan.tasks[item / heads.count], item % heads.count);
                let mut shared = vec![0f32; task.prefix * 2 * d];
                for u in &task.units {
                    let keys = u.prefix + u.length;
                    p_buffer.resize(u.queries * keys, 0.0);
                    g_buffer.resize(u.queries * keys, 0.0);
                    let p = &mut p_buffer[..u.queries * keys];
                    let g = &mut g_buffer[..u.queries * keys];
                    let queries = Mat::new(&q[u.query * w + head * d..], u.queries, d, w);
                    let dout = Mat::new(&grad[u.query * w + head * d..], u.queries, d, w);
                    scores(u, plan.causal, queries, &kv[head * d..], 2 * w, p);
                    // Gradient of the probabilities: dOut Vt.
                    let own_v = Mat::new(&kv[u.start * 2 * w + w + head * d..], u.length, d, 2 * w);
                    product(
                        &mut g[u.prefix..],
                        keys,
                        dout,
                        own_v.t(),
                        false,
                        Threads::One,
                    );
                    if u.prefix > 0 {
                        let v = Mat::new(
                            &kv[u.prefix_start * 2 * w + w + head * d..],
                            u.prefix,
                            d,
                            2 * w,
                        );
                        product(g, keys, dout, v.t(), false, Threads::One);
                    }
                    arch.dispatch(
                        #[inline(always)]
                        || {
                            for i in 0..u.queries {
                                let at = (u.query + i) * w + head * d;
                                let delta =
                                    super::rows::dot(&grad[at..at + d], &saved.out[at..at + d]);
                                let log = saved.logsum[head * plan.query_rows + u.query + i];
                                let row = i * keys..(i + 1) * keys;
                                for (p, g) in p[row.clone()].iter_mut().zip(&mut g[row]) {
                                    *p = exp(*p * scale - log);
                                    *g = *p * (*g - delta) * scale;
                                }
                                if plan.causal {
                                    // exp(-inf) is a tiny number here, not zero: forbid it for good.
                                    let seen = i * keys + u.prefix + u.position + i + 1;
                                    p[seen..(i + 1) * keys].fill(0.0);
                                    g[seen..(i + 1) * keys].fill(0.0);
                                }
                            }
                        },
                    );
                    let (own_p, own_g) = (
                        Mat::new(&p[u.prefix..], u.queries, u.length, keys),
                        Mat::new(&g[u.prefix..], u.queries, u.length, keys),
                    );
                    let own_k = Mat::new(&kv[u.start * 2 * w + head * d..], u.length, d, 2 * w);
                    let (to_q, to_k) = (
                        dq.at(u.query * w + head * d),
                        dkv_out.at(u.start * 2 * w + head * d),
                    );
                    // SAFETY: this unit's query rows and own key rows, in this head's columns, belong to this task alone.
                    unsafe {
                        product_into(to_q, w, own_g, own_k, false, Threads::One);
                        product_into(to_k, 2 * w, own_g.t(), queries, false, Threads::One);
                        product_into(
                            dkv_out.at(u.start * 2 * w + w + head * d),
                            2 * w,
                            own_p.t(),
                            dout,
                            false,
                            Threads::One,
                        );
                    }
                    if u.prefix > 0 {
                        let (pp, pg) = (
                            Mat::new(p, u.queries, u.prefix, keys),
                            Mat::new(g, u.queries, u.prefix, keys),
                        );
                        let k =
                            Mat::new(&kv[u.prefix_start * 2 * w + head * d..], u.prefix, d, 2 * w);
                        // SAFETY: as above.
                        unsafe { product_into(to_q, w, pg, k, true, Threads::One) };
                        product(&mut shared, 2 * d, pg.t(), queries, true, Threads::One);
                        product(&mut shared[d..], 2 * d, pp.t(), dout, true, Threads::One);
                    }
                }
                shared
            },
        )
        .collect();
    for (item, shared) in partial.iter().enumerate() {
        let (task, head) = (&plan.tasks[item / heads.count], item % heads.count);
        for (i, row) in shared.chunks_exact(2 * d).enumerate() {
            let at = (task.prefix_start + i) * 2 * w + head * d;
            for j in 0..d {
                dkv[at + j] += row[j];
                dkv[at + w + j] += row[d + j];
            }
        }
    }
}
