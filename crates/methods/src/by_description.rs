//! Classification by description: a picture's score for a class is what its cosines to sentences about it average to.
//!
//! Menon and Vondrick, *Visual Classification via Description from Large Language Models*,
//! <https://arxiv.org/abs/2210.07183>. Follows `load.py` and `main.py` of the authors' `classify_by_description_release`
//! at d1a3d89: phrases are made into sentences about the class. Nothing is learned.
//!
//! Differs: the cosines are scaled as CLIP scales them, which moves confidences and no answer.
//!
//! `K` classes, `n` sentences of a class, `B` images, `E` joint width.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};
use clip::{Clip, model::unit};

use crate::parts::{described, texts};
use crate::replay::{Comparison, Stage};
use crate::{
    Backbones, Classes, Config, Cost, Entry, Group, ImageCost, Images, Init, Method, Needs,
    Predict, Replay, Settings, TextCost,
};

/// Registry entry.
pub const ENTRY: Entry = Entry {
    name: "by-description",
    title: "By description",
    source: "https://arxiv.org/abs/2210.07183",
    group: Group::TrainingFree,
    training: None,
    read: |s| Box::new(Phrases::read(s)),
    checkpoint: None,
    replay: Replay::Own(&["descriptions"], replay),
};

/// How a class's cosines become one score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aggregate {
    Mean,
    Max,
    Sum,
}

/// How phrases become sentences, and these a score.
#[derive(Clone, Debug)]
struct Phrases {
    aggregate: Aggregate,
    /// Whether the name stands before the phrase.
    name_first: bool,
    /// Whether a phrase becomes a clause ("which has ...").
    rewrite: bool,
    before: String,
    between: String,
    after: String,
}

impl Phrases {
    fn read(s: &mut Settings) -> Self {
        let help = "how the cosines to a class's sentences become its score";
        let aggregate = match s.choice("aggregate", &["mean", "max", "sum"], help) {
            "max" => Aggregate::Max,
            "sum" => Aggregate::Sum,
            _ => Aggregate::Mean,
        };
        let help = "where the class name stands; behind the phrase, `before` and `after` are not used, as published";
        let name_first = s.choice("name", &["prepend", "append"], help) == "prepend";
        let help = "make phrases clauses: \"which has ...\", \"which is ...\"";
        let rewrite = s.flag("rewrite", true, help);
        let mut words = |name, default, help| s.words(name, default, help).unwrap_or_default();
        Self {
            aggregate,
            name_first,
            rewrite,
            before: words("before", "", "text before the sentence"),
            between: words("between", ", ", "text between name and phrase"),
            after: words(
                "after",
                "",
                "text behind the sentence (published: a period on ImageNet)",
            ),
        }
    }

    fn sentence(&self, name: &str, phrase: &str) -> String {
        let phrase = match self.rewrite {
            true => clause(phrase),
            false => phrase.to_owned(),
        };
        let (before, between, after) = (&self.before, &self.between, &self.after);
        match self.name_first {
            true => format!("{before}{name}{between}{phrase}{after}"),
            false => format!("{phrase}{between}{name}"),
        }
    }

    /// The sentences of each class; one without phrases has the one that an empty phrase makes.
    fn sentences(&self, classes: &Classes) -> Result<Vec<Vec<String>>> {
        let nothing = [String::new()];
        let of_class = |(i, name): (usize, &String)| {
            let phrases = match described::of(classes, i)? {
                [] => &nothing,
                phrases => phrases,
            };
            Ok(phrases.iter().map(|p| self.sentence(name, p)).collect())
        };
        classes.names.iter().enumerate().map(of_class).collect()
    }

    /// Unit features `[n, E]` of each class's sentences.
    fn encoded(&self, clip: &Clip, classes: &Classes) -> Result<Vec<Tensor>> {
        let sentences = self.sentences(classes)?;
        let of_class = |sentences: &Vec<String>| unit(&clip.encode_texts(sentences)?);
        sentences.iter().map(of_class).collect()
    }
}

/// A phrase as the authors make it a clause. They look for an article by its first letter, so "appears blue" has one.
fn clause(phrase: &str) -> String {
    let starts = |words: &[&str]| words.iter().any(|w| phrase.starts_with(w));
    if starts(&["a", "used"]) {
        format!("which is {phrase}")
    } else if starts(&["has", "often", "typically", "may", "can"]) {
        format!("which {phrase}")
    } else {
        format!("which has {phrase}")
    }
}

impl Config for Phrases {
    fn needs(&self) -> Needs {
        Needs {
            descriptions: true,
            ..Needs::features()
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            text: TextCost::FROZEN,
            image: ImageCost::FROZEN,
        }
    }

    fn build(&self, on: &Backbones, classes: &Classes, _: &mut Init) -> Result<Box<dyn Method>> {
        Ok(Box::new(ByDescription {
            sentences: self.encoded(&on.clip, classes)?,
            clip: on.clip.clone(),
            config: self.clone(),
        }))
    }
}

struct ByDescription {
    clip: Arc<Clip>,
    config: Phrases,
    /// `[n, E]` of each class, unit length.
    sentences: Vec<Tensor>,
}

/// Scores `[B, K]` of unit features `[B, E]`: each class's cosines as one number.
fn aggregated(features: &Tensor, sentences: &[Tensor], how: Aggregate) -> Result<Tensor> {
    let of_class = |sentences: &Tensor| {
        let cosines = features.matmul(&sentences.t()?)?; // [B, n]
        match how {
            Aggregate::Mean => cosines.mean_keepdim(1),
            Aggregate::Max => cosines.max_keepdim(1),
            Aggregate::Sum => cosines.sum_keepdim(1),
        }
    };
    let columns = sentences.iter().map(of_class);
    Tensor::cat(&columns.collect::<Result<Vec<_>>>()?, 1)
}

impl Method for ByDescription {
    fn parameters(&self) -> Vec<(String, Var)> {
        Vec::new()
    }

    fn bind(&mut self, classes: &Classes) -> Result<()> {
        self.sentences = self.config.encoded(&self.clip, classes)?;
        Ok(())
    }

    fn predictor(&self) -> Result<Box<dyn Predict + '_>> {
        Ok(Box::new(Described(self)))
    }
}

struct Described<'a>(&'a ByDescription);

impl Predict for Described<'_> {
    fn logits(&self, images: &Images) -> Result<Tensor> {
        let Self(method) = self;
        let features = images.unit_features(&method.clip)?; // [B, E]
        let scores = aggregated(&features, &method.sentences, method.config.aggregate)?;
        scores * method.clip.scale()
    }
}

/// Sentences, their features, scores by each way to aggregate, and those by bare names, which the authors compare with.
fn replay(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let clip = &stage.clip;
    let mut table = r.settings(&[
        ("category_name_inclusion", "name"),
        ("apply_descriptor_modification", "rewrite"),
        ("before_text", "before"),
        ("between_text", "between"),
        ("after_text", "after"),
    ])?;
    let classes = described::recorded(r, "descriptions")?;
    let mut settings = Settings::new(table.clone());
    let config = Phrases::read(&mut settings);
    let sentences = config.sentences(&classes)?;
    let encoded = config.encoded(clip, &classes)?;
    for (i, name) in classes.written.iter().enumerate() {
        let recorded = r.field("sentences").and_then(|s| s.get(name));
        c.choice(
            &format!("sentences of {name}"),
            Some(&serde_json::Value::from(sentences[i].clone())),
            recorded,
        );
        let name = format!("descriptors.{i}");
        c.values(&name, &encoded[i], r.get(&name)?)?;
    }
    let test = Images::Pixels(r.get("test_images")?.clone());
    for how in ["mean", "max", "sum"] {
        table.insert("aggregate".to_owned(), how.into());
        let method = stage.start(table.clone(), &classes)?;
        let scores = method.predictor()?.logits(&test)?;
        let recorded = r.get(&format!("logits.{how}"))?;
        c.logits(&(scores / clip.scale())?, recorded)?;
    }
    let words = |key| {
        r.parameter(key)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
    };
    let bare = format!(
        "{}{{}}{}",
        words("label_before_text"),
        words("label_after_text")
    );
    let labels = texts::averaged(clip, &classes.names, &[&bare])?;
    c.values("label_encodings", &labels, r.get("label_encodings")?)?;
    let cosines = test.unit_features(clip)?.matmul(&labels.t()?)?;
    c.logits(&cosines, r.get("logits.labels")?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn reading(config: &str) -> Phrases {
        let mut s = Settings::new(config.parse().unwrap());
        let phrases = Phrases::read(&mut s);
        assert_eq!(s.finish().problems, []);
        phrases
    }

    #[test]
    fn a_phrase_becomes_the_clause_that_its_first_word_asks_for() {
        for (phrase, want) in [
            ("a tail", "which is a tail"),
            ("appears blue", "which is appears blue"),
            ("used in war", "which is used in war"),
            ("has fins", "which has fins"),
            ("typically round", "which typically round"),
            ("can swim", "which can swim"),
            ("two wings", "which has two wings"),
            ("", "which has "),
        ] {
            assert_eq!(clause(phrase), want);
        }
    }

    #[test]
    fn the_name_stands_first_or_last_and_last_has_nothing_around_it() {
        let words = "before = \"See: \"\nafter = \".\"\n";
        let first = reading(words).sentence("cat", "fur");
        assert_eq!(first, "See: cat, which has fur.");
        let last = reading(&format!("{words}name = \"append\"")).sentence("cat", "fur");
        assert_eq!(last, "which has fur, cat");
        let plain = reading("rewrite = false\nbetween = \"_with \"").sentence("cat", "fur");
        assert_eq!(plain, "cat with fur");
    }

    #[test]
    fn scores_are_means_of_cosines_not_cosines_to_a_mean() {
        let t = |rows: &[[f32; 2]]| {
            Tensor::new(rows.as_flattened(), &Device::Cpu)
                .and_then(|t| t.reshape(((), 2)))
                .unwrap()
        };
        let sentences = [t(&[[1.0, 0.0], [0.0, 1.0]]), t(&[[0.6, 0.8]])];
        let scores = |how| {
            let scores = aggregated(&t(&[[1.0, 0.0]]), &sentences, how).unwrap();
            scores.to_vec2::<f32>().unwrap()
        };
        // A cosine to the first class's mean would be 0.707, more than the second's.
        assert_eq!(scores(Aggregate::Mean), [[0.5, 0.6]]);
        assert_eq!(scores(Aggregate::Max), [[1.0, 0.6]]);
        assert_eq!(scores(Aggregate::Sum), [[1.0, 0.6]]);
    }
}
