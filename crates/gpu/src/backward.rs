//! The way back through a pass.

use crate::attention::Kind;
use crate::error::{Error, Result};
use crate::kernels::Attended;
use crate::memory::Buffer;
use crate::parts::Value;
use crate::products::{Mat, Plus};
use crate::tape::{Node, Tape};

/// A gradient `[rows, width]`: in float32, in the numbers of products, or both.
struct Gradient {
    rows: usize,
    width: usize,
    full: Option<Buffer>,
    input: Option<Buffer>,
}

impl Gradient {
    fn count(&self) -> usize {
        self.rows * self.width
    }

    fn shape(&self) -> (usize, usize) {
        (self.rows, self.width)
    }
}

/// Gradients that wait for the operations that made their values.
struct Back<'a> {
    tape: &'a Tape,
    slots: Vec<Option<Gradient>>,
}

impl Back<'_> {
    fn new_full(&self, (rows, width): (usize, usize)) -> Result<Gradient> {
        Ok(Gradient {
            rows,
            width,
            full: Some(self.tape.lane.floats(rows * width)?),
            input: None,
        })
    }

    /// Its float32 numbers.
    fn full(&self, g: &mut Gradient) -> Result<u64> {
        if let Some(full) = &g.full {
            return Ok(full.address);
        }
        let lane = &self.tape.lane;
        let full = lane.floats(g.count())?;
        if let Some(input) = &g.input {
            lane.widen(true, input.address, full.address, g.count())?;
        }
        Ok(g.full.insert(full).address)
    }

    /// Its numbers for products, and whether they are half.
    fn input(&self, g: &mut Gradient, half: bool) -> Result<u64> {
        if !half {
            return self.full(g);
        }
        if let Some(input) = &g.input {
            return Ok(input.address);
        }
        let full = self.full(g)?;
        let lane = &self.tape.lane;
        let input = lane.take(2 * g.count())?;
        lane.to_input(true, full, input.address, 1.0, g.count())?;
        Ok(g.input.insert(input).address)
    }

    /// `g` more for `slot`.
    fn give(&mut self, slot: Option<usize>, mut g: Gradient) -> Result<()> {
        let Some(slot) = slot else { return Ok(()) };
        let Some(mut there) = self.slots[slot].take() else {
            self.slots[slot] = Some(g);
            return Ok(());
        };
        let (to, from) = (self.full(&mut there)?, self.full(&mut g)?);
        there.input = None;
        self.tape
            .lane
            .add(self.tape.is_half(), to, from, None, there.count())?;
        self.slots[slot] = Some(there);
        Ok(())
    }

    /// What is there for `slot`, to be added to; or room for it. And whether it is to be added to.
    fn target(&mut self, slot: usize, shape: (usize, usize)) -> Result<(Gradient, bool)> {
        match self.slots[slot].take() {
            Some(mut there) => {
                self.full(&mut there)?;
                there.input = None;
                Ok((there, true))
            }
            None => Ok((self.new_full(shape)?, false)),
        }
    }

    /// Room for what products will read of a gradient that an operation writes anyway.
    fn copy(&self, g: &mut Gradient) -> Result<Option<u64>> {
        if !self.tape.is_half() {
            return Ok(None);
        }
        let input = self.tape.lane.take(2 * g.count())?;
        Ok(Some(g.input.insert(input).address))
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let (tape, half) = (self.tape, self.tape.is_half());
        let lane = &tape.lane;
        let slot = node.out();
        let Some(mut g) = self.slots[slot].take() else {
            return Ok(());
        };
        match node {
            Node::Norm { x, norm, stats, .. } => {
                let dy = self.full(&mut g)?;
                let weights = [&norm.gain, &norm.bias];
                if weights.iter().any(|v| v.is_tracked()) {
                    let mut made = [self.new_full((1, x.width))?, self.new_full((1, x.width))?];
                    let mut addresses = [0; 2];
                    for (address, g) in addresses.iter_mut().zip(&mut made) {
                        *address = self.full(g)?;
                    }
                    let [dgain, dbias] = addresses;
                    let of = (x.address, stats.address);
                    lane.norm_weights_back(of, dy, (dgain, dbias), x.shape())?;
                    for (value, g) in weights.iter().zip(made) {
                        self.give(value.slot, g)?;
                    }
                }
                if let Some(slot) = x.slot {
                    let (mut dx, add) = self.target(slot, x.shape())?;
                    let (to, copy) = (self.full(&mut dx)?, self.copy(&mut dx)?);
                    let of = (x.address, norm.gain.address, stats.address);
                    lane.norm_back(half, of, dy, to, copy, add, x.shape())?;
                    self.slots[slot] = Some(dx);
                }
            }
            Node::Linear {
                x,
                matrix,
                residual,
                ..
            } => {
                if let Some(slot) = *x {
                    let (mut dx, add) = self.target(slot, (g.rows, matrix.inner))?;
                    let dy = self.input(&mut g, matrix.is_half())?;
                    let out = Mat::new(self.full(&mut dx)?, g.rows, matrix.inner);
                    let plus = Plus {
                        bias: None,
                        matrix: add.then_some(out.address),
                    };
                    let left = Mat::new(dy, g.rows, g.width);
                    let (right, of_half) = (matrix.mat(), matrix.is_half());
                    lane.multiply(out, left, right, plus, of_half, tape.precision)?;
                    self.slots[slot] = Some(dx);
                }
                if residual.is_some() {
                    self.full(&mut g)?;
                    self.give(*residual, g)?;
                }
            }
            Node::Activate { h, kind, .. } => {
                let dy = self.full(&mut g)?;
                let kind = *kind as usize;
                if half {
                    let to = match self.copy(&mut g)? {
                        Some(to) => to,
                        None => dy,
                    };
                    lane.activate_back(true, h.address, dy, to, g.count(), kind)?;
                    // What is left is in the numbers of products alone.
                    g.full = None;
                } else {
                    lane.activate_back(false, h.address, dy, dy, g.count(), kind)?;
                    g.input = None;
                }
                self.give(h.slot, g)?;
            }
            Node::Attend {
                qkv,
                attention,
                heads,
                attended,
                logsum,
                ..
            } => {
                let saved = Attended {
                    qkv: qkv.address,
                    out: attended.address,
                    logsum: logsum.address,
                    dout: self.full(&mut g)?,
                };
                let mut made = Gradient {
                    rows: qkv.rows,
                    width: qkv.width,
                    full: None,
                    input: None,
                };
                let to = match self.copy(&mut made)? {
                    Some(to) => to,
                    None => made.full.insert(lane.floats(qkv.count())?).address,
                };
                match &attention.kind {
                    Kind::Full(of) => {
                        lane.attend_full_back(tape.precision, &saved, *of, to, *heads)?;
                    }
                    Kind::Paths(of, _) => lane.attend_path_back(half, &saved, of, to, *heads)?,
                }
                self.give(qkv.slot, made)?;
            }
            Node::Put {
                x,
                prompt,
                puts,
                kept,
                share,
                ..
            } => {
                let dy = self.full(&mut g)?;
                let mut dprompt = match prompt {
                    Some(_) => Some(self.new_full((puts.sources, g.width))?),
                    None => None,
                };
                let to = dprompt.as_mut().map(|d| self.full(d)).transpose()?;
                let copy = g.input.as_ref().map(|input| input.address);
                let lists = (puts.offset.address, puts.list.address);
                let by = (*kept, *share);
                let sizes = (puts.sources, g.width);
                lane.put_rows_back(half, dy, copy, lists, to, by, sizes)?;
                if let Some(dprompt) = dprompt {
                    self.give(*prompt, dprompt)?;
                }
                self.give(*x, g)?;
            }
            Node::Gather { x, gather, .. } => {
                let dy = self.full(&mut g)?;
                let (mut dx, add) = self.target(*x, (gather.rows, g.width))?;
                let (to, copy) = (self.full(&mut dx)?, self.copy(&mut dx)?);
                let lists = (gather.offset.address, gather.list.address);
                let shape = dx.shape();
                lane.gather_back(half, dy, lists, to, copy, add, shape)?;
                self.slots[*x] = Some(dx);
            }
            Node::LowRank {
                into,
                x,
                masked,
                kept,
                middle,
                down,
                up,
                scale,
                column,
                ..
            } => {
                let dy = Mat {
                    address: self.full(&mut g)? + 4 * *column as u64,
                    rows: g.rows,
                    columns: up.rows,
                    stride: g.width,
                    turned: false,
                };
                let mut dmiddle = self.new_full(middle.shape())?;
                let address = self.full(&mut dmiddle)?;
                let at = Mat::new(address, middle.rows, middle.width);
                tape.float_product(at, dy, up.mat(), false)?;
                // The scale in the narrow rows, on both ways.
                lane.to_input(false, address, address, *scale, dmiddle.count())?;
                if up.is_tracked() {
                    let scaled = tape.times(middle, *scale)?;
                    let mut d = self.new_full(up.shape())?;
                    let out = Mat::new(self.full(&mut d)?, up.rows, up.width);
                    tape.float_product(out, dy.t(), scaled.mat(), false)?;
                    self.give(up.slot, d)?;
                }
                if down.is_tracked() {
                    let mut d = self.new_full(down.shape())?;
                    let out = Mat::new(self.full(&mut d)?, down.rows, down.width);
                    tape.float_product(out, at.t(), masked.mat(), false)?;
                    self.give(down.slot, d)?;
                }
                if x.is_tracked() {
                    let mut d = self.new_full(x.shape())?;
                    let address = self.full(&mut d)?;
                    let out = Mat::new(address, x.rows, x.width);
                    tape.float_product(out, at, down.mat(), false)?;
                    if let Some((kept, factor)) = kept {
                        lane.times(address, kept.address, address, *factor, x.count())?;
                    }
                    self.give(x.slot, d)?;
                }
                self.give(*into, g)?;
            }
            Node::Sum { a, b, .. } => {
                if a.is_some() && b.is_some() {
                    let mut twin = self.new_full(g.shape())?;
                    let (to, from) = (self.full(&mut twin)?, self.full(&mut g)?);
                    lane.copy(to, from, g.count())?;
                    self.give(*b, twin)?;
                    self.give(*a, g)?;
                } else {
                    self.give(a.or(*b), g)?;
                }
            }
            Node::Host {
                x, inputs, back, ..
            } => {
                let dy = lane.download(self.full(&mut g)?, g.count())?;
                let (dx, of_inputs) = back(&dy)?;
                let rows = g.rows.max(1);
                let mut give = |slot: Option<usize>, values: &[f32], rows: usize| -> Result<()> {
                    if slot.is_none() {
                        return Ok(());
                    }
                    let made = Gradient {
                        rows,
                        width: values.len() / rows,
                        full: Some(lane.upload(values)?),
                        input: None,
                    };
                    self.give(slot, made)
                };
                give(*x, &dx, rows)?;
                for (slot, values) in inputs.iter().zip(&of_inputs) {
                    give(*slot, values, 1)?;
                }
            }
        }
        Ok(())
    }
}

impl Node {
    fn out(&self) -> usize {
        match self {
            Self::Norm { out, .. }
            | Self::Linear { out, .. }
            | Self::Activate { out, .. }
            | Self::Attend { out, .. }
            | Self::Put { out, .. }
            | Self::Gather { out, .. }
            | Self::LowRank { out, .. }
            | Self::Sum { out, .. }
            | Self::Host { out, .. } => *out,
        }
    }
}

impl Tape {
    /// The gradient of all inputs, flat as they were given, of the sum of `out` times `upstream`. Can be asked for again.
    ///
    /// # Errors
    /// When `upstream` has another size, the card's memory is used up, or a branch on the processor fails.
    pub fn backward(&self, out: &Value, upstream: &[f32]) -> Result<Vec<f32>> {
        if upstream.len() != out.count() {
            return Err(Error::Shape(format!(
                "a gradient of {} numbers for rows {:?}",
                upstream.len(),
                out.shape()
            )));
        }
        self.lane.gpu.enter()?;
        let gradients = self.lane.floats(self.flat)?;
        self.lane.clear(&gradients)?;
        let mut back = Back {
            tape: self,
            slots: (0..self.slots).map(|_| None).collect(),
        };
        // Half numbers have few exponents; a power of two changes no other digit.
        let scale = if self.is_half() { scale(upstream) } else { 1.0 };
        let scaled: Vec<f32> = upstream.iter().map(|g| g * scale).collect();
        let first = Gradient {
            rows: out.rows,
            width: out.width,
            full: Some(self.lane.upload(&scaled)?),
            input: None,
        };
        back.give(out.slot, first)?;
        for node in self.nodes.iter().rev() {
            back.node(node)?;
        }
        for &(slot, place, (rows, width)) in &self.leaves {
            if let Some(mut g) = back.slots[slot].take() {
                let from = back.full(&mut g)?;
                let to = gradients.address + 4 * place as u64;
                self.lane.copy(to, from, (rows * width).min(g.count()))?;
            }
        }
        let mut flat = self.lane.download(gradients.address, self.flat)?;
        if scale != 1.0 {
            flat.iter_mut().for_each(|g| *g /= scale);
        }
        Ok(flat)
    }
}

/// A power of two that brings the largest number to about 1.
fn scale(upstream: &[f32]) -> f32 {
    let largest = upstream.iter().fold(0f32, |m, g| m.max(g.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return 1.0;
    }
    // Within what float32 holds exactly, whatever comes.
    2f32.powi(-(largest.log2().floor() as i32).clamp(-100, 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_scaled_by_powers_of_two_only() {
        for largest in [1e-9f32, 3e-5, 0.4, 1.0, 77.0] {
            let scale = scale(&[largest / 3.0, -largest]);
            assert_eq!(scale.log2().fract(), 0.0);
            assert!((1.0..2.0).contains(&(largest * scale)));
        }
        assert_eq!(scale(&[0.0]), 1.0);
        assert_eq!(scale(&[]), 1.0);
    }
}
