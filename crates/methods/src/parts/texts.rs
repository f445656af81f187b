//! Text features of classes, averaged over hand-written templates. `K` classes, `E` joint width.

use candle_core::{Result, Tensor};
use clip::{Clip, model::unit};

/// Sum over `templates` of what `of` makes of the classes' features `[K, E]` under each.
fn sum(
    clip: &Clip,
    names: &[String],
    templates: &[&str],
    of: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for template in templates {
        let texts: Vec<String> = names.iter().map(|n| template.replace("{}", n)).collect();
        let features = of(&clip.encode_texts(&texts)?)?;
        sum = Some(match sum {
            None => features,
            Some(sum) => (sum + features)?,
        });
    }
    Ok(sum.expect("there is at least one template"))
}

/// `[K, E]`: features of unit length, averaged, and brought to unit length again. `templates` are not empty.
///
/// # Errors
/// Those of the text tower.
pub fn averaged(clip: &Clip, names: &[String], templates: &[&str]) -> Result<Tensor> {
    unit(&sum(clip, names, templates, unit)?)
}

/// `[K, E]`: mean of the features as they leave the tower. `templates` are not empty.
///
/// # Errors
/// Those of the text tower.
pub fn mean(clip: &Clip, names: &[String], templates: &[&str]) -> Result<Tensor> {
    sum(clip, names, templates, |features| Ok(features.clone()))? / templates.len() as f64
}
