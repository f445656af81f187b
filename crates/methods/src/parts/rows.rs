//! Classifiers with a learned row for each class: they can be asked about any of the classes they were trained on, in any
//! order, and about no others.

use candle_core::{Result, Tensor, bail};

use crate::Classes;

/// Classes that rows were learned for, and which of them are asked about.
pub struct Rows {
    trained: Classes,
    /// Row of each class asked about; `None`: all, in order.
    asked: Option<Vec<u32>>,
}

impl Rows {
    /// Rows of `trained`, all asked about.
    ///
    /// # Errors
    /// When there are no classes.
    pub fn new(trained: &Classes) -> Result<Self> {
        if trained.is_empty() {
            bail!("there are no classes to learn");
        }
        Ok(Self {
            trained: trained.clone(),
            asked: None,
        })
    }

    /// The classes trained on.
    pub fn trained(&self) -> &Classes {
        &self.trained
    }

    /// Asks about `classes` from now on.
    ///
    /// # Errors
    /// Names that were not trained on, or that two trained classes have.
    pub fn bind(&mut self, classes: &Classes) -> Result<()> {
        if classes.names == self.trained.names {
            self.asked = None;
            return Ok(());
        }
        // Names that two of several datasets share are told apart by the dataset.
        let own = self.trained.places_of(&classes.dataset);
        let own = own.unwrap_or(0..self.trained.len());
        let row = |name: &String| {
            let mut found = (0u32..)
                .zip(&self.trained.names)
                .filter(|(row, n)| own.contains(&(*row as usize)) && *n == name);
            match (found.next(), found.next()) {
                (Some((row, _)), None) => Ok(row),
                (None, _) => bail!(
                    "{name:?} was not trained on: what this method learns belongs to the classes of its training and \
                     cannot be used with others"
                ),
                (Some(_), Some(_)) => bail!(
                    "{name:?} is the name of two classes that were trained on, so it is not clear which is meant"
                ),
            }
        };
        self.asked = Some(classes.names.iter().map(row).collect::<Result<_>>()?);
        Ok(())
    }

    /// Columns of `[B, K]` scores of the trained classes that are asked about.
    ///
    /// # Errors
    /// Those of candle.
    pub fn of(&self, scores: &Tensor) -> Result<Tensor> {
        match &self.asked {
            None => Ok(scores.clone()),
            Some(rows) => scores.index_select(&Tensor::new(&rows[..], scores.device())?, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn trained_classes_are_asked_about_in_any_order_and_others_are_refused() {
        let classes = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            Classes::new(&names, "pets", "{}.")
        };
        let mut rows = Rows::new(&classes(&["cat", "sea_lake", "dog", "dog"])).unwrap();
        let scores = Tensor::new(&[[0f32, 1.0, 2.0, 3.0]], &Device::Cpu).unwrap();
        rows.bind(&classes(&["sea lake", "cat"])).unwrap();
        let two: Vec<Vec<f32>> = rows.of(&scores).unwrap().to_vec2().unwrap();
        assert_eq!(two, [[1.0, 0.0]]);
        let told = |e: candle_core::Error| e.to_string();
        let toys = Classes::new(&["cat".to_owned()], "toys", "{}.");
        let mut both =
            Rows::new(&Classes::joined(&[classes(&["cat", "dog"]), toys.clone()])).unwrap();
        both.bind(&toys).unwrap();
        let scores_of_both = Tensor::new(&[[0f32, 1.0, 2.0]], &Device::Cpu).unwrap();
        let of_toys: Vec<Vec<f32>> = both.of(&scores_of_both).unwrap().to_vec2().unwrap();
        assert_eq!(of_toys, [[2.0]]);
        let refused = told(rows.bind(&classes(&["cow"])).unwrap_err());
        assert!(refused.contains("\"cow\" was not trained on"), "{refused}");
        let refused = told(rows.bind(&classes(&["dog"])).unwrap_err());
        assert!(refused.contains("two classes"), "{refused}");
        rows.bind(&classes(&["cat", "sea_lake", "dog", "dog"]))
            .unwrap();
        assert_eq!(rows.of(&scores).unwrap().dims(), [1, 4]);
        assert!(Rows::new(&classes(&[])).is_err());
    }
}
