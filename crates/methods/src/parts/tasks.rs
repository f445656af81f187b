//! Several datasets learned at once, each a task: whose classes stand where, and each task's share of a loss.
//!
//! `T` tasks, `B` images, `K` classes of all tasks.

use std::ops::Range;

use candle_core::{DType, Result, Tensor, bail};

use super::losses::cross_entropy;
use crate::Classes;

/// Which of all classes are of which task.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    /// By task.
    ranges: Vec<Range<usize>>,
}

impl Tasks {
    /// Of the datasets that `classes` are of.
    pub(crate) fn of(classes: &Classes) -> Self {
        let mut end = 0;
        let counts = match &classes.tasks[..] {
            [] => vec![classes.len()],
            several => several.iter().map(|(_, count)| *count).collect(),
        };
        let range = |count: usize| {
            end += count;
            end - count..end
        };
        Self {
            ranges: counts.into_iter().map(range).collect(),
        }
    }

    /// Ids of the datasets that `classes` are of.
    pub(crate) fn datasets(classes: &Classes) -> Vec<String> {
        match &classes.tasks[..] {
            [] => vec![classes.dataset.clone()],
            several => several.iter().map(|(id, _)| id.clone()).collect(),
        }
    }

    /// The task of each class.
    pub(crate) fn of_classes(&self) -> Vec<usize> {
        let each = self.ranges.iter().enumerate();
        each.flat_map(|(task, range)| vec![task; range.len()])
            .collect()
    }

    /// The task of each label: labels go on from one task's classes to the next's, so that they tell.
    ///
    /// # Errors
    /// A label that is no class.
    pub(crate) fn of_labels(&self, labels: &Tensor) -> Result<Vec<usize>> {
        let of_classes = self.of_classes();
        let of = |label: &u32| match of_classes.get(*label as usize) {
            Some(task) => Ok(*task),
            None => bail!("label {label} is not one of {} classes", of_classes.len()),
        };
        labels.to_vec1::<u32>()?.iter().map(of).collect()
    }

    /// `[B, K]`: 1 at the classes of each picture's own task, else 0.
    ///
    /// # Errors
    /// Those of candle.
    pub(crate) fn own(&self, pictures: &[usize], like: &Tensor) -> Result<Tensor> {
        let of_classes = self.of_classes();
        let row = |task: &usize| {
            let own = of_classes.iter().map(|of| f32::from(u8::from(of == task)));
            own.collect::<Vec<_>>()
        };
        let values: Vec<f32> = pictures.iter().flat_map(row).collect();
        let shape = (pictures.len(), of_classes.len());
        Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())
    }

    /// Cross entropies of the pictures of each task, summed and divided by `B`, of logits `[B, K]`; among the classes of
    /// the task alone where they are told apart `inside` of it, else among all. A task without pictures has 0.
    ///
    /// # Errors
    /// A label that is no class.
    pub(crate) fn shares(
        &self,
        logits: &Tensor,
        labels: &Tensor,
        inside: bool,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let of_pictures = self.of_labels(labels)?;
        let share = |(task, range): (usize, &Range<usize>)| {
            let rows = (0u32..).zip(&of_pictures).filter(|(_, t)| **t == task);
            let rows: Vec<u32> = rows.map(|(row, _)| row).collect();
            if rows.is_empty() {
                return Tensor::zeros((), DType::F32, logits.device());
            }
            let part = rows.len() as f64 / of_pictures.len() as f64;
            let rows = Tensor::new(rows, logits.device())?;
            let (mut own, mut labels) = (
                logits.index_select(&rows, 0)?,
                labels.index_select(&rows, 0)?,
            );
            if inside {
                own = own.narrow(1, range.start, range.len())?.contiguous()?;
                labels =
                    labels.broadcast_sub(&Tensor::new(range.start as u32, labels.device())?)?;
            }
            cross_entropy(&own, &labels)? * part
        };
        let shares = self.ranges.iter().enumerate().map(share);
        shares
            .map(|share| Ok(("cross_entropy", share?)))
            .collect::<Result<_>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn two() -> Tasks {
        let of = |dataset: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            Classes::new(&names, dataset, "{}.")
        };
        let (pets, land) = (
            of("pets", &["cat", "dog"]),
            of("land", &["lake", "sea", "crop"]),
        );
        assert_eq!(Tasks::of(&land).of_classes(), [0, 0, 0]);
        assert_eq!(Tasks::datasets(&land), ["land"]);
        let both = Classes::joined(&[pets, land]);
        assert_eq!(Tasks::datasets(&both), ["pets", "land"]);
        Tasks::of(&both)
    }

    #[test]
    fn a_label_says_which_task_a_picture_is_of() {
        let labels = Tensor::new(&[0u32, 4, 2, 1], &Device::Cpu).unwrap();
        let tasks = two().of_labels(&labels).unwrap();
        assert_eq!(tasks, [0, 1, 1, 0]);
        let own = two().own(&tasks[..2], &Tensor::new(&[0f32], &Device::Cpu).unwrap());
        let own: Vec<Vec<f32>> = own.unwrap().to_vec2().unwrap();
        assert_eq!(own, [[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 1.0]]);
        let none = Tensor::new(&[5u32], &Device::Cpu).unwrap();
        assert!(two().of_labels(&none).is_err());
    }

    #[test]
    fn shares_add_up_to_the_mean_and_inside_of_a_task_no_other_class_counts() {
        // Probabilities 1/4 and 3/4 inside of the first task, 1/2, 1/4, 1/4 inside of the second.
        let row = [0f32, 3f32.ln(), 2f32.ln(), 0.0, 0.0];
        let logits = Tensor::new(&[row, row, row], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[1u32, 2, 0], &Device::Cpu).unwrap();
        let values = |inside| -> Vec<f32> {
            let shares = two().shares(&logits, &labels, inside).unwrap();
            shares.iter().map(|(_, s)| s.to_scalar().unwrap()).collect()
        };
        let near = |got: &[f32], want: [f32; 2]| {
            let gaps = got.iter().zip(want).map(|(g, w)| (g - w).abs());
            assert!(gaps.fold(0.0, f32::max) < 1e-6, "{got:?} {want:?}");
        };
        let first = -(0.75f32.ln() + 0.25f32.ln()) / 3.0;
        near(&values(true), [first, 2f32.ln() / 3.0]);
        // Among all: 8 is the sum of 1, 3, 2, 1 and 1.
        let first = -((3f32 / 8.0).ln() + (1f32 / 8.0).ln()) / 3.0;
        near(&values(false), [first, 4f32.ln() / 3.0]);
        // A task without pictures.
        let one = Tensor::new(&[0u32, 0, 1], &Device::Cpu).unwrap();
        assert_eq!(
            two().shares(&logits, &one, true).unwrap()[1]
                .1
                .to_scalar::<f32>()
                .unwrap(),
            0.0
        );
    }
}
