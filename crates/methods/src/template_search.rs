//! Template search: the hand-written prompt itself is what is looked for, among templates whose words are changed and mixed,
//! by how well plain zero-shot CLIP tells the few shots apart with each.
//!
//! Liu et al., *Language Models as Black-Box Optimizers for Vision-Language Models*, <https://arxiv.org/abs/2309.05950>, have
//! a language model propose templates from the best and the worst so far. Here proposals are drawn from the words of
//! hand-written templates, so that nothing else is needed; with `proposer` a command proposes them, a language model or not.
//! The loop is theirs: a pool that is never forgotten, each round adding what was not in it. No code was followed.
//!
//! What it costs is how many candidates are scored, `budget`: of each the texts of all classes, of the pictures nothing.
//!
//! The best of many on a few pictures is worse than it looks. What is found is scored on the few validation pictures, which
//! the search never sees, and both accuracies are told.
//!
//! `K` classes, `E` joint width, `N` shots.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use clip::{Clip, model::unit};
use serde_json::{Value, json};

use crate::parts::losses::cross_entropy;
use crate::parts::phrases::{Chance, changed, is_template, words};
use crate::parts::{shots, templates};
use crate::{
    Backbones, Classes, Config, Cosine, Cost, Entry, Group, ImageCost, Init, Labelled, Method,
    Needs, Predict, Question, Replay, Round, Search, Settings, Shots, Support, TextCost,
    Validation,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "template-search",
    title: "Template search",
    source: "https://arxiv.org/abs/2309.05950",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(SearchConfig::read(s)),
    checkpoint: None,
    replay: Replay::None,
};

#[derive(Clone, Debug)]
struct SearchConfig {
    budget: usize,
    per_round: usize,
    keep: usize,
    start: usize,
    by_loss: bool,
    held_out: bool,
    proposer: Vec<String>,
    proposer_seconds: u64,
}

impl SearchConfig {
    fn read(s: &mut Settings) -> Self {
        Self {
            budget: s.count("budget", 400, 1..=1_000_000, "candidates scored in all"),
            per_round: s.count("per_round", 20, 1..=10_000, "candidates of a round"),
            keep: s.count(
                "keep",
                3,
                1..=1000,
                "best templates that new ones are made of; with `proposer`, how many of the best and the worst it is shown",
            ),
            start: s.count(
                "start",
                40,
                1..=200,
                "hand-written templates scored first: the dataset's own, CLIP's for ImageNet, LASP's",
            ),
            by_loss: s.choice(
                "by",
                &["accuracy", "loss"],
                "what is best on the shots: accuracy (of equals the smaller loss), or mean cross entropy",
            ) == "loss",
            held_out: s.flag(
                "held_out",
                true,
                "score what is found on the few validation pictures, which the search never sees",
            ),
            proposer: s.texts(
                "proposer",
                "command, with its arguments, that proposes templates in the place of chance: it reads one line of JSON and writes one for each template",
            ),
            proposer_seconds: s.count(
                "proposer_seconds",
                300,
                1..=86_400,
                "longest that `proposer` may take for a round",
            ) as u64,
        }
    }
}

impl Config for SearchConfig {
    fn needs(&self) -> Needs {
        Needs {
            support: Some(Support::Plain),
            validation: match self.held_out {
                true => Validation::Few,
                false => Validation::None,
            },
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost {
                forward: 1.0,
                ..TextCost::FROZEN
            },
            image: ImageCost::FROZEN,
        }
    }

    fn search(&self) -> Option<Search> {
        Some(Search {
            rounds: self.budget.div_ceil(self.per_round),
            candidates: self.budget,
        })
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(TemplateSearch {
            clip: on.clip.clone(),
            classes: classes.clone(),
            config: self.clone(),
            pool: Vec::new(),
            best: None,
            scored: 0,
            proposals: Vec::new(),
            refused: 0,
        }))
    }
}

/// A template that was scored on the shots.
#[derive(Clone, Debug, PartialEq)]
struct Scored {
    template: String,
    /// Shots told right.
    hits: usize,
    /// Mean cross entropy over them.
    loss: f64,
}

/// What is found, with what is told of it.
#[derive(Clone, Debug)]
struct Found {
    scored: Scored,
    /// Of so many shots.
    shots: usize,
    /// Right and all of the validation pictures; none where they are not looked at.
    held_out: Option<(usize, usize)>,
}

struct TemplateSearch {
    clip: Arc<Clip>,
    classes: Classes,
    config: SearchConfig,
    /// In the order they were scored; empty behind the search.
    pool: Vec<Scored>,
    best: Option<Found>,
    /// Candidates scored.
    scored: usize,
    /// Of a proposer, for the next round; and how many of its lines were no use.
    proposals: Vec<String>,
    refused: usize,
}

/// Names of the state.
const TEMPLATE: &str = "template";
const FIGURES: &str = "figures";
const POOL: &str = "pool.templates";
const SCORES: &str = "pool.scores";

/// A text as a tensor of the state.
fn text_kept(text: &str) -> Tensor {
    let kept = Tensor::new(text.as_bytes(), &Device::Cpu);
    kept.expect("a list of bytes is a tensor")
}

fn text_of(name: &str, kept: &Tensor) -> Result<String> {
    let bytes: Vec<u8> = kept.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => bail!("{name} is no text"),
    }
}

impl TemplateSearch {
    /// Whether the tower has every word of `template`, and room for it with every name.
    fn reads(&self, template: &str) -> bool {
        self.clip.text_plan(&self.classes.texts(template)).is_ok()
    }

    /// `[K, E]`, unit length.
    fn texts(&self, template: &str) -> Result<Tensor> {
        unit(&self.clip.encode_texts(&self.classes.texts(template))?)
    }

    /// How many of the pictures with unit features `features` are told right, and the mean cross entropy.
    fn score(&self, features: &Tensor, labels: &[u32], texts: &Tensor) -> Result<(usize, f64)> {
        let logits = self.clip.logits(features, texts)?;
        let right = shots::hits(&logits, labels)?;
        let labels = Tensor::new(labels, logits.device())?;
        let loss = cross_entropy(&logits, &labels)?.to_scalar::<f32>()?;
        Ok((right, f64::from(loss)))
    }

    /// Whether `a` is better than `b`, which was scored before it.
    fn is_better(&self, a: &Scored, b: &Scored) -> bool {
        match self.config.by_loss {
            true => a.loss < b.loss,
            false => a.hits > b.hits || a.hits == b.hits && a.loss < b.loss,
        }
    }

    /// The pool, the best first; of equals the first that was scored.
    fn ranked(&self) -> Vec<&Scored> {
        let mut all: Vec<&Scored> = Vec::new();
        for one in &self.pool {
            let place = all.partition_point(|other| !self.is_better(one, other));
            all.insert(place, one);
        }
        all
    }

    /// Hand-written templates that are scored first, as far as the tower can read them: the pool begins with these.
    fn start(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let own = std::iter::once(self.classes.template.as_str());
        let listed = std::iter::once(templates::PHOTO)
            .chain(templates::imagenet())
            .chain(templates::lasp());
        for template in own.chain(listed) {
            if all.len() < self.config.start
                && !all.iter().any(|t| t == template)
                && self.reads(template)
            {
                all.push(template.to_owned());
            }
        }
        all
    }

    /// Candidates of the next round, none of them in the pool: what is left of the hand-written ones, then what is proposed.
    fn candidates(&mut self, want: usize, seed: u64) -> Vec<String> {
        let begins = self.start();
        let proposals = std::mem::take(&mut self.proposals);
        if let Some(left) = begins
            .get(self.pool.len()..)
            .filter(|left| !left.is_empty())
        {
            return left.iter().take(want).cloned().collect();
        }
        if !self.config.proposer.is_empty() {
            return proposals.into_iter().take(want).collect();
        }
        let ranked = self.ranked();
        let best = ranked.iter().take(self.config.keep);
        let best: Vec<&str> = best.map(|s| s.template.as_str()).collect();
        let mut words = words(begins.iter().map(String::as_str));
        words.retain(|word| self.clip.text_plan(std::slice::from_ref(word)).is_ok());
        let (mut chance, mut new) = (Chance::seeded(seed), Vec::new());
        // Where chance finds nothing new for long, there is nothing.
        for _ in 0..100 * want {
            if new.len() == want {
                break;
            }
            if let Some(template) = changed(&best, &words, &mut chance)
                && self.is_new(&template, &new)
            {
                new.push(template);
            }
        }
        new
    }

    fn is_new(&self, template: &String, among: &[String]) -> bool {
        let known = self.pool.iter().any(|s| s.template == *template);
        !known && !among.contains(template) && self.reads(template)
    }

    /// What a line of a proposer proposes.
    fn proposed(line: &str) -> std::result::Result<String, &'static str> {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return Err("is no JSON");
        };
        let Some(template) = line.get("template").and_then(Value::as_str) else {
            return Err("has no text called `template`");
        };
        match is_template(template.trim()) {
            true => Ok(template.trim().to_owned()),
            false => Err("must have {} once, in the place of the name"),
        }
    }
}

/// Share of `of` in percent.
fn percent(right: usize, of: usize) -> f64 {
    100.0 * right as f64 / of.max(1) as f64
}

/// Unit features and labels of pictures that are all there.
fn seen<'a>(clip: &Clip, of: &'a Labelled) -> Result<(Tensor, &'a [u32])> {
    Ok((shots::unit_features(clip, of)?, &of.labels))
}

impl Method for TemplateSearch {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let list = |values: Vec<f64>| {
            let count = values.len();
            Tensor::from_vec(values, count, &Device::Cpu).expect("a list of numbers is a tensor")
        };
        let mut all = Vec::new();
        if let Some(best) = &self.best {
            let (right, of) = best.held_out.unwrap_or_default();
            let figures = [
                best.scored.hits,
                best.shots,
                right,
                of,
                self.scored,
                self.refused,
            ];
            let mut figures: Vec<f64> = figures.map(|n| n as f64).to_vec();
            figures.push(best.scored.loss);
            all.push((TEMPLATE.to_owned(), text_kept(&best.scored.template)));
            all.push((FIGURES.to_owned(), list(figures)));
        }
        if !self.pool.is_empty() {
            let lines: Vec<&str> = self.pool.iter().map(|s| s.template.as_str()).collect();
            let scores = self.pool.iter().flat_map(|s| [s.hits as f64, s.loss]);
            all.push((POOL.to_owned(), text_kept(&lines.join("\n"))));
            all.push((SCORES.to_owned(), list(scores.collect())));
        }
        all
    }

    fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let text = |name: &str| state.get(name).map(|t| text_of(name, t)).transpose();
        let list = |name: &str| match state.get(name) {
            Some(t) => t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>(),
            None => Ok(Vec::new()),
        };
        let figures = list(FIGURES)?;
        if let (Some(template), [hits, shots, right, of, scored, refused, loss]) =
            (text(TEMPLATE)?, &figures[..])
        {
            let held_out = (*of > 0.0).then_some((*right as usize, *of as usize));
            (self.scored, self.refused) = (*scored as usize, *refused as usize);
            self.best = Some(Found {
                scored: Scored {
                    template,
                    hits: *hits as usize,
                    loss: *loss,
                },
                shots: *shots as usize,
                held_out,
            });
        }
        let (lines, scores) = (text(POOL)?.unwrap_or_default(), list(SCORES)?);
        let lines: Vec<&str> = lines.lines().collect();
        if 2 * lines.len() != scores.len() {
            bail!(
                "{POOL} are {} and {SCORES} {} numbers",
                lines.len(),
                scores.len()
            );
        }
        let pool = lines.iter().zip(scores.chunks(2));
        self.pool = pool
            .map(|(template, score)| Scored {
                template: (*template).to_owned(),
                hits: score[0] as usize,
                loss: score[1],
            })
            .collect();
        Ok(())
    }

    fn search(&mut self, given: &Shots, seed: u64) -> Result<Round> {
        if self.pool.is_empty() {
            // A stage of its own.
            (self.best, self.scored, self.refused) = (None, 0, 0);
        }
        let (features, labels) = seen(&self.clip, &given.train)?;
        let left = self.config.budget.saturating_sub(self.scored);
        let candidates = self.candidates(self.config.per_round.min(left), seed);
        if candidates.is_empty() && self.pool.is_empty() {
            bail!("the text tower can read none of the hand-written templates with these classes");
        }
        let scored = candidates.len();
        for template in candidates {
            let texts = self.texts(&template)?;
            let (hits, loss) = self.score(&features, labels, &texts)?;
            self.pool.push(Scored {
                template,
                hits,
                loss,
            });
        }
        self.scored += scored;
        let best = self.ranked()[0].clone();
        if self.best.as_ref().is_none_or(|found| found.scored != best) {
            let held_out = match self.config.held_out {
                false => None,
                true => {
                    let pictures = shots::validation(given)?;
                    let (features, labels) = seen(&self.clip, pictures)?;
                    let texts = self.texts(&best.template)?;
                    Some((self.score(&features, labels, &texts)?.0, labels.len()))
                }
            };
            self.best = Some(Found {
                scored: best.clone(),
                shots: labels.len(),
                held_out,
            });
        }
        Ok(Round {
            scored,
            loss: match self.config.by_loss {
                true => best.loss,
                false => 1.0 - best.hits as f64 / labels.len() as f64,
            },
        })
    }

    fn asks(&self) -> Option<Question> {
        if self.config.proposer.is_empty() || self.pool.len() < self.start().len() {
            return None;
        }
        let ranked = self.ranked();
        let of = labels_in(&self.best);
        let told = |s: &&Scored| json!({ "template": s.template, "accuracy": percent(s.hits, of), "loss": s.loss });
        let best: Vec<Value> = ranked.iter().take(self.config.keep).map(told).collect();
        let worst: Vec<Value> = ranked
            .iter()
            .rev()
            .take(self.config.keep)
            .map(told)
            .collect();
        let left = self.config.budget.saturating_sub(self.scored);
        Some(Question {
            command: self.config.proposer.clone(),
            request: json!({
                "round": self.scored.div_ceil(self.config.per_round),
                "want": self.config.per_round.min(left),
                "dataset": self.classes.dataset,
                "classes": self.classes.names,
                "best": best,
                "worst": worst,
            }),
            seconds: self.config.proposer_seconds,
        })
    }

    fn answered(&mut self, lines: &[String]) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (line, number) in lines.iter().zip(1..) {
            match Self::proposed(line) {
                Err(why) => wrong.push(format!("line {number} {why}")),
                Ok(template) if !self.reads(&template) => {
                    wrong.push(format!("line {number}: {template:?} has words that this CLIP does not have, or too many"));
                }
                // One that was scored before is no mistake, and no candidate.
                Ok(template) if !self.is_new(&template, &self.proposals) => {}
                Ok(template) => self.proposals.push(template),
            }
        }
        self.refused += wrong.len();
        Ok(wrong)
    }

    fn finish(&mut self) -> Result<()> {
        self.pool.clear();
        self.proposals.clear();
        Ok(())
    }

    fn found(&self) -> Vec<(&'static str, Value)> {
        let Some(best) = &self.best else {
            return Vec::new();
        };
        let mut all = vec![
            ("template", best.scored.template.clone().into()),
            (
                "accuracy on the shots",
                percent(best.scored.hits, best.shots).into(),
            ),
            ("loss on the shots", best.scored.loss.into()),
            ("candidates scored", self.scored.into()),
        ];
        if let Some((right, of)) = best.held_out {
            all.push(("accuracy held out", percent(right, of).into()));
            all.push(("pictures held out", of.into()));
        }
        if !self.config.proposer.is_empty() {
            all.push(("lines refused", self.refused.into()));
        }
        all
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.classes = classes.clone();
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        let Some(best) = &self.best else {
            bail!("{}", shots::NOT_YET);
        };
        Ok(Box::new(Cosine {
            clip: &self.clip,
            texts: self.texts(&best.scored.template)?,
        }))
    }
}

/// Shots that the best was scored on.
fn labels_in(best: &Option<Found>) -> usize {
    best.as_ref().map_or(0, |found| found.shots)
}

#[cfg(test)]
mod tests;
