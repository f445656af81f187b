//! Recordings of what released code does to pictures, compared pixel for pixel.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use datasets::Rgb;
use datasets::cpython::Random;
use datasets::views::randaugment::{OPERATIONS, Operation, place};
use methods::replay::{Comparison, Recording};
use serde_json::Value;

/// `[height, width, 3]` bytes as a picture.
fn picture(tensor: &Tensor) -> Result<Rgb> {
    let (height, width, channels) = tensor.dims3()?;
    if channels != 3 {
        bail!("a picture is [height, width, 3], not {:?}", tensor.dims());
    }
    Ok(Rgb::from_raw(
        width,
        height,
        tensor.flatten_all()?.to_vec1()?,
    ))
}

/// How many pixels of two pictures differ; all, where their sizes do.
fn differing(ours: &Rgb, theirs: &Rgb) -> usize {
    if (ours.width, ours.height) != (theirs.width, theirs.height) {
        return theirs.width * theirs.height;
    }
    let pixels = ours.data.chunks(3).zip(theirs.data.chunks(3));
    pixels.filter(|(a, b)| a != b).count()
}

fn list<'a>(of: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    let list = of.get(key).and_then(Value::as_array);
    list.with_context(|| format!("{key}: must be a list"))
}

fn operation(name: &Value) -> Result<Operation> {
    let found = OPERATIONS.iter().find(|(_, own, _)| name == own);
    Ok(found.with_context(|| format!("{name} is no operation"))?.0)
}

/// RandAugment: the operations and their ranges, which of them Python's generator draws, and every recorded case of some
/// in a row, with their recorded values, signs and centres.
pub(super) fn randaugment(r: &Recording) -> Result<Comparison> {
    let mut c = Comparison::default();
    let ours = OPERATIONS.map(|(_, name, (low, high))| (name.to_owned(), low, high));
    let theirs: Vec<(String, f64, f64)> =
        serde_json::from_value(Value::Array(list(&r.json, "operations")?.clone()))
            .context("operations: must be [[name, low, high]]")?;
    c.choice("operations", ours.to_vec(), theirs);

    let seed = r.field("seed").and_then(Value::as_u64);
    let mut random = Random::seed(seed.context("seed: must be a whole number")?);
    for (number, drawn) in list(&r.json, "choices")?.iter().enumerate() {
        let drawn = drawn
            .as_array()
            .context("choices: must be lists of names")?;
        let ours = drawn.iter().map(|_| OPERATIONS[place(random.random())].1);
        let ours: Vec<Value> = ours.map(Value::from).collect();
        c.choice(&format!("choices[{number}]"), &ours, drawn);
    }

    let source = picture(r.get("image")?)?;
    for case in list(&r.json, "cases")? {
        let name = case.get("name").and_then(Value::as_str);
        let name = name.context("cases: each must have a name")?;
        let centre = case.get("cutout_centre").cloned();
        let centre = centre.map_or(Ok((0.0, 0.0)), serde_json::from_value);
        let centre = centre.with_context(|| format!("{name}: cutout_centre: must be [x, y]"))?;
        let mut ours = source.clone();
        for step in list(case, "ops")? {
            let (named, value, is_negated): (Value, f64, bool) =
                serde_json::from_value(step.clone())
                    .with_context(|| format!("{name}: ops: must be [[name, value, negated]]"))?;
            let value = if is_negated { -value } else { value };
            ours = operation(&named)?.apply(&ours, value, centre);
        }
        let off = differing(&ours, &picture(r.get(name)?)?);
        c.choice(&format!("{name}: differing pixels"), off, 0);
        c.steps += 1;
    }
    Ok(c)
}
