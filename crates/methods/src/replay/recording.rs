//! What was recorded: parameters, names and tensors, read with their fields named in every complaint.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Result, Tensor, bail};

use crate::classes::Classes;
use crate::method::{Batch, Images};
use crate::optimizer::{Optimizer, Rule};

/// A recorded run.
pub struct Recording {
    /// `trace.json`.
    pub json: serde_json::Value,
    /// `trace.safetensors`.
    pub tensors: HashMap<String, Tensor>,
    /// Catalogue id of the dataset it names, or the name itself.
    pub dataset: String,
    /// That dataset's hand-written prompt.
    pub template: String,
}

fn toml_of(value: &serde_json::Value) -> Result<toml::Value> {
    toml::Value::try_from(value).map_err(candle_core::Error::wrap)
}

impl Recording {
    /// A top-level field.
    pub fn field(&self, key: &str) -> Option<&serde_json::Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// A parameter of the run.
    pub fn parameter(&self, key: &str) -> Option<&serde_json::Value> {
        self.json.get("params")?.get(key).filter(|v| !v.is_null())
    }

    /// A parameter that must be a number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, key: &str) -> Result<f64> {
        match self.parameter(key).and_then(serde_json::Value::as_f64) {
            Some(number) => Ok(number),
            None => bail!("params.{key}: must be a number"),
        }
    }

    /// A parameter that must be a count.
    ///
    /// # Errors
    /// When it is none.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.parameter(key).and_then(serde_json::Value::as_u64) {
            Some(number) => Ok(number as usize),
            None => bail!("params.{key}: must be a whole number"),
        }
    }

    /// Words of a parameter, `_` for a space; none where it is not there.
    pub fn words(&self, key: &str) -> String {
        let text = self.parameter(key).and_then(serde_json::Value::as_str);
        text.unwrap_or_default().replace('_', " ")
    }

    /// A number anywhere in the record, by its JSON pointer.
    pub fn at(&self, pointer: &str) -> Option<f64> {
        self.json.pointer(pointer)?.as_f64()
    }

    /// A top-level list of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        let list = self.field(key)?.as_array()?;
        list.iter().map(|v| v.as_str().map(str::to_owned)).collect()
    }

    /// A top-level list as a setting's value; nothing where it is empty or not there.
    pub fn list(&self, key: &str) -> Option<toml::Value> {
        let list = self.field(key)?;
        toml_of(list)
            .ok()
            .filter(|v| v.as_array().is_some_and(|a| !a.is_empty()))
    }

    /// A table of the parameters that are there, under this program's names: `(theirs, ours)`.
    ///
    /// # Errors
    /// A value that no setting can have.
    pub fn settings(&self, names: &[(&str, &str)]) -> Result<toml::Table> {
        let mut table = toml::Table::new();
        for (theirs, ours) in names {
            if let Some(value) = self.parameter(theirs) {
                table.insert((*ours).to_owned(), toml_of(value)?);
            }
        }
        Ok(table)
    }

    /// Learning rate of each step; a shorter list goes on with its last.
    ///
    /// # Errors
    /// When there is none.
    pub fn rate(&self, step: usize) -> Result<f64> {
        let rates = self.field("lr").and_then(serde_json::Value::as_array);
        let rate = rates.and_then(|r| r.get(step).or(r.last())?.as_f64());
        match rate {
            Some(rate) => Ok(rate),
            None => bail!("lr: must be a list of numbers, one a step"),
        }
    }

    /// A recorded tensor.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("tensor {name} is missing"),
        }
    }

    /// Values of a recorded tensor, flat; nothing where it is not there.
    ///
    /// # Errors
    /// Those of candle.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        match self.tensors.get(name) {
            None => Ok(None),
            Some(t) => Ok(Some(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)),
        }
    }

    /// Recorded tensors whose names begin with `prefix`, which is taken off. `gpa.weights` is no parameter.
    pub fn named(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let own =
            |(k, v): (&String, &Tensor)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()));
        let all = self.tensors.iter().filter_map(own);
        all.filter(|(name, _)| name != "weights").collect()
    }

    /// Recorded tensors that training starts from, those that it leaves alone included.
    pub fn initial(&self) -> BTreeMap<String, Tensor> {
        let mut all = self.named("init.");
        all.extend(self.named("frozen."));
        all
    }

    /// The same after training.
    pub fn last(&self) -> BTreeMap<String, Tensor> {
        let mut all = self.named("final.");
        all.extend(self.named("frozen."));
        all
    }

    /// The classes called `names`, of the recording's dataset.
    pub fn classes_of(&self, names: &[String]) -> Classes {
        Classes::new(names, &self.dataset, &self.template)
    }

    /// The classes of the run; of several tasks, each a dataset of that name.
    ///
    /// # Errors
    /// When they are not a list of names, or a list for each task.
    pub fn classes(&self) -> Result<Classes> {
        let Some(tasks) = self.texts("tasknames") else {
            return match self.texts("classnames") {
                Some(names) => Ok(self.classes_of(&names)),
                None => bail!("classnames: must be a list of names"),
            };
        };
        let lists = self.field("classnames").cloned().unwrap_or_default();
        let lists: Vec<Vec<String>> = serde_json::from_value(lists).unwrap_or_default();
        if lists.len() != tasks.len() {
            bail!("classnames: must be a list of names for each task");
        }
        let each = lists.iter().zip(&tasks);
        let each = each.map(|(names, task)| Classes::new(names, task, &self.template));
        Ok(Classes::joined(&each.collect::<Vec<_>>()))
    }

    /// The pictures of step `number` with their labels and tasks, and the second view where there is one.
    ///
    /// # Errors
    /// Pictures or labels that are not there.
    pub fn batch(&self, number: usize) -> Result<Batch> {
        let images = self.get("images")?.get(number)?;
        let labels = match self.tensors.get("labels") {
            Some(labels) => labels.get(number)?.to_dtype(DType::U32)?,
            None => Tensor::zeros(images.dim(0)?, DType::U32, images.device())?,
        };
        let second = self.tensors.get("images2").map(|s| s.get(number));
        let tasks = self.tensors.get("tasks").map(|t| t.get(number));
        let tasks = tasks.transpose()?.map(|t| t.to_dtype(DType::U32));
        Ok(Batch {
            second: second.transpose()?.map(Images::Pixels),
            tasks: tasks.transpose()?,
            seed: number as u64,
            ..Batch::new(Images::Pixels(images), labels)
        })
    }

    /// The update rule it says, or the family's SGD, with as many updates on one gradient as it says.
    ///
    /// # Errors
    /// A rule that is not known.
    pub fn optimizer(&self) -> Result<Optimizer> {
        let times = self.field("optimizer_steps").and_then(|v| v.as_u64());
        let times = times.unwrap_or(1) as usize;
        let Some(said) = self.field("optimizer") else {
            return Ok(Optimizer::new(Rule::Sgd, 0.9, 5e-4).repeating(times));
        };
        let number = |key: &str, or: f64| said.get(key).and_then(|v| v.as_f64()).unwrap_or(or);
        let rule = match said.get("name").and_then(|v| v.as_str()) {
            Some("adam") => Rule::Adam,
            Some("adamw") => Rule::AdamW,
            Some("sgd") => Rule::Sgd,
            _ => bail!("optimizer.name: must be sgd, adam or adamw"),
        };
        let optimizer = Optimizer::new(rule, number("momentum", 0.9), number("weight_decay", 0.0));
        Ok(optimizer.with_epsilon(number("eps", 1e-8)).repeating(times))
    }
}
