//! What learning several datasets at once takes, against learning each by itself.

use super::{Section, Spending};
use crate::protocols::Shows;
use crate::show::looks::look;
use crate::start;

/// Headings of [`TaskCost::row`].
pub(crate) const HEADS: [&str; 8] = [
    "Method",
    "Learned",
    "Shots",
    "Tasks",
    "Trained numbers",
    "Trained numbers a task",
    "Steps",
    "Steps a task",
];

/// What the tasks of a section take one method.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskCost {
    /// Name of the method.
    pub method: String,
    /// Whether in one training.
    pub is_at_once: bool,
    /// Shots.
    pub shots: usize,
    /// Tasks.
    pub tasks: usize,
    /// Trained numbers of all tasks, in the mean over trials.
    pub parameters: f64,
    /// Optimizer steps of all tasks.
    pub steps: f64,
}

impl TaskCost {
    /// Its cells under [`HEADS`].
    pub fn row(&self) -> [String; 8] {
        let whole = |n: f64| format!("{n:.0}");
        let tasks = self.tasks as f64;
        [
            self.method.clone(),
            if self.is_at_once {
                "all at once"
            } else {
                "each by itself"
            }
            .to_owned(),
            self.shots.to_string(),
            self.tasks.to_string(),
            whole(self.parameters),
            whole(self.parameters / tasks),
            whole(self.steps),
            whole(self.steps / tasks),
        ]
    }
}

impl Section {
    /// What tasks take each method that is trained, all at once and where it was run so each by itself.
    pub fn task_costs(&self) -> Vec<TaskCost> {
        let Some(start) = self
            .source
            .as_deref()
            .filter(|_| self.protocol.shows == Shows::Tasks)
        else {
            return Vec::new();
        };
        let tasks = start::count(start);
        let sections = [Some(self), self.beside.as_deref()].into_iter().flatten();
        let mut all = Vec::new();
        for (at, section) in sections.enumerate() {
            let times = if at == 0 { 1.0 } else { tasks as f64 };
            for method in section.methods.iter().filter(|m| m.is_trained) {
                let of = |((label, shots), spent): (&(String, usize), &Spending)| {
                    (*label == method.label).then(|| TaskCost {
                        method: look(method).name,
                        is_at_once: at == 0,
                        shots: *shots,
                        tasks,
                        parameters: spent.mean_parameters * times,
                        steps: spent.steps * times,
                    })
                };
                all.extend(section.spending.iter().filter_map(of));
            }
        }
        all
    }
}
