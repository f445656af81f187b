//! Minimising a smooth function without bounds by L-BFGS, as SciPy's `L-BFGS-B` does: ten pairs, the first step of unit
//! length, the same line search and the same two rules to stop. Where it stops is part of results that were published
//! from minima not reached.
//!
//! Byrd, Lu, Nocedal and Zhu, *A Limited Memory Algorithm for Bound Constrained Optimization*, SIAM J. Sci. Comput. 16(5),
//! 1995.

use std::collections::VecDeque;

use candle_core::Result;

use super::line_search::{LONGEST, LineSearch, Point};

/// Pairs that are remembered.
const PAIRS: usize = 10;
/// Steps tried along a line before the pairs are forgotten (scikit-learn's `maxls`).
const TRIALS: usize = 50;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    /// Where no component of the gradient is larger.
    pub(crate) gradient: f64,
    /// Where an iteration falls by no more than this share of the value, or of 1 where the value is less.
    pub(crate) decrease: f64,
    /// After so many iterations.
    pub(crate) iterations: usize,
}

/// Where it stopped.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) x: Vec<f64>,
    pub(crate) value: f64,
    pub(crate) iterations: usize,
}

/// A step `s` and what it did to the gradient, `y`.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    /// `s . y`.
    product: f64,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `a + by b`.
fn moved(a: &[f64], by: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + by * b).collect()
}

/// Minus the gradient, through the inverse curvature that the pairs make up.
fn direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut d: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let share = dot(&pair.s, &d) / pair.product;
        d = moved(&d, -share, &pair.y);
        shares.push(share);
    }
    if let Some(last) = pairs.back() {
        let scale = last.product / dot(&last.y, &last.y);
        d.iter_mut().for_each(|d| *d *= scale);
    }
    for (pair, share) in pairs.iter().zip(shares.into_iter().rev()) {
        let back = dot(&pair.y, &d) / pair.product;
        d = moved(&d, share - back, &pair.s);
    }
    d
}

/// A point with its value and gradient.
struct At {
    x: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// The step along `d` that the line search takes, with the slope there; nothing where none is found.
fn along<F>(f: &mut F, from: &At, d: &[f64], first: f64) -> Result<Option<(At, Point)>>
where
    F: FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
{
    let slope = dot(&from.gradient, d);
    if slope >= 0.0 {
        return Ok(None);
    }
    let mut search = LineSearch::new(from.value, slope, first);
    let mut step = first;
    for _ in 0..TRIALS {
        let x = moved(&from.x, step, d);
        let (value, gradient) = f(&x)?;
        let at = Point {
            step,
            value,
            slope: dot(&gradient, d),
        };
        match search.next(at) {
            Some(next) => step = next,
            None => {
                return Ok(Some((At { x, value, gradient }, at)));
            }
        }
    }
    Ok(None)
}

/// Minimises `f`, which gives value and gradient, from `start`.
///
/// # Errors
/// Those of `f`.
pub(crate) fn minimize<F>(start: Vec<f64>, stop: Stop, mut f: F) -> Result<Found>
where
    F: FnMut(&[f64]) -> Result<(f64, Vec<f64>)>,
{
    let (value, gradient) = f(&start)?;
    let mut now = At {
        x: start,
        value,
        gradient,
    };
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(PAIRS);
    let mut iterations = 0;
    let steep = |at: &At| at.gradient.iter().fold(0f64, |m, g| m.max(g.abs()));
    while iterations < stop.iterations && steep(&now) > stop.gradient {
        let d = direction(&now.gradient, &pairs);
        let first = match iterations {
            0 => (1.0 / dot(&d, &d).sqrt()).min(LONGEST),
            _ => 1.0,
        };
        let Some((next, end)) = along(&mut f, &now, &d, first)? else {
            if pairs.is_empty() {
                break;
            }
            // From here on as from a start.
            pairs.clear();
            continue;
        };
        iterations += 1;
        let fall = now.value - next.value;
        let size = now.value.abs().max(next.value.abs()).max(1.0);
        let before = dot(&now.gradient, &d);
        let product = (end.slope - before) * end.step;
        if product > f64::EPSILON * -before * end.step {
            if pairs.len() == PAIRS {
                pairs.pop_front();
            }
            pairs.push_back(Pair {
                s: d.iter().map(|d| d * end.step).collect(),
                y: moved(&next.gradient, -1.0, &now.gradient),
                product,
            });
        }
        now = next;
        if fall <= stop.decrease * size {
            break;
        }
    }
    Ok(Found {
        x: now.x,
        value: now.value,
        iterations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Stop = Stop {
        gradient: 1e-9,
        decrease: 0.0,
        iterations: 1000,
    };

    fn rosenbrock(x: &[f64]) -> Result<(f64, Vec<f64>)> {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        let gradient = vec![-2.0 * a - 400.0 * x[0] * b, 200.0 * b];
        Ok((a * a + 100.0 * b * b, gradient))
    }

    #[test]
    fn the_banana_valley_is_followed_to_its_end() {
        let found = minimize(vec![-1.2, 1.0], FAR, rosenbrock).unwrap();
        assert!((found.x[0] - 1.0).abs() < 1e-8 && (found.x[1] - 1.0).abs() < 1e-8);
        assert!((10..60).contains(&found.iterations), "{}", found.iterations);
    }

    #[test]
    fn the_first_step_has_length_one_and_the_second_is_newtons_on_a_round_bowl() {
        // |x - (3, 4)|^2 / 2 from 0: the gradient is 5 long, so the first trial is the point a fifth of the way; it
        // leaves four fifths of the slope and is taken. The pair then says that the curvature is 1.
        let mut seen = Vec::new();
        let found = minimize(vec![0.0, 0.0], FAR, |x| {
            seen.push(x.to_vec());
            let d = [x[0] - 3.0, x[1] - 4.0];
            Ok(((d[0] * d[0] + d[1] * d[1]) / 2.0, d.to_vec()))
        });
        let found = found.unwrap();
        let near = |a: &[f64], b: [f64; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(
            near(&seen[1], [0.6, 0.8]) && near(&seen[2], [3.0, 4.0]),
            "{seen:?}"
        );
        assert_eq!((seen.len(), found.iterations), (3, 2));
    }

    #[test]
    fn each_rule_stops_it() {
        let iterations = |stop| {
            minimize(vec![-1.2, 1.0], stop, rosenbrock)
                .unwrap()
                .iterations
        };
        let all = iterations(FAR);
        assert_eq!(
            iterations(Stop {
                iterations: 3,
                ..FAR
            }),
            3
        );
        let steep = iterations(Stop {
            gradient: 1.0,
            ..FAR
        });
        let slow = iterations(Stop {
            decrease: 1e-2,
            ..FAR
        });
        assert!(
            0 < steep && steep < all && 0 < slow && slow < all,
            "{steep} {slow} {all}"
        );
        let there = minimize(vec![1.0, 1.0], FAR, rosenbrock).unwrap();
        assert_eq!((there.iterations, there.x), (0, vec![1.0, 1.0]));
    }
}
