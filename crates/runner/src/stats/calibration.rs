//! Calibration: does a confidence of 70 % mean being right seven times in ten?

/// Bins of the expected calibration error, as in Guo et al., *On Calibration of Modern Neural Networks*, 2017.
pub const ECE_BINS: usize = 15;

/// One bar of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Confidence it starts above.
    pub low: f64,
    /// Confidence it ends at, inclusive.
    pub high: f64,
    /// Predictions in it.
    pub count: usize,
    /// Mean confidence of them in [0, 1]; NaN when empty.
    pub confidence: f64,
    /// Share of them that is right, in [0, 1]; NaN when empty.
    pub accuracy: f64,
}

/// Predictions `(confidence in [0, 1], is it right)` in `bins` equal bins `(low, high]`; a confidence of 0 is in the
/// first.
pub fn reliability(predictions: impl IntoIterator<Item = (f64, bool)>, bins: usize) -> Vec<Bin> {
    let mut tallies = vec![(0usize, 0.0f64, 0usize); bins];
    for (confidence, is_right) in predictions {
        // A NaN confidence lands in the first bin (casts saturate) and shows as a NaN there.
        let index = ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
        let tally = &mut tallies[index];
        tally.0 += 1;
        tally.1 += confidence;
        tally.2 += usize::from(is_right);
    }
    let edge = |i: usize| i as f64 / bins as f64;
    tallies
        .into_iter()
        .enumerate()
        .map(|(i, (count, confidence, right))| Bin {
            low: edge(i),
            high: edge(i + 1),
            count,
            confidence: confidence / count as f64,
            accuracy: right as f64 / count as f64,
        })
        .collect()
}

/// Expected calibration error in percent: the mean over predictions of their bin's |accuracy - confidence|; NaN of
/// nothing.
pub fn expected_calibration_error(bins: &[Bin]) -> f64 {
    let total: usize = bins.iter().map(|bin| bin.count).sum();
    let filled = bins.iter().filter(|bin| bin.count > 0);
    100.0
        * filled
            .map(|bin| bin.count as f64 * (bin.accuracy - bin.confidence).abs())
            .sum::<f64>()
        / total as f64
}

#[cfg(test)]
mod tests {
    use super::super::assert_close;
    use super::*;

    #[test]
    fn ece_agrees_with_the_oracle() {
        let predictions: Vec<(f64, bool)> = (0..200u32)
            .map(|i| {
                let confidence = f64::from((i * 7919) % 1000 + 1) / 1000.0;
                (
                    confidence,
                    f64::from((i * 104_729) % 1000) < 1000.0 * confidence.powf(1.5),
                )
            })
            .collect();
        assert_eq!(predictions.iter().filter(|p| p.1).count(), 81);
        assert_close(
            expected_calibration_error(&reliability(predictions, ECE_BINS)),
            13.36,
            1e-12,
        );
    }

    #[test]
    fn bins_include_their_upper_edge() {
        let bins = reliability([(0.0, false), (0.5, true), (0.51, true), (1.0, true)], 2);
        assert_eq!(bins.iter().map(|bin| bin.count).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(bins[0].accuracy, 0.5);
    }

    #[test]
    fn ece_of_nothing_is_not_a_number() {
        assert!(expected_calibration_error(&reliability([], ECE_BINS)).is_nan());
    }
}
