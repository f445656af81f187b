//! Many views of one test picture: which of them are sure, and what they say together.
//!
//! `V` views, the first of them the test view; `n` of them kept; `K` classes.

use candle_core::{D, Result, Tensor, bail};

use super::losses::log_softmax;
use crate::Settings;

/// Reads how many views a method sees of a picture.
pub(crate) fn read_count(s: &mut Settings, published: usize) -> usize {
    let help = "views of a picture, the test view included";
    s.count("views", published, 2..=4096, help)
}

/// Reads the share of views that a method keeps.
pub(crate) fn read_share(s: &mut Settings, published: f64, views: usize) -> f64 {
    let help = "share of views, those of lowest entropy, that are kept";
    let keep = s.number("keep", published, 0.0..=1.0, help);
    if (views as f64 * keep) < 1.0 {
        s.refuse(
            "keep",
            format!("{keep} of {views} views leaves none; keep at least one"),
        );
    }
    keep
}

/// How many of `views` are kept; rounded down, as published.
///
/// # Errors
/// When that is none.
pub(crate) fn kept(views: usize, share: f64) -> Result<usize> {
    match (views as f64 * share) as usize {
        0 => bail!("{views} views and keep = {share} leave none to go by"),
        kept => Ok(kept),
    }
}

/// Entropy in nats of each row's distribution; `[V, K]` logits to `[V]`.
///
/// # Errors
/// Those of candle.
pub fn entropies(logits: &Tensor) -> Result<Vec<f32>> {
    let log_p = log_softmax(logits)?;
    (log_p.exp()? * &log_p)?.sum(D::Minus1)?.neg()?.to_vec1()
}

/// Indices by entropy, the surest first; equal ones in their order.
pub fn surest_first(entropies: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..entropies.len()).collect();
    order.sort_by(|a, b| entropies[*a].total_cmp(&entropies[*b]));
    order
}

/// Indices of the `keep` rows of lowest entropy of `[V, K]` logits, ascending.
///
/// # Errors
/// Those of candle.
pub fn confident(logits: &Tensor, keep: usize) -> Result<Vec<usize>> {
    let mut order = surest_first(&entropies(logits)?);
    order.truncate(keep);
    order.sort_unstable();
    Ok(order)
}

/// The rows `chosen` of `of`.
///
/// # Errors
/// Those of candle.
pub fn rows(of: &Tensor, chosen: &[usize]) -> Result<Tensor> {
    let chosen: Vec<u32> = chosen.iter().map(|i| *i as u32).collect();
    of.index_select(&Tensor::new(chosen, of.device())?, 0)
}

/// Entropy of the mean of the rows' distributions; `[n, K]` to a scalar.
///
/// # Errors
/// Those of candle.
pub fn mean_entropy(logits: &Tensor) -> Result<Tensor> {
    let log_p = log_softmax(logits)?;
    let n = log_p.dim(0)? as f64;
    let top = log_p.max_keepdim(0)?.detach();
    let mean = (log_p
        .broadcast_sub(&top)?
        .exp()?
        .sum_keepdim(0)?
        .log()?
        .add(&top)?
        - n.ln())?;
    // A probability that underflows has no entropy, not a NaN.
    let mean = mean.maximum(f64::from(f32::MIN))?;
    (mean.exp()? * mean)?.sum_all()?.neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Log-probabilities: 1/2, 1/2; 9/10, 1/10; 1/2, 1/2 again.
    fn three() -> Tensor {
        let (half, sure) = (0.5f32.ln(), [0.9f32.ln(), 0.1f32.ln()]);
        Tensor::new(&[[half, half], sure, [half, half]], &Device::Cpu).unwrap()
    }

    #[test]
    fn the_surest_view_comes_first_and_equal_ones_stay_in_order() {
        let entropies = entropies(&three()).unwrap();
        assert!((entropies[0] - 2f32.ln()).abs() < 1e-6);
        assert!((entropies[1] + 0.9 * 0.9f32.ln() + 0.1 * 0.1f32.ln()).abs() < 1e-6);
        assert_eq!(surest_first(&entropies), [1, 0, 2]);
        assert_eq!(confident(&three(), 2).unwrap(), [0, 1]);
    }

    #[test]
    fn the_mean_of_distributions_has_the_entropy_of_their_average() {
        // The average of rows 0 and 1 is 7/10, 3/10.
        let pair = rows(&three(), &[0, 1]).unwrap();
        let got = mean_entropy(&pair).unwrap().to_scalar::<f32>().unwrap();
        let want = -(0.7 * 0.7f32.ln() + 0.3 * 0.3f32.ln());
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }

    #[test]
    fn a_share_that_leaves_no_view_is_refused() {
        assert_eq!(kept(64, 0.1).unwrap(), 6);
        assert!(kept(9, 0.1).is_err());
        let mut s = Settings::new(toml::Table::new());
        read_share(&mut s, 0.1, 9);
        assert_eq!(s.finish().problems.len(), 1);
    }
}
