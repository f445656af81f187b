//! Tests for two methods measured on the same things: McNemar on the same pictures, Wilcoxon on the same datasets,
//! and Holm's correction for asking more than once.

use super::distribution::{chi_squared_upper, ln_choose, normal_upper};

/// Outcome of McNemar's test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// Pictures only the first method got right.
    pub only_first: u64,
    /// Pictures only the second method got right.
    pub only_second: u64,
    /// Two-sided p-value of the exact (binomial) test; the one to report.
    pub exact: f64,
    /// Chi-squared statistic with continuity correction, one degree of freedom.
    pub statistic: f64,
    /// Its p-value.
    pub corrected: f64,
}

/// McNemar's test from the two discordant counts: do two methods err equally often on the same pictures?
///
/// McNemar, *Note on the sampling error of the difference between correlated proportions*, 1947; the corrected
/// statistic `(|b - c| - 1)^2 / (b + c)` is Edwards'. With no discordant picture both p-values are 1.
pub fn mcnemar(only_first: u64, only_second: u64) -> McNemar {
    let n = only_first + only_second;
    if n == 0 {
        return McNemar {
            only_first,
            only_second,
            exact: 1.0,
            statistic: 0.0,
            corrected: 1.0,
        };
    }
    let fewer = only_first.min(only_second);
    let half = n as f64 * std::f64::consts::LN_2;
    let tail: f64 = (0..=fewer).map(|k| (ln_choose(n, k) - half).exp()).sum();
    let gap = only_first.abs_diff(only_second) as f64;
    let statistic = (gap - 1.0).powi(2) / n as f64;
    McNemar {
        only_first,
        only_second,
        exact: (2.0 * tail).min(1.0),
        statistic,
        corrected: chi_squared_upper(statistic),
    }
}

/// Outcome of Wilcoxon's signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wilcoxon {
    /// The smaller of the two rank sums.
    pub statistic: f64,
    /// Two-sided p-value.
    pub p: f64,
    /// Differences that are not zero; zeros are dropped.
    pub pairs: usize,
    /// Whether `p` is exact (every sign pattern counted) or the normal approximation.
    pub is_exact: bool,
}

/// Up to this many differences every sign pattern is counted.
const EXACT: usize = 25;

/// Wilcoxon's signed-rank test of paired differences (accuracy of one method minus another's, a dataset each).
///
/// Zeros are dropped, ties share their mean rank. Exact up to 25 pairs, ties included; beyond, the normal approximation
/// with tie correction and no continuity correction, as scipy's. `None` when every difference is zero or one is not
/// a number.
pub fn wilcoxon(differences: &[f64]) -> Option<Wilcoxon> {
    if differences.iter().any(|d| d.is_nan()) {
        return None;
    }
    let mut kept: Vec<f64> = differences.iter().copied().filter(|&d| d != 0.0).collect();
    if kept.is_empty() {
        return None;
    }
    kept.sort_by(|a, b| a.abs().total_cmp(&b.abs()));

    // Twice the mean ranks, so that ties stay whole numbers.
    let mut doubled = vec![0usize; kept.len()];
    let mut ties = 0.0;
    let mut start = 0;
    while start < kept.len() {
        let end = start
            + kept[start..]
                .iter()
                .take_while(|d| d.abs() == kept[start].abs())
                .count();
        doubled[start..end].fill(start + 1 + end);
        let group = (end - start) as f64;
        ties += group.powi(3) - group;
        start = end;
    }
    let total: usize = doubled.iter().sum();
    let positive: usize = kept
        .iter()
        .zip(&doubled)
        .filter(|(d, _)| **d > 0.0)
        .map(|(_, rank)| rank)
        .sum();
    let smaller = positive.min(total - positive);
    let statistic = smaller as f64 / 2.0;
    let n = kept.len() as f64;

    let is_exact = kept.len() <= EXACT;
    let p = if is_exact {
        // ways[s]: how many sign patterns have the positive (doubled) ranks sum to s. At most 2^25, exact in f64.
        let mut ways = vec![0.0f64; total + 1];
        ways[0] = 1.0;
        for &rank in &doubled {
            for s in (rank..=total).rev() {
                ways[s] += ways[s - rank];
            }
        }
        let tail: f64 = ways[..=smaller].iter().sum();
        (2.0 * tail / 2f64.powi(kept.len() as i32)).min(1.0)
    } else {
        let centre = n * (n + 1.0) / 4.0;
        let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
        2.0 * normal_upper((centre - statistic) / variance.sqrt())
    };
    Some(Wilcoxon {
        statistic,
        p,
        pairs: kept.len(),
        is_exact,
    })
}

/// Holm's step-down correction: p-values, in the order given, that may each be held against the one level.
///
/// Holm, *A simple sequentially rejective multiple test procedure*, 1979.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut floor = 0.0f64;
    for (rank, &index) in order.iter().enumerate() {
        floor = floor.max(((p.len() - rank) as f64 * p[index]).min(1.0));
        adjusted[index] = floor;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::super::assert_close;
    use super::*;

    #[test]
    fn mcnemar_agrees_with_statsmodels() {
        for (b, c, exact, statistic, corrected) in [
            (10, 3, 0.09228515625, 2.769230769230769, 0.0960923294556734),
            (0, 6, 0.03125, 4.166666666666667, 0.041226833337163815),
            (
                25,
                40,
                0.08168153394154003,
                3.0153846153846153,
                0.08247788747320971,
            ),
            (
                150,
                201,
                0.007524139788171167,
                7.122507122507122,
                0.007612218247778954,
            ),
            (5, 5, 1.0, 0.1, 0.7518296340458492),
        ] {
            let got = mcnemar(b, c);
            assert_close(got.exact, exact, 1e-11);
            assert_close(got.statistic, statistic, 1e-14);
            assert_close(got.corrected, corrected, 1e-12);
        }
        assert_eq!(mcnemar(0, 0).exact, 1.0);
    }

    #[test]
    fn exact_wilcoxon_agrees_with_scipy() {
        let got = wilcoxon(&[2.1, -0.4, 5.3, 0.9, -1.2, 7.7, 3.3, 0.2, 4.1, -0.7, 1.8]).unwrap();
        assert_eq!((got.statistic, got.pairs, got.is_exact), (10.0, 11, true));
        assert_close(got.p, 0.0419921875, 1e-14);
    }

    #[test]
    fn wilcoxon_with_ties_and_zeros_counts_every_sign_pattern() {
        let got = wilcoxon(&[1.0, -1.0, 2.0, 2.0, -3.0, 4.0, 0.0, 5.0]).unwrap();
        assert_eq!((got.statistic, got.pairs), (6.5, 7));
        assert_close(got.p, 0.25, 1e-14);
    }

    #[test]
    fn large_wilcoxon_agrees_with_scipys_approximation() {
        let thirty: Vec<f64> = (0..30)
            .map(|i| f64::from((i * 37) % 61 - 22) / 4.0)
            .collect();
        let got = wilcoxon(&thirty).unwrap();
        assert_eq!((got.statistic, got.is_exact), (126.5, false));
        assert_close(got.p, 0.02922656987610373, 1e-12);
    }

    #[test]
    fn wilcoxon_of_no_difference_is_none() {
        assert_eq!(wilcoxon(&[]), None);
        assert_eq!(wilcoxon(&[0.0, 0.0]), None);
        assert_eq!(wilcoxon(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn holm_agrees_with_statsmodels() {
        let got = holm(&[0.01, 0.04, 0.03, 0.005, 0.2]);
        for (got, want) in got.iter().zip([0.04, 0.09, 0.09, 0.025, 0.2]) {
            assert_close(*got, want, 1e-14);
        }
        assert!(holm(&[]).is_empty());
    }
}
