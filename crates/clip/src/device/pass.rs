//! A tower's passes on the card as one operation on the flat prompt.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use gpu::{Gpu, Precision, Tape, Value};

use super::{Placed, numbers, rows, wrap};
use crate::ops::{values, with_values};

/// One tower's work: pieces of it, each a pass.
pub(super) trait Pass: Send + Sync {
    /// Where.
    fn place(&self) -> (&Gpu, Precision);
    /// The prompt's tensors, detached, in the order in which they lie flat.
    fn prompt(&self) -> Vec<Tensor>;
    /// How many passes there are.
    fn pieces(&self) -> usize;
    /// How many of the first of them keep their notes until the gradient is asked for.
    fn kept(&self) -> usize;
    /// The rows that come out of one.
    fn run(&self, piece: usize, tape: &mut Tape, placed: &Placed) -> Result<Value>;
}

/// Rows of all passes, one piece after the other; differentiable in `tensors`, which are those of [`Pass::prompt`], if
/// one of them is tracked.
pub(super) fn all<P: Pass + 'static>(pass: P, tensors: &[Tensor]) -> Result<Tensor> {
    let flat = tensors.iter().map(Tensor::flatten_all);
    let flat = flat.collect::<Result<Vec<_>>>()?;
    if tensors.iter().any(Tensor::track_op) {
        let passes = Passes {
            pass,
            notes: Mutex::default(),
        };
        return Tensor::cat(&flat, 0)?.contiguous()?.apply_op1(passes);
    }
    let mut values = Vec::new();
    for tensor in &flat {
        values.extend(numbers(tensor)?);
    }
    let (mut out, mut width) = (Vec::new(), 0);
    for piece in 0..pass.pieces() {
        let (tape, value) = run(&pass, piece, &values, false)?;
        out.extend(tape.read(&value).map_err(wrap)?);
        width = value.width;
    }
    if out.is_empty() {
        bail!("there is nothing to encode");
    }
    let count = out.len() / width;
    Tensor::from_vec(out, (count, width), &Device::Cpu)
}

fn run(pass: &impl Pass, piece: usize, flat: &[f32], keep: bool) -> Result<(Tape, Value)> {
    let (gpu, precision) = pass.place();
    let mut tape = Tape::new(gpu, precision, keep).map_err(wrap)?;
    let tensors = pass.prompt();
    let shapes = tensors.iter().map(rows).collect::<Result<Vec<_>>>()?;
    let placed = tape.inputs(flat, &shapes).map_err(wrap)?;
    let ids = tensors.iter().map(Tensor::id);
    let placed = Placed(ids.zip(placed).collect());
    let out = pass.run(piece, &mut tape, &placed)?;
    Ok((tape, out))
}

struct Passes<P> {
    pass: P,
    /// Of the pieces that keep theirs.
    notes: Mutex<Vec<Option<(Tape, Value)>>>,
}

impl<P: Pass> CustomOp1 for Passes<P> {
    fn name(&self) -> &'static str {
        "on-the-card"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let flat = values(storage, layout)?;
        let (mut out, mut width, mut notes) = (Vec::new(), 0, Vec::new());
        for piece in 0..self.pass.pieces() {
            let keep = piece < self.pass.kept();
            let (tape, value) = run(&self.pass, piece, flat, keep)?;
            out.extend(tape.read(&value).map_err(wrap)?);
            width = value.width;
            if keep {
                notes.push(Some((tape, value)));
            }
        }
        if out.is_empty() {
            bail!("there is nothing to encode");
        }
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
        let shape = Shape::from((out.len() / width, width));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, flat: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let prompt = numbers(flat)?;
        let (mut at, mut sum) = (0, vec![0f32; prompt.len()]);
        let mut add = |tape: &Tape, value: &Value| -> Result<()> {
            let upstream = grad.narrow(0, at, value.rows)?.detach();
            at += value.rows;
            let gradient = with_values(&upstream, |upstream| {
                tape.backward(value, upstream).map_err(wrap)
            })?;
            sum.iter_mut().zip(&gradient).for_each(|(s, g)| *s += g);
            Ok(())
        };
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        // Where all pieces kept their notes, they stay for a second backward pass (ProGrad makes two).
        let all = self.pass.kept() >= self.pass.pieces();
        for piece in 0..self.pass.pieces() {
            match notes.get_mut(piece) {
                Some(Some((tape, value))) => {
                    add(tape, value)?;
                    if !all {
                        notes[piece] = None;
                    }
                }
                _ => {
                    let (tape, value) = run(&self.pass, piece, &prompt, true)?;
                    add(&tape, &value)?;
                }
            }
        }
        Tensor::from_vec(sum, flat.shape(), flat.device()).map(Some)
    }
}
