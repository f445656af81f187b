//! `promptbed words`: what learned context vectors are close to.

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_core::{D, DType, Tensor};

use super::Done;
use crate::backbone;
use crate::run::prompts::{Given, Saved};

/// Print the vocabulary words nearest to each learned context vector, with Euclidean distances, as the CoOp paper
/// (arXiv 2109.01134, its interpretation table) does.
///
/// Where words themselves were searched for (`template-search`), what was found.
///
/// Example: promptbed words --prompts results/quick/prompts/coop-drawn-pets-16shot-seed1-....safetensors
#[derive(clap::Args)]
pub struct Words {
    /// Prompts.
    #[arg(long)]
    prompts: PathBuf,
    /// CLIP weights: a file, a folder or a name of `model list` [default: the CLIP that ships].
    #[arg(long)]
    model: Option<PathBuf>,
    #[command(flatten)]
    told: backbone::Told,
    /// Words a vector.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// CSV instead of a Markdown table.
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    given: Given,
}

impl Words {
    pub fn run(self) -> Result<Done> {
        let saved = Saved::read(&self.prompts, &self.given)?;
        let weights = backbone::weights(backbone::SHIPPED, self.model.as_deref(), &self.told)?;
        saved.check_backbone(&weights.identity()?)?;
        let table = weights.tensor("token_embedding.weight")?; // [N, W]
        let width = table.dim(1)?;
        let word = |row: usize| {
            let id = weights
                .token_rows
                .as_ref()
                .map_or(row as u32, |ids| ids[row]);
            weights.wording.word(id)
        };
        let squares = table.sqr()?.sum(D::Minus1)?; // [N]
        let mut lines = Vec::new();
        for (name, shape) in saved.shapes() {
            // Vectors that stand among words: other widths are another tower's.
            let is_context = name.ends_with("ctx")
                || name.contains("compound_prompts_text")
                || name.contains("VPT_shallow");
            if !is_context || shape.last() != Some(&width) {
                continue;
            }
            let vectors = saved.tensor(name)?.to_dtype(DType::F32)?; // [.., W]
            let vectors = vectors.reshape(((), width))?; // [n, W]
            let distances = (vectors
                .sqr()?
                .sum_keepdim(D::Minus1)?
                .broadcast_add(&squares)?
                - (vectors.matmul(&table.t()?)? * 2.0)?)?;
            let distances: Vec<Vec<f32>> = Tensor::to_vec2(&distances)?;
            for (i, row) in distances.iter().enumerate() {
                let mut order: Vec<usize> = (0..row.len()).collect();
                order.sort_by(|a, b| row[*a].total_cmp(&row[*b]));
                let nearest = order
                    .iter()
                    .take(usize::from(self.top))
                    .map(|r| (word(*r), row[*r].max(0.0).sqrt()));
                lines.push((name.to_owned(), i + 1, nearest.collect::<Vec<_>>()));
            }
        }
        if lines.is_empty()
            && let Some(found) = saved.found()
        {
            // Words already: what a search over templates tells.
            if self.csv {
                crate::out!("found,value");
            } else {
                crate::out!("| found | |\n|---|---|");
            }
            for (name, value) in found {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                if self.csv {
                    crate::out!("{name},\"{}\"", value.replace('"', "\"\""));
                } else {
                    crate::out!("| {name} | {} |", value.replace('|', "\\|"));
                }
            }
            return Ok(Done::All);
        }
        if lines.is_empty() {
            bail!(
                "{}: {} has no learned vectors among the words of the text input",
                self.prompts.display(),
                saved.algorithm
            );
        }
        if self.csv {
            crate::out!("tensor,vector,rank,word,distance");
            for (name, vector, nearest) in &lines {
                for (rank, (word, distance)) in nearest.iter().enumerate() {
                    let word = word.replace('"', "\"\"");
                    crate::out!("{name},{vector},{},\"{word}\",{distance:.4}", rank + 1);
                }
            }
        } else {
            crate::out!("| tensor | vector | nearest words (distance) |\n|---|---:|---|");
            for (name, vector, nearest) in &lines {
                let words: Vec<String> = nearest
                    .iter()
                    .map(|(w, d)| format!("{} ({d:.4})", w.replace('|', "\\|")))
                    .collect();
                crate::out!("| {name} | {vector} | {} |", words.join(", "));
            }
        }
        Ok(Done::All)
    }
}
