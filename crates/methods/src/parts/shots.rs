//! What methods that learn on features take from the few shots. `N` shots, `K` classes, `E` joint width.

use candle_core::{DType, Result, Tensor, bail};
use clip::{Clip, model::unit};

use crate::{Classes, Images, Labelled, Shots};

/// Features `[n, E]` of the frozen image tower, averaged over the passes as they leave the tower.
///
/// # Errors
/// No pass, or those of the image tower.
pub fn features(clip: &Clip, pictures: &Labelled) -> Result<Tensor> {
    let mut passes = pictures.passes.iter();
    let Some(first) = passes.next() else {
        bail!("there is no pass over the pictures");
    };
    let mut sum = first.features(clip)?;
    for pass in passes {
        sum = (sum + pass.features(clip)?)?;
    }
    sum / pictures.passes.len() as f64
}

/// As [`features`], of unit length.
///
/// # Errors
/// As [`features`].
pub fn unit_features(clip: &Clip, pictures: &Labelled) -> Result<Tensor> {
    unit(&features(clip, pictures)?)
}

/// The validation pictures.
///
/// # Errors
/// When there are none.
pub fn validation(shots: &Shots) -> Result<&Labelled> {
    match &shots.validation {
        Some(pictures) if !pictures.labels.is_empty() => Ok(pictures),
        _ => bail!("this method chooses by validation pictures, and there are none"),
    }
}

/// Refuses shots that leave a class out, and labels that are no class.
///
/// # Errors
/// Names the first class without a picture.
pub fn of_each_class(labels: &[u32], classes: &Classes) -> Result<()> {
    let mut seen = vec![false; classes.len()];
    for label in labels {
        match seen.get_mut(*label as usize) {
            Some(seen) => *seen = true,
            None => bail!("label {label} is not one of {} classes", classes.len()),
        }
    }
    match seen.iter().position(|s| !s) {
        None => Ok(()),
        Some(k) => bail!(
            "class {:?} has no picture among the shots",
            classes.names[k]
        ),
    }
}

/// `[N, K]`, 1 at each label.
///
/// # Errors
/// Those of candle.
pub fn one_hot(labels: &[u32], classes: usize, like: &Tensor) -> Result<Tensor> {
    let mut values = vec![0f32; labels.len() * classes];
    for (row, label) in labels.iter().enumerate() {
        values[row * classes + *label as usize] = 1.0;
    }
    Tensor::from_vec(values, (labels.len(), classes), like.device())
}

/// How many rows of `[n, K]` scores are largest at their label; of equals the first.
///
/// # Errors
/// Those of candle.
pub fn hits(scores: &Tensor, labels: &[u32]) -> Result<usize> {
    let found: Vec<u32> = scores.argmax(1)?.to_vec1()?;
    Ok(found.iter().zip(labels).filter(|(a, b)| a == b).count())
}

/// What is said where scores are asked for before [`crate::Method::fit`].
pub const NOT_YET: &str = "nothing is learned yet: this method sees the few shots first";

/// `value` as it is kept: a searched number is used as it can be read back, so that scores are the same again.
pub fn as_kept(value: f64) -> f64 {
    f64::from(value as f32)
}

/// One number of a method's state.
///
/// # Errors
/// Those of candle.
pub fn number(value: f64) -> Result<Tensor> {
    Tensor::new(&[value as f32], &candle_core::Device::Cpu)
}

/// The number that [`number`] kept.
///
/// # Errors
/// Another shape.
pub fn number_of(kept: &Tensor) -> Result<f64> {
    match kept.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?[..] {
        [value] => Ok(f64::from(value)),
        _ => bail!("{:?} is not one number", kept.dims()),
    }
}

/// Labels as a tensor of the state: floats, as all that is kept.
///
/// # Errors
/// Those of candle.
pub fn labels_kept(labels: &[u32]) -> Result<Tensor> {
    let values: Vec<f32> = labels.iter().map(|l| *l as f32).collect();
    Tensor::new(values, &candle_core::Device::Cpu)
}

/// Labels that [`labels_kept`] kept.
///
/// # Errors
/// Another shape, or a label that is none of `classes`.
pub fn labels_of(kept: &Tensor, classes: usize) -> Result<Vec<u32>> {
    let values: Vec<f32> = kept.to_dtype(DType::F32)?.to_vec1()?;
    let labels: Vec<u32> = values.iter().map(|l| *l as u32).collect();
    match labels.iter().find(|l| **l as usize >= classes) {
        None => Ok(labels),
        Some(label) => bail!("label {label} is not one of {classes} classes"),
    }
}

/// Pictures with labels, of a recording.
///
/// # Errors
/// Those of candle.
pub fn labelled(passes: Vec<Tensor>, labels: &Tensor) -> Result<Labelled> {
    Ok(Labelled {
        passes: passes.into_iter().map(Images::Pixels).collect(),
        labels: labels.to_dtype(DType::U32)?.to_vec1()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_class_without_a_shot_is_named_and_ties_go_to_the_first() {
        let names = ["cat".to_owned(), "dog".to_owned()];
        let classes = Classes::new(&names, "pets", "{}.");
        assert!(of_each_class(&[1, 0, 1], &classes).is_ok());
        let message = of_each_class(&[0, 0], &classes).unwrap_err().to_string();
        assert!(message.contains("\"dog\" has no picture"), "{message}");
        assert!(of_each_class(&[0, 2], &classes).is_err());
        let scores = Tensor::new(&[[1f32, 1.0], [0.0, 2.0], [3.0, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(hits(&scores, &[0, 1, 1]).unwrap(), 2);
    }
}
