//! What language models wrote about the classes, as features of the text tower. `E` joint width.

use candle_core::{Result, Tensor, bail};
use clip::{Clip, Slot, TextPrompt, Tokenizer, model::unit, tokenizer::CONTEXT};

use crate::replay::Recording;
use crate::{Classes, Descriptions};

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

/// Slots of `text`, of which the first 75 tokens stay, between start and end.
fn cut(text: &str) -> Result<Vec<Slot>> {
    let tokenizer = Tokenizer::shared();
    let ends = tokenizer.sequence("").map_err(candle_core::Error::wrap)?;
    let ids = tokenizer.encode(text);
    let kept = &ids[..ids.len().min(CONTEXT - ends.len())];
    let whole = [&ends[..1], kept, &ends[1..]].concat();
    Ok(whole.into_iter().map(Slot::Token).collect())
}

/// Unit features `[n, E]` of `texts`, at least one; what is too long is cut.
///
/// # Errors
/// Those of the text tower.
pub(crate) fn cut_features(clip: &Clip, texts: &[String]) -> Result<Tensor> {
    const AT_ONCE: usize = 256;
    let of_piece = |texts: &[String]| {
        let sequences = texts.iter().map(|t| cut(t)).collect::<Result<_>>()?;
        let plan = clip.text.plan(&[sequences])?;
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
        let long = cut(&format!("cat{}", " dog".repeat(90))).unwrap();
        let short = cut("cat dog").unwrap();
        assert_eq!((long.len(), short.len()), (77, 4));
        assert_eq!((long[0], long[1], long[76]), (short[0], short[1], short[3]));
        assert!(long[2..76].iter().all(|s| *s == short[2]));
        assert_eq!(cut(&"dog ".repeat(75)).unwrap().len(), 77);
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
