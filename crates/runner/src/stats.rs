//! Statistics of accuracies: spread over seeds, paired tests, calibration.
//!
//! Every figure is checked against scipy or statsmodels; `scripts/statistics_oracle.py` prints the numbers recorded
//! in the tests.

mod calibration;
pub mod continual;
mod distribution;
mod paired;

pub use calibration::{Bin, ECE_BINS, expected_calibration_error, reliability};
pub use distribution::{student_t_quantile, student_t_upper};
pub use paired::{McNemar, Wilcoxon, holm, mcnemar, wilcoxon};

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    Some(values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation (divides by n - 1); `None` of fewer than two values.
pub fn sample_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    Some((squares(values)? / (values.len() - 1) as f64).sqrt())
}

/// Population standard deviation (divides by n), what the published scripts' `np.std` prints; `None` of nothing.
pub fn population_deviation(values: &[f64]) -> Option<f64> {
    Some((squares(values)? / values.len() as f64).sqrt())
}

/// Sum of squared distances from the mean.
fn squares(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    Some(values.iter().map(|value| (value - centre).powi(2)).sum())
}

/// Mean and population deviation of percentages first rounded to one decimal: what Dassl prints and its
/// `parse_test_res.py` averages. Only for comparing like with like; `None` of nothing.
pub fn as_published(values: &[f64]) -> Option<(f64, f64)> {
    let rounded: Vec<f64> = values
        .iter()
        .map(|value| (value * 10.0).round() / 10.0)
        .collect();
    Some((mean(&rounded)?, population_deviation(&rounded)?))
}

/// Student-t confidence interval of the mean at `level` (0.95: nineteen times in twenty); `None` of fewer than two
/// values.
///
/// # Panics
/// When `level` is not inside (0, 1).
pub fn t_interval(values: &[f64], level: f64) -> Option<(f64, f64)> {
    assert!(
        level > 0.0 && level < 1.0,
        "a confidence level lies inside (0, 1), not {level}"
    );
    let (centre, deviation) = (mean(values)?, sample_deviation(values)?);
    let n = values.len() as f64;
    let half = student_t_quantile(0.5 + level / 2.0, n - 1.0) * deviation / n.sqrt();
    Some((centre - half, centre + half))
}

/// Harmonic mean `2bn / (b + n)` of base and novel accuracy; 0 when both are 0.
///
/// The papers take it of *seed-averaged* accuracies, and of the averaged columns in their average rows.
pub fn harmonic_mean(base: f64, novel: f64) -> f64 {
    if base + novel == 0.0 {
        0.0
    } else {
        2.0 * base * novel / (base + novel)
    }
}

/// A number close enough to the reference: `tolerance` is relative, absolute below 1.
#[cfg(test)]
#[track_caller]
fn assert_close(got: f64, want: f64, tolerance: f64) {
    assert!(
        (got - want).abs() <= tolerance * want.abs().max(1.0),
        "{got} is not {want} (tolerance {tolerance})"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: [f64; 3] = [82.1, 83.4, 81.7];
    const FIVE: [f64; 5] = [12.0, 15.5, 63.0, 61.25, 64.0];

    #[test]
    fn means_and_deviations_agree_with_numpy() {
        assert_close(mean(&THREE).unwrap(), 82.39999999999999, 1e-14);
        assert_close(sample_deviation(&THREE).unwrap(), 0.8888194417315619, 1e-13);
        assert_close(
            population_deviation(&THREE).unwrap(),
            0.7257180352359105,
            1e-13,
        );
        assert_close(mean(&FIVE).unwrap(), 43.15, 1e-14);
        assert_close(sample_deviation(&FIVE).unwrap(), 26.884940022250372, 1e-13);
        assert_close(
            population_deviation(&FIVE).unwrap(),
            24.046621384302618,
            1e-13,
        );
    }

    #[test]
    fn t_intervals_agree_with_scipy() {
        for (values, level, low, high) in [
            (&THREE[..], 0.95, 80.19205010585775, 84.60794989414224),
            (&THREE[..], 0.99, 77.30696603438828, 87.4930339656117),
            (&FIVE[..], 0.95, 9.767937880504206, 76.53206211949579),
            (&FIVE[..], 0.99, -12.206463094381355, 98.50646309438136),
        ] {
            let got = t_interval(values, level).unwrap();
            assert_close(got.0, low, 1e-11);
            assert_close(got.1, high, 1e-11);
        }
    }

    #[test]
    fn too_few_values_have_no_spread() {
        assert_eq!(mean(&[]), None);
        assert_eq!(population_deviation(&[]), None);
        assert_eq!(sample_deviation(&[5.0]), None);
        assert_eq!(t_interval(&[5.0], 0.95), None);
        assert_eq!(population_deviation(&[5.0]), Some(0.0));
    }

    #[test]
    fn published_figures_are_rounded_first() {
        // 63.25 and 63.34 both print as 63.3, so the published spread is zero.
        assert_eq!(as_published(&[63.25, 63.34]), Some((63.3, 0.0)));
        let (centre, deviation) = as_published(&THREE).unwrap();
        assert_close(centre, 82.39999999999999, 1e-14);
        assert_close(deviation, 0.7257180352359105, 1e-13);
    }

    #[test]
    fn harmonic_mean_is_the_papers() {
        assert_close(harmonic_mean(80.47, 71.69), 75.82668638275499, 1e-14);
        assert_eq!(harmonic_mean(0.0, 0.0), 0.0);
        assert_eq!(harmonic_mean(90.0, 0.0), 0.0);
    }
}
