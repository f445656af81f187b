//! How far to go along a falling line, by Moré and Thuente, *Line search algorithms with guaranteed sufficient decrease*,
//! ACM TOMS 20(3), 1994: the steps of MINPACK-2's `dcsrch` with the constants that L-BFGS-B gives it, so that what rests on
//! where a minimiser stops rests on the same points.

/// Share of the first slope that a step must fall by, for each unit of it.
const DECREASE: f64 = 1e-3;
/// Share of the first slope that may be left.
const CURVATURE: f64 = 0.9;
/// Relative width at which an interval is narrow enough.
const NARROW: f64 = 0.1;
/// The longest step.
pub(crate) const LONGEST: f64 = 1e10;

/// What was found at a step along the line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) step: f64,
    pub(crate) value: f64,
    /// Along the line.
    pub(crate) slope: f64,
}

impl Point {
    /// As seen from a line of slope `fall` through the start.
    fn tilted(self, fall: f64) -> Self {
        Self {
            value: self.value - self.step * fall,
            slope: self.slope - fall,
            ..self
        }
    }
}

/// A search that is under way.
#[derive(Debug)]
pub(crate) struct LineSearch {
    start: Point,
    /// The least value so far, and the other end of the interval.
    best: Point,
    other: Point,
    /// Whether a minimum lies between the two.
    is_bracketed: bool,
    /// Whether no step yet fell enough and rose there.
    is_early: bool,
    /// Bounds of the next step.
    bounds: (f64, f64),
    /// Of the interval: now, and one before.
    widths: (f64, f64),
}

impl LineSearch {
    /// From step 0 with its `value` and `slope`, which is negative; `first` is tried first.
    pub(crate) fn new(value: f64, slope: f64, first: f64) -> Self {
        let start = Point {
            step: 0.0,
            value,
            slope,
        };
        Self {
            start,
            best: start,
            other: start,
            is_bracketed: false,
            is_early: true,
            bounds: (0.0, first + 4.0 * first),
            widths: (LONGEST, 2.0 * LONGEST),
        }
    }

    fn is_narrow(&self) -> bool {
        self.is_bracketed && self.bounds.1 - self.bounds.0 <= NARROW * self.bounds.1
    }

    fn is_outside(&self, step: f64) -> bool {
        self.is_bracketed && (step <= self.bounds.0 || step >= self.bounds.1)
    }

    /// The next step to try after `at`, or nothing where `at` is the one to take.
    pub(crate) fn next(&mut self, at: Point) -> Option<f64> {
        let fall = DECREASE * self.start.slope;
        let line = self.start.value + at.step * fall;
        let fell = at.value <= line;
        if self.is_early && fell && at.slope >= 0.0 {
            self.is_early = false;
        }
        let is_good = fell && at.slope.abs() <= CURVATURE * -self.start.slope;
        let is_longest = at.step == LONGEST && fell && at.slope <= fall;
        let is_shortest = at.step == 0.0 && (!fell || at.slope >= fall);
        if is_good || is_longest || is_shortest || self.is_narrow() || self.is_outside(at.step) {
            return None;
        }
        let mut step = if self.is_early && at.value <= self.best.value && !fell {
            self.best = self.best.tilted(fall);
            self.other = self.other.tilted(fall);
            let step = self.trial(at.tilted(fall));
            self.best = self.best.tilted(-fall);
            self.other = self.other.tilted(-fall);
            step
        } else {
            self.trial(at)
        };
        let (best, other) = (self.best.step, self.other.step);
        if self.is_bracketed {
            let apart = (other - best).abs();
            if apart >= 0.66 * self.widths.1 {
                step = best + 0.5 * (other - best);
            }
            self.widths = (apart, self.widths.0);
            self.bounds = (best.min(other), best.max(other));
        } else {
            self.bounds = (step + 1.1 * (step - best), step + 4.0 * (step - best));
        }
        step = step.clamp(0.0, LONGEST);
        if self.is_outside(step) || self.is_narrow() {
            step = best;
        }
        Some(step)
    }

    /// The minimiser of a cubic or quadratic through what is known, with the interval moved on (`dcstep`).
    fn trial(&mut self, at: Point) -> f64 {
        let best = self.best;
        let turned = at.slope * best.slope.signum() < 0.0;
        let secant = |a: Point, b: Point| a.slope / (a.slope - b.slope) * (b.step - a.step);
        let step = if at.value > best.value {
            // The minimum lies between: the cubic's, or halfway to the quadratic's.
            self.is_bracketed = true;
            let cubic = best.step + Cubic::of(best, at).after_first(at.step < best.step);
            let rise = (best.value - at.value) / (at.step - best.step) + best.slope;
            let quadratic = best.step + best.slope / rise / 2.0 * (at.step - best.step);
            if (cubic - best.step).abs() < (quadratic - best.step).abs() {
                cubic
            } else {
                cubic + (quadratic - cubic) / 2.0
            }
        } else if turned {
            // Lower, and the slope has turned: between again.
            self.is_bracketed = true;
            let cubic = at.step + Cubic::of(best, at).after_second(at.step > best.step);
            let by_secant = at.step + secant(at, best);
            if (cubic - at.step).abs() > (by_secant - at.step).abs() {
                cubic
            } else {
                by_secant
            }
        } else if at.slope.abs() < best.slope.abs() {
            // Lower and flatter: the cubic may have no minimum that way.
            let by_secant = at.step + secant(at, best);
            let ahead = at.step > best.step;
            let cubic = match Cubic::of(best, at).ahead(ahead) {
                Some(offset) => at.step + offset,
                None if ahead => self.bounds.1,
                None => self.bounds.0,
            };
            let is_nearer = (cubic - at.step).abs() < (by_secant - at.step).abs();
            if self.is_bracketed {
                let nearer = if is_nearer { cubic } else { by_secant };
                let most = at.step + 0.66 * (self.other.step - at.step);
                if ahead {
                    nearer.min(most)
                } else {
                    nearer.max(most)
                }
            } else {
                let is_further = (cubic - at.step).abs() > (by_secant - at.step).abs();
                let further = if is_further { cubic } else { by_secant };
                further.min(self.bounds.1).max(self.bounds.0)
            }
        } else if self.is_bracketed {
            // Lower and no flatter, with an end beyond.
            at.step + Cubic::of(self.other, at).after_second(at.step > self.other.step)
        } else if at.step > best.step {
            self.bounds.1
        } else {
            self.bounds.0
        };
        if at.value > best.value {
            self.other = at;
        } else {
            if turned {
                self.other = best;
            }
            self.best = at;
        }
        step
    }
}

/// The cubic with the values and slopes of two points.
struct Cubic {
    first: Point,
    second: Point,
    theta: f64,
    /// Magnitude that the root is taken at.
    scale: f64,
}

impl Cubic {
    fn of(first: Point, second: Point) -> Self {
        let chord = 3.0 * (first.value - second.value) / (second.step - first.step);
        let theta = chord + first.slope + second.slope;
        let scale = theta.abs().max(first.slope.abs()).max(second.slope.abs());
        Self {
            first,
            second,
            theta,
            scale,
        }
    }

    fn root(&self, least: f64, negative: bool) -> f64 {
        let s = self.scale;
        let inner = (self.theta / s).powi(2) - self.first.slope / s * (self.second.slope / s);
        let root = s * inner.max(least).sqrt();
        if negative { -root } else { root }
    }

    /// Its minimiser as an offset from the first point.
    fn after_first(&self, negative: bool) -> f64 {
        let (a, b) = (self.first.slope, self.second.slope);
        let root = self.root(f64::NEG_INFINITY, negative);
        let share = ((root - a) + self.theta) / (((root - a) + root) + b);
        share * (self.second.step - self.first.step)
    }

    /// The same as an offset from the second.
    fn after_second(&self, negative: bool) -> f64 {
        let (a, b) = (self.first.slope, self.second.slope);
        let root = self.root(f64::NEG_INFINITY, negative);
        let share = ((root - b) + self.theta) / (((root - b) + root) + a);
        share * (self.first.step - self.second.step)
    }

    /// The same where it lies beyond the second.
    fn ahead(&self, negative: bool) -> Option<f64> {
        let (a, b) = (self.first.slope, self.second.slope);
        let root = self.root(0.0, negative);
        let share = ((root - b) + self.theta) / ((root + (a - b)) + root);
        (share < 0.0 && root != 0.0).then_some(share * (self.first.step - self.second.step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps tried on `f`, which gives value and slope; the last is the one taken.
    fn tried(first: f64, f: impl Fn(f64) -> (f64, f64)) -> Vec<f64> {
        let (value, slope) = f(0.0);
        let mut search = LineSearch::new(value, slope, first);
        let mut steps = vec![first];
        for _ in 0..50 {
            let step = steps[steps.len() - 1];
            let (value, slope) = f(step);
            match search.next(Point { step, value, slope }) {
                Some(next) => steps.push(next),
                None => return steps,
            }
        }
        panic!("no end: {steps:?}");
    }

    #[test]
    fn a_parabola_is_taken_at_once_where_it_fell_enough_and_hit_by_its_cubic_where_not() {
        // (x - 1)^2: the step of 1.5 falls and leaves half the slope; that of 10 does not fall.
        let parabola = |x: f64| ((x - 1.0).powi(2), 2.0 * (x - 1.0));
        assert_eq!(tried(1.5, parabola), [1.5]);
        let steps = tried(10.0, parabola);
        assert_eq!(steps.len(), 2, "{steps:?}");
        assert!((steps[1] - 1.0).abs() < 1e-12, "{steps:?}");
    }

    #[test]
    fn a_step_that_is_too_short_grows_at_most_fourfold() {
        // The slope stays nearly what it was: the secant points far beyond what is allowed.
        let steps = tried(0.01, |x| ((x - 1.0).powi(2), 2.0 * (x - 1.0)));
        assert!((steps[1] - 0.05).abs() < 1e-12, "{steps:?}");
        let last = steps[steps.len() - 1];
        assert!(2.0 * (1.0 - last) <= 0.9 * 2.0, "{steps:?}");
    }

    #[test]
    fn what_is_taken_fell_and_is_flatter_than_the_start_or_near_a_minimum() {
        // Moré and Thuente's first two test functions, from steps that are far too short and far too long.
        let hyperbola = |x: f64| {
            let below = x * x + 2.0;
            (-x / below, (x * x - 2.0) / (below * below))
        };
        let quintic = |x: f64| {
            let t = x + 0.004;
            (
                t.powi(5) - 2.0 * t.powi(4),
                5.0 * t.powi(4) - 8.0 * t.powi(3),
            )
        };
        for first in [1e-3, 1e-1, 10.0, 1e3] {
            let steps = tried(first, hyperbola);
            let (value, slope) = hyperbola(steps[steps.len() - 1]);
            assert!(value < 0.0 && slope.abs() <= 0.9 * 0.5, "{steps:?}");
            // Its start is so flat that the interval around the minimum, 1.596, is narrow first.
            let steps = tried(first, quintic);
            let last = steps[steps.len() - 1];
            assert!((last / 1.596 - 1.0).abs() < 0.1, "{steps:?}");
        }
    }
}
