//! What the field measures of a trial that learns one thing after the other: sessions of classes, or whole datasets.
//!
//! `a[t][j]` is the accuracy on what was learned `j`-th after the `t`-th was learned, from 0, in percent; `T` is the last.
//! With sessions the row `t` ends at `t`, for later classes are not asked about, and every picture is told apart among all
//! classes seen so far. With datasets every row has all of them, and the task is known. A class-incremental accuracy `A_t` is
//! over all pictures seen so far, not a mean of sessions (iCaRL, <https://arxiv.org/abs/1611.07725>); Transfer, Average and
//! Last of datasets are ZSCL's (<https://arxiv.org/abs/2303.06628>); Forgetting is Chaudhry's
//! (<https://arxiv.org/abs/1801.10112>); backward transfer is that of GEM (<https://arxiv.org/abs/1706.08840>).

/// Right and all pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Right ones.
    pub correct: u64,
    /// All.
    pub total: u64,
}

impl Tally {
    /// In percent.
    pub fn accuracy(self) -> f64 {
        100.0 * self.correct as f64 / self.total as f64
    }
}

/// `a[t][j]`, as counts of pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    kind: Kind,
    rows: Vec<Vec<Tally>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessions,
    Datasets,
}

/// What is measured of a [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Of sessions, the mean of all `A_t` (average incremental accuracy); of datasets, the mean of the whole matrix, first over
    /// rows.
    Average,
    /// Of sessions `A_T`; of datasets the mean of the last row.
    Last,
    /// Mean over all but the last of `max_t a[t][j] - a[T][j]`, `t` from `j` to before `T`. Others write it with `t` up to
    /// `T` too (continuum), which only cuts off what is below zero.
    Forgetting,
    /// Mean over all but the last of `a[T][j] - a[j][j]`: below zero where something was lost.
    Backward,
    /// Of datasets, the mean over all but the first of what they had before they were learned, `mean_{t<j} a[t][j]`: what is
    /// left of zero-shot ability.
    Transfer,
    /// After this many were learned, from 1: of sessions `A_t`, of datasets the mean of the row.
    After(usize),
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    super::mean(&values.collect::<Vec<_>>())
}

impl Matrix {
    /// Of sessions: `rows[t]` holds sessions 0 to `t`. `None` where it is no such triangle, or a session has no pictures.
    pub fn of_sessions(rows: Vec<Vec<Tally>>) -> Option<Self> {
        let is_triangle = rows.iter().enumerate().all(|(t, row)| row.len() == t + 1);
        Self::of(Kind::Sessions, rows).filter(|_| is_triangle)
    }

    /// Of datasets: every row holds all of them, in the order learned. `None` where it is no square, or a dataset has no
    /// pictures.
    pub fn of_datasets(rows: Vec<Vec<Tally>>) -> Option<Self> {
        let is_square = rows.iter().all(|row| row.len() == rows.len());
        Self::of(Kind::Datasets, rows).filter(|_| is_square)
    }

    fn of(kind: Kind, rows: Vec<Vec<Tally>>) -> Option<Self> {
        let has_pictures = rows.iter().flatten().all(|tally| tally.total > 0);
        (!rows.is_empty() && has_pictures).then_some(Self { kind, rows })
    }

    /// How many things are learned.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether none is; never, of a matrix that was made.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Counts of the `j`-th after the `t`-th was learned; `None` where it was not asked about.
    pub fn at(&self, t: usize, j: usize) -> Option<Tally> {
        self.rows.get(t)?.get(j).copied()
    }

    fn a(&self, t: usize, j: usize) -> f64 {
        self.rows[t][j].accuracy()
    }

    fn after(&self, t: usize) -> Option<f64> {
        let row = self.rows.get(t)?;
        match self.kind {
            Kind::Sessions => {
                let correct = row.iter().map(|tally| tally.correct).sum();
                let total = row.iter().map(|tally| tally.total).sum();
                Some(Tally { correct, total }.accuracy())
            }
            Kind::Datasets => mean(row.iter().map(|tally| tally.accuracy())),
        }
    }

    /// The measure; `None` where it does not exist: Transfer of sessions, and what needs two where one is learned.
    pub fn measure(&self, measure: Measure) -> Option<f64> {
        let all = 0..self.len();
        match measure {
            Measure::After(number) => self.after(number.checked_sub(1)?),
            Measure::Last => self.after(self.len() - 1),
            Measure::Average if self.kind == Kind::Sessions => {
                mean(all.filter_map(|t| self.after(t)))
            }
            _ => mean(all.filter_map(|j| self.of_column(j, measure))),
        }
    }

    /// The same of the `j`-th alone: of its column. With sessions its Average is over the sessions that asked about it.
    pub fn of_column(&self, j: usize, measure: Measure) -> Option<f64> {
        let last = self.len() - 1;
        if j > last {
            return None;
        }
        match measure {
            Measure::After(number) => {
                let t = number.checked_sub(1)?;
                self.at(t, j).map(Tally::accuracy)
            }
            Measure::Last => Some(self.a(last, j)),
            Measure::Average => mean(
                (0..=last)
                    .filter_map(|t| self.at(t, j))
                    .map(Tally::accuracy),
            ),
            Measure::Forgetting if j < last => {
                let best = (j..last).map(|t| self.a(t, j));
                Some(best.fold(f64::NEG_INFINITY, f64::max) - self.a(last, j))
            }
            Measure::Backward if j < last => Some(self.a(last, j) - self.a(j, j)),
            Measure::Transfer if self.kind == Kind::Datasets => mean((0..j).map(|t| self.a(t, j))),
            Measure::Forgetting | Measure::Backward | Measure::Transfer => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this many pictures each.
    fn rows<const N: usize>(totals: [u64; N], rows: &[&[u64]]) -> Vec<Vec<Tally>> {
        let row = |row: &&[u64]| {
            let tally = |(&correct, total)| Tally { correct, total };
            row.iter().zip(totals).map(tally).collect()
        };
        rows.iter().map(row).collect()
    }

    fn close(found: Option<f64>, wanted: f64) {
        let found = found.unwrap();
        assert!((found - wanted).abs() < 1e-9, "{found} is not {wanted}");
    }

    #[test]
    fn sessions_are_measured_as_by_hand() {
        // Percent: 90 | 60 80 | 70 40 90.
        let m = rows([10, 20, 10], &[&[9], &[6, 16], &[7, 8, 9]]);
        let m = Matrix::of_sessions(m).unwrap();
        // Over pictures: 9/10, 22/30, 24/40.
        close(m.measure(Measure::After(1)), 90.0);
        close(m.measure(Measure::After(2)), 2200.0 / 30.0);
        close(m.measure(Measure::Last), 60.0);
        close(
            m.measure(Measure::Average),
            (90.0 + 2200.0 / 30.0 + 60.0) / 3.0,
        );
        // max(90, 60) - 70 = 20 and 80 - 40 = 40.
        close(m.measure(Measure::Forgetting), 30.0);
        // 70 - 90 = -20 and 40 - 80 = -40.
        close(m.measure(Measure::Backward), -30.0);
        assert_eq!(m.measure(Measure::Transfer), None);
        close(m.of_column(1, Measure::Average), 60.0);
        close(m.of_column(0, Measure::After(2)), 60.0);
        assert_eq!(m.of_column(2, Measure::After(2)), None);
        assert_eq!(m.of_column(2, Measure::Forgetting), None);
        assert_eq!(
            (m.measure(Measure::After(0)), m.measure(Measure::After(4))),
            (None, None)
        );
        assert_eq!(m.at(0, 1), None);
    }

    #[test]
    fn forgetting_is_from_the_best_and_backward_transfer_from_the_first() {
        // 50 | 80 60 | 70 60 90: the first session came back after the second.
        let m = rows([10, 10, 10], &[&[5], &[8, 6], &[7, 6, 9]]);
        let m = Matrix::of_sessions(m).unwrap();
        close(m.measure(Measure::Forgetting), 5.0);
        close(m.measure(Measure::Backward), 10.0);
        // What is gained at the last counts as less than nothing forgotten.
        let m = Matrix::of_sessions(rows([10, 10], &[&[5], &[8, 6]])).unwrap();
        close(m.measure(Measure::Forgetting), -30.0);
    }

    #[test]
    fn datasets_are_measured_as_by_hand() {
        let m = rows([10, 100, 10], &[&[8, 50, 3], &[7, 90, 2], &[6, 70, 9]]);
        let m = Matrix::of_datasets(m).unwrap();
        // Column 1: 50; column 2: (30 + 20) / 2.
        close(m.measure(Measure::Transfer), (50.0 + 25.0) / 2.0);
        // Columns: 70, 70, 140/3. However many pictures a dataset has, it counts once.
        close(
            m.measure(Measure::Average),
            (70.0 + 70.0 + 140.0 / 3.0) / 3.0,
        );
        close(m.measure(Measure::Last), (60.0 + 70.0 + 90.0) / 3.0);
        close(m.measure(Measure::After(1)), (80.0 + 50.0 + 30.0) / 3.0);
        // From when it was learned: max(80, 70) - 60 and 90 - 70.
        close(m.measure(Measure::Forgetting), 20.0);
        close(m.measure(Measure::Backward), -20.0);
        assert_eq!(m.of_column(0, Measure::Transfer), None);
        close(m.of_column(2, Measure::Transfer), 25.0);
        assert_eq!(m.of_column(3, Measure::Last), None);
    }

    #[test]
    fn zero_shot_of_zscl_is_the_same_in_every_row() {
        // Order I of MTIL: Transfer leaves the first dataset out, so it is another mean than Average and Last.
        let row = [243, 884, 682, 446, 549, 710, 885, 594, 890, 647, 652];
        let all = vec![&row[..]; 11];
        let m = Matrix::of_datasets(rows([1000; 11], &all)).unwrap();
        let rounded = |measure| format!("{:.1}", m.measure(measure).unwrap());
        assert_eq!(rounded(Measure::Transfer), "69.4");
        assert_eq!(rounded(Measure::Average), "65.3");
        assert_eq!(rounded(Measure::Last), "65.3");
    }

    #[test]
    fn what_is_no_matrix_is_none() {
        assert_eq!(Matrix::of_sessions(Vec::new()), None);
        assert_eq!(
            Matrix::of_sessions(rows([10, 10], &[&[1, 2], &[1, 2]])),
            None
        );
        assert_eq!(Matrix::of_datasets(rows([10, 10], &[&[1], &[1, 2]])), None);
        assert_eq!(Matrix::of_datasets(rows([0], &[&[0]])), None);
        let one = Matrix::of_sessions(rows([10], &[&[5]])).unwrap();
        assert_eq!(one.measure(Measure::Forgetting), None);
        close(one.measure(Measure::Average), 50.0);
    }
}
