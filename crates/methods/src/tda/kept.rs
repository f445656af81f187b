//! What a stream has seen, as tensors and back, so that a test that was stopped goes on as if it had not been.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

use super::{Seen, Shelves, Stream};

/// Of each picture on the shelves, in their order, one row of each tensor; a class's shelf is told by the class.
fn rows(name: &str, shelves: &Shelves) -> Result<Vec<(String, Tensor)>> {
    let seen: Vec<&Seen> = shelves.iter().flatten().map(|s| &**s).collect();
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    let each = |of: fn(&Seen) -> &[f32]| -> Result<Tensor> {
        let rows: Vec<&[f32]> = seen.iter().map(|s| of(s)).collect();
        Tensor::from_vec(rows.concat(), (seen.len(), rows[0].len()), &Device::Cpu)
    };
    let whole = |of: fn(&Seen) -> usize| {
        let values: Vec<i64> = seen.iter().map(|s| of(s) as i64).collect();
        Tensor::new(values, &Device::Cpu)
    };
    let entropies: Vec<f32> = seen.iter().map(|s| s.entropy).collect();
    Ok(vec![
        (format!("{name}.number"), whole(|s| s.number)?),
        (format!("{name}.class"), whole(|s| s.class)?),
        (format!("{name}.feature"), each(|s| &s.feature)?),
        (format!("{name}.logits"), each(|s| &s.logits)?),
        (format!("{name}.p"), each(|s| &s.p)?),
        (
            format!("{name}.entropy"),
            Tensor::new(entropies, &Device::Cpu)?,
        ),
    ])
}

/// The shelves that [`rows`] wrote, and how many tensors they took.
fn shelves(
    name: &str,
    state: &BTreeMap<String, Tensor>,
    classes: usize,
    width: usize,
) -> Result<(Shelves, usize)> {
    let mut shelves = vec![Vec::new(); classes];
    if !state.contains_key(&format!("{name}.number")) {
        return Ok((shelves, 0));
    }
    let get = |part: &str| match state.get(&format!("{name}.{part}")) {
        Some(tensor) => Ok(tensor),
        None => bail!("the state of the stream has no {name}.{part}"),
    };
    let numbers: Vec<i64> = get("number")?.to_vec1()?;
    let own: Vec<i64> = get("class")?.to_vec1()?;
    let features: Vec<Vec<f32>> = get("feature")?.to_vec2()?;
    let logits: Vec<Vec<f32>> = get("logits")?.to_vec2()?;
    let p: Vec<Vec<f32>> = get("p")?.to_vec2()?;
    let entropies: Vec<f32> = get("entropy")?.to_vec1()?;
    let as_many = [own.len(), features.len(), logits.len(), p.len()];
    let whole = |rows: &[Vec<f32>], of: usize| rows.iter().all(|r| r.len() == of);
    if as_many != [numbers.len(); 4]
        || entropies.len() != numbers.len()
        || !(whole(&features, width) && whole(&logits, classes) && whole(&p, classes))
    {
        bail!("the state of the stream does not fit {classes} classes and features of {width}");
    }
    let rows = features.into_iter().zip(logits).zip(p).zip(entropies);
    for ((number, class), (((feature, logits), p), entropy)) in
        numbers.into_iter().zip(own).zip(rows)
    {
        let Some(shelf) = usize::try_from(class).ok().and_then(|c| shelves.get_mut(c)) else {
            bail!("the state of the stream has a picture of class {class} of {classes}");
        };
        shelf.push(Arc::new(Seen {
            number: number as usize,
            feature,
            logits,
            p,
            entropy,
            class: class as usize,
        }));
    }
    Ok((shelves, 6))
}

impl Stream {
    /// Everything that it remembers.
    pub(super) fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let count = Tensor::new(&[self.count as i64], &Device::Cpu)?;
        let mut all = vec![("count".to_owned(), count)];
        all.extend(rows("positive", &self.positive)?);
        all.extend(rows("negative", &self.negative)?);
        Ok(all)
    }

    /// One that remembers what [`Stream::state`] gave.
    pub(super) fn of_state(
        state: &BTreeMap<String, Tensor>,
        classes: usize,
        width: usize,
    ) -> Result<Self> {
        let count = match state.get("count").map(Tensor::to_vec1::<i64>).transpose()? {
            Some(count) if count.len() == 1 => count[0] as usize,
            _ => bail!("the state of the stream has no count"),
        };
        let (positive, from) = shelves("positive", state, classes, width)?;
        let (negative, and) = shelves("negative", state, classes, width)?;
        if 1 + from + and != state.len() {
            bail!("the state is not that of a stream");
        }
        Ok(Self {
            count,
            positive,
            negative,
        })
    }
}
