//! Text features of classes, averaged over hand-written templates. `K` classes, `E` joint width.

use candle_core::{Result, Tensor, bail};
use clip::{Clip, model::unit};

/// Sum over templates of what `of` (`what` tells which) makes of the features `[K, E]` of the classes' texts under each.
/// Trials of the same classes share it.
pub(crate) fn sum(
    clip: &Clip,
    texts: &[Vec<String>],
    (what, of): (&str, fn(&Tensor) -> Result<Tensor>),
) -> Result<Tensor> {
    let what = format!("sum of {what} features under {} templates", texts.len());
    clip.once(&what, &texts.concat(), || {
        let mut sum: Option<Tensor> = None;
        for texts in texts {
            let features = of(&clip.encode_texts(texts)?)?;
            sum = Some(match sum {
                None => features,
                Some(sum) => (sum + features)?,
            });
        }
        match sum {
            Some(sum) => Ok(sum),
            None => bail!("there is no prompt to describe the classes with"),
        }
    })
}

/// Features of unit length.
pub(crate) const UNIT: (&str, fn(&Tensor) -> Result<Tensor>) = ("unit", unit);
/// Features as they leave the tower.
pub(crate) const PLAIN: (&str, fn(&Tensor) -> Result<Tensor>) = ("plain", |f| Ok(f.clone()));

fn filled(names: &[String], templates: &[&str]) -> Vec<Vec<String>> {
    let fill = |template: &&str| names.iter().map(|n| template.replace("{}", n)).collect();
    templates.iter().map(fill).collect()
}

/// `[K, E]`: features of unit length, averaged, and brought to unit length again. `templates` are not empty.
///
/// # Errors
/// Those of the text tower.
pub fn averaged(clip: &Clip, names: &[String], templates: &[&str]) -> Result<Tensor> {
    unit(&sum(clip, &filled(names, templates), UNIT)?)
}

/// `[K, E]`: mean of the features as they leave the tower. `templates` are not empty.
///
/// # Errors
/// Those of the text tower.
pub fn mean(clip: &Clip, names: &[String], templates: &[&str]) -> Result<Tensor> {
    sum(clip, &filled(names, templates), PLAIN)? / templates.len() as f64
}
