//! What language models wrote about the classes, as features of the text tower. `E` joint width.

use candle_core::{Result, Tensor, bail};
use clip::{Clip, Slot, TextPrompt, Wording, model::unit};

use crate::replay::Recording;
use crate::{Classes, Descriptions, Needs, Settings};

/// What describes class `index`; it may be nothing.
///
/// # Errors
/// No descriptions at all, or none of this class.
pub(crate) fn of(classes: &Classes, index: usize) -> Result<&[String]> {
    let Some(all) = &classes.descriptions else {
        bail!(
            "this method reads descriptions of the classes; name a file of them with `descriptions`"
        );
    };
    match all.get(&classes.names[index]) {
        Some(texts) => Ok(texts),
        None => bail!("class {} has no description", classes.names[index]),
    }
}

/// The frozen text classifier that a method starts from or stays near.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Classifier {
    /// The hand-written prompts that the method's authors use.
    #[default]
    Templates,
    /// The mean of each class's descriptions.
    Descriptions,
}

impl Classifier {
    /// Reads which, under one name for all methods that have the choice.
    pub(crate) fn read(s: &mut Settings) -> Self {
        let help = "texts of the frozen classifier that it starts from or stays near: hand-written prompts as published, or the \
                    mean of the classes' `descriptions`";
        let choice = s.choice("classifier", &["templates", "descriptions"], help);
        // Older records do not know it.
        s.leave_out_default("classifier");
        match choice {
            "descriptions" => Self::Descriptions,
            _ => Self::Templates,
        }
    }

    /// What it asks for beside `needs`.
    pub(crate) fn needs(self, needs: Needs) -> Needs {
        Needs {
            descriptions: needs.descriptions || self == Self::Descriptions,
            ..needs
        }
    }

    /// Unit features `[K, E]`; `templates` gives those of hand-written prompts.
    ///
    /// # Errors
    /// Those of `templates`, or of [`mean`].
    pub(crate) fn texts(
        self,
        clip: &Clip,
        classes: &Classes,
        templates: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            Self::Templates => templates(),
            Self::Descriptions => mean(clip, classes),
        }
    }
}

/// Unit features `[K, E]` of what describes the classes: the mean of each one's unit features, made unit again.
///
/// # Errors
/// A class that nothing describes; those of the text tower.
pub(crate) fn mean(clip: &Clip, classes: &Classes) -> Result<Tensor> {
    let of_class = |i: usize| {
        let texts = of(classes, i)?;
        if texts.is_empty() {
            bail!("class {} has no description", classes.names[i]);
        }
        unit(&cut_features(clip, texts)?.mean_keepdim(0)?)
    };
    let rows = (0..classes.len()).map(of_class);
    Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)
}

/// Slots of `text`, of which as many first tokens stay as the tower takes between start and end (of CLIP's 75).
fn cut(wording: &Wording, text: &str) -> Vec<Slot> {
    wording.cut(text).into_iter().map(Slot::Token).collect()
}

/// Unit features `[n, E]` of `texts`, at least one; what is too long is cut.
///
/// # Errors
/// Those of the text tower.
pub(crate) fn cut_features(clip: &Clip, texts: &[String]) -> Result<Tensor> {
    const AT_ONCE: usize = 256;
    let of_piece = |texts: &[String]| {
        let sequences = texts.iter().map(|t| cut(clip.text.wording(), t));
        let plan = clip.text.plan(&sequences.collect::<Vec<_>>())?;
        clip.text.encode(&plan, &TextPrompt::default())
    };
    let pieces = texts.chunks(AT_ONCE).map(of_piece);
    unit(&Tensor::cat(&pieces.collect::<Result<Vec<_>>>()?, 0)?)
}

/// The classes of a recorded run, described by its field `key`, which has them as they are written.
///
/// # Errors
/// When it is not a table of lists of texts.
pub(crate) fn recorded(r: &Recording, key: &str) -> Result<Classes> {
    let read = r.field(key).cloned().map(serde_json::from_value);
    let Some(Ok(all)) = read else {
        bail!("{key}: must be {{ class: [text] }}");
    };
    let all: Descriptions = all;
    let plain = all
        .into_iter()
        .map(|(n, texts)| (n.replace('_', " "), texts));
    Ok(r.classes()?
        .described(Some(plain.collect::<Descriptions>().into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_first_75_tokens_and_the_end() {
        let cut = |text: &str| cut(&Wording::default(), text);
        let long = cut(&format!("cat{}", " dog".repeat(90)));
        let short = cut("cat dog");
        assert_eq!((long.len(), short.len()), (77, 4));
        assert_eq!((long[0], long[1], long[76]), (short[0], short[1], short[3]));
        assert!(long[2..76].iter().all(|s| *s == short[2]));
        assert_eq!(cut(&"dog ".repeat(75)).len(), 77);
    }

    /// Where the setting is not there, nothing else is either: keys of trials stay.
    #[test]
    fn methods_start_from_descriptions_where_they_are_told_to_and_say_nothing_of_it_where_not() {
        let clip = crate::tests::clip();
        let told = "classifier = \"descriptions\"";
        let images = crate::tests::batch().images;
        let by_descriptions = crate::tests::build("cupl", "", &clip);
        let want = crate::tests::logits(by_descriptions.as_ref(), &images);
        for name in [
            "kgcoop",
            "taskres",
            "clip-adapter",
            "tip-adapter",
            "tip-adapter-f",
        ] {
            let entry = crate::find(name).unwrap();
            let plain = entry.read(toml::Table::new());
            assert!(!plain.resolved.contains_key("classifier"), "{name}");
            assert!(!plain.config.needs().descriptions, "{name}");
            let described = entry.read(told.parse().unwrap());
            assert!(described.config.needs().descriptions, "{name}");
            assert_eq!(described.resolved["classifier"], "descriptions");
            let method = crate::tests::build(name, told, &clip);
            assert!(crate::tests::build(name, "", &clip).predictor().is_ok());
            // Before any step the residuals are nothing: it is the classifier.
            if name == "taskres" {
                let got = crate::tests::logits(method.as_ref(), &images);
                let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
                assert!(gap.fold(0.0, f32::max) < 1e-4);
            }
        }
        // Its loss is the distance to them.
        let batch = crate::tests::batch();
        let part = |config: &str| {
            let mut method = crate::tests::build("kgcoop", config, &clip);
            let loss = method.loss(&batch).unwrap();
            loss.parts[1].1.to_scalar::<f32>().unwrap()
        };
        assert!((part(told) - part("")).abs() > 1e-3);
    }

    #[test]
    fn a_class_that_nobody_described_is_named() {
        let plain = Classes::new(&["a_cat".into(), "dog".into()], "any", "{}");
        let message = of(&plain, 0).unwrap_err().to_string();
        assert!(message.contains("`descriptions`"), "{message}");
        let all = [("a cat".to_owned(), vec!["furry".to_owned()])];
        let some = plain.described(Some(Descriptions::from(all).into()));
        assert_eq!(of(&some, 0).unwrap(), ["furry"]);
        let message = of(&some, 1).unwrap_err().to_string();
        assert!(message.contains("class dog"), "{message}");
    }
}
