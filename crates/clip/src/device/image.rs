//! The image tower on the card.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor, bail};
use gpu::{Attention, Buffer, Gather, Gpu, Lane, Matrix, Norm, Precision, Puts, Tape, Value, Want};

use super::block::{CardBlock, Chosen, Rows, changed, norm};
use super::pass::{self, Pass};
use super::text::{puts, shares};
use super::{Placed, numbers, wrap};
use crate::VisionTransformer;
use crate::changes::BlockChange;
use crate::image::rows_at;
use crate::ops::Put;
use crate::prompts::ImagePrompt;

/// Rows that a frozen tower takes through its blocks at once: 64 pictures of 197 tokens fill a large card, and their
/// hidden rows take some 200 MB.
const ROWS_AT_ONCE: usize = 12_800;

/// A frozen image tower's weights on the card.
#[derive(Debug)]
pub(crate) struct CardImage {
    gpu: Gpu,
    pub(crate) precision: Precision,
    patches: Arc<Matrix>,
    class: Value,
    positions: Value,
    norm_before: Option<Norm>,
    blocks: Vec<CardBlock>,
    norm_after: Norm,
    projection: Arc<Matrix>,
    /// Lists of rows that were needed before: by batch, length, first row and how many.
    puts: Mutex<HashMap<[usize; 4], Arc<Puts>>>,
    entering: Mutex<HashMap<[usize; 4], Arc<Gather>>>,
    classes: Mutex<HashMap<(usize, usize), Arc<Chosen>>>,
}

impl CardImage {
    pub(super) fn new(tower: &VisionTransformer, gpu: &Gpu, precision: Precision) -> Result<Self> {
        let lane = gpu.lane().map_err(wrap)?;
        let lane = &*lane;
        let matrix = |m: &Tensor, turned, bias: Option<&Tensor>| -> Result<Arc<Matrix>> {
            let (rows, columns) = m.dims2()?;
            let sizes = if turned {
                [columns, rows]
            } else {
                [rows, columns]
            };
            let (values, bias) = (numbers(m)?, bias.map(numbers).transpose()?);
            let made = Matrix::new(lane, &values, sizes, turned, bias.as_deref(), precision);
            made.map(Arc::new).map_err(wrap)
        };
        let constant = |t: &Tensor, width: usize| -> Result<Value> {
            let values = numbers(t)?;
            let buffer: Buffer = lane.upload_shared(&values).map_err(wrap)?;
            let rows = values.len() / width;
            Ok(Value::constant(&Arc::new(buffer), rows, width))
        };
        let (width, epsilon) = (tower.width(), tower.epsilon());
        let before = tower.norm_before.as_ref();
        let before = before.map(|(gain, bias)| norm(lane, gain, bias, epsilon));
        let blocks = tower.blocks.iter();
        let blocks = blocks.map(|b| CardBlock::new(b, lane, precision));
        let (gain, bias) = &tower.norm_after;
        Ok(Self {
            gpu: gpu.clone(),
            precision,
            patches: matrix(&tower.patch_embedding, false, tower.patch_bias.as_ref())?,
            class: constant(&tower.class_embedding, width)?,
            positions: constant(&tower.positional_embedding, width)?,
            norm_before: before.transpose()?,
            blocks: blocks.collect::<Result<_>>()?,
            norm_after: norm(lane, gain, bias, epsilon)?,
            projection: matrix(&tower.projection, true, None)?,
            puts: Mutex::default(),
            entering: Mutex::default(),
            classes: Mutex::default(),
        })
    }

    /// Where `count` rows from `first` on of each picture are.
    fn puts(&self, lane: &Lane, [batch, length, first, count]: [usize; 4]) -> Result<Arc<Puts>> {
        if first + count > length {
            bail!("rows at {first} to {} of {length} tokens", first + count);
        }
        let places = || rows_at(batch, length, first, count).to_vec();
        let key = [batch, length, first, count];
        puts(&self.puts, key, count, lane, batch * length, places)
    }

    /// Pictures with `count` rows more, the first at `at`.
    fn entering(&self, lane: &Lane, key: [usize; 4]) -> Result<Arc<Gather>> {
        let mut known = self.entering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gather) = known.get(&key) {
            return Ok(gather.clone());
        }
        let [batch, length, at, count] = key;
        let from = (0..batch).flat_map(|b| {
            (0..length + count).map(move |i| match i {
                i if i < at => Some(b * length + i),
                i if i < at + count => None,
                i => Some(b * length + i - count),
            })
        });
        let made = Gather::new(lane, batch * length, &from.collect::<Vec<_>>()).map_err(wrap)?;
        Ok(known.entry(key).or_insert(Arc::new(made)).clone())
    }

    /// The class row of each picture.
    fn classes(&self, lane: &Lane, batch: usize, length: usize) -> Result<Arc<Chosen>> {
        let mut known = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chosen) = known.get(&(batch, length)) {
            return Ok(chosen.clone());
        }
        let rows: Vec<usize> = (0..batch).map(|b| b * length).collect();
        let from: Vec<Option<usize>> = rows.iter().copied().map(Some).collect();
        let gather = Gather::new(lane, batch * length, &from).map_err(wrap)?;
        let made = Chosen {
            gather: Arc::new(gather),
            rows,
        };
        let made = known.entry((batch, length)).or_insert(Arc::new(made));
        Ok(made.clone())
    }
}

/// What of a picture's rows comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Features of the class token, `[B, E]`.
    Feature,
    /// Last hidden states of all tokens, `[B T, W]`.
    Hidden,
}

/// Pictures through the tower.
struct ImagePass {
    grid: usize,
    patch: usize,
    card: Arc<CardImage>,
    pixels: Tensor,
    /// Pictures of a piece.
    at_once: usize,
    prompt: ImagePrompt,
    read: Read,
}

impl VisionTransformer {
    /// As [`VisionTransformer::encode`] or [`VisionTransformer::hidden`], on the card.
    pub(crate) fn encode_on_card(
        &self,
        card: &Arc<CardImage>,
        pixels: &Tensor,
        prompt: &ImagePrompt,
        read: Read,
    ) -> Result<Tensor> {
        let (batch, grid) = (pixels.dim(0)?, self.grid());
        let side = grid * self.patch_size;
        if pixels.dims() != [batch, 3, side, side] {
            bail!(
                "this backbone takes pixels [B, 3, {side}, {side}], got {:?}",
                pixels.dims()
            );
        }
        prompt.check(self.depth(), self.width())?;
        if prompt.changes.norm_before.is_some() && self.norm_before.is_none() {
            bail!("this image tower (timm's) has no norm before its blocks");
        }
        let count = prompt.count()?;
        // One graph for all, and one draw of dropout.
        let whole = prompt.is_tracked() || prompt.changes.drops();
        let at_once = match whole {
            true => batch,
            false => ROWS_AT_ONCE / (1 + grid * grid + count),
        };
        let pass = ImagePass {
            grid,
            patch: self.patch_size,
            card: card.clone(),
            pixels: pixels.contiguous()?,
            at_once: at_once.max(1),
            prompt: prompt.map(&mut |t| Ok(t.detach()))?,
            read,
        };
        pass::all(pass, &prompt.tensors())
    }
}

impl Pass for ImagePass {
    fn place(&self) -> (&Gpu, Precision) {
        (&self.card.gpu, self.card.precision)
    }

    fn prompt(&self) -> Vec<Tensor> {
        self.prompt.tensors()
    }

    fn pieces(&self) -> usize {
        self.pixels.dim(0).unwrap_or(0).div_ceil(self.at_once)
    }

    fn kept(&self) -> usize {
        self.pieces()
    }

    fn run(&self, piece: usize, tape: &mut Tape, placed: &Placed) -> Result<Value> {
        let (card, prompt) = (&self.card, &self.prompt);
        let lane = tape.lane().clone();
        let first = piece * self.at_once;
        let batch = self.at_once.min(self.pixels.dim(0)? - first);
        let pixels = numbers(&self.pixels.narrow(0, first, batch)?)?;
        let patches = tape.patches(&pixels, [batch, self.grid, self.patch]);
        let patches = patches.map_err(wrap)?;
        drop(pixels);
        let rows = tape.linear(&patches, &card.patches, None).map_err(wrap)?;
        drop(patches);
        let tokens = prompt.tokens.as_ref().map(|t| placed.of(t)).transpose()?;
        let count = tokens.map_or(0, |t| t.rows);
        let embedded = tape.embed_pictures(&rows, Some(&card.class), &card.positions, batch, count);
        let mut x = embedded.map_err(wrap)?;
        drop(rows);
        let mut length = 1 + self.grid * self.grid + count;
        let instead = shares(Put::Instead);
        if let Some(tokens) = tokens.filter(|t| t.rows > 0) {
            let behind = card.puts(&lane, [batch, length, length - count, count])?;
            x = tape.put(&x, tokens, &behind, instead).map_err(wrap)?;
        }
        if let Some(norm) = &card.norm_before {
            let norm = changed(norm, prompt.changes.norm_before.as_ref(), placed)?;
            x = tape.norm(&x, &norm, Want::Stream).map_err(wrap)?;
        }
        let plain = BlockChange::default();
        for (i, block) in card.blocks.iter().enumerate() {
            if i > 0
                && count > 0
                && let Some(deep) = prompt.deep.get(i - 1)
            {
                let behind = card.puts(&lane, [batch, length, length - count, count])?;
                let deep = placed.of(deep)?;
                x = tape.put(&x, deep, &behind, instead).map_err(wrap)?;
            }
            for rows in prompt.rows.iter().filter(|r| r.block == i) {
                let (at, own) = (rows.position, placed.of(&rows.rows)?);
                if rows.how.put().is_none() {
                    if at == 0 || at > length - count {
                        let last = length - count;
                        bail!("rows enter at position 1 to {last} of {length} tokens, not at {at}");
                    }
                    let entering = card.entering(&lane, [batch, length, at, own.rows])?;
                    x = tape.gather(&x, &entering).map_err(wrap)?;
                    length += own.rows;
                }
                let places = card.puts(&lane, [batch, length, at, own.rows])?;
                let put = shares(rows.how.put().unwrap_or(Put::Instead));
                x = tape.put(&x, own, &places, put).map_err(wrap)?;
            }
            let last = self.read == Read::Feature && i + 1 == card.blocks.len();
            let rows = Rows {
                attention: Arc::new(Attention::full(batch, length, last)),
                chosen: match last {
                    true => Some(card.classes(&lane, batch, length)?),
                    false => None,
                },
            };
            let change = prompt.changes.blocks.get(&i).unwrap_or(&plain);
            x = block.forward(tape, x, &rows, change, placed)?;
        }
        if self.read == Read::Hidden {
            return Ok(x);
        }
        let norm = changed(&card.norm_after, prompt.changes.norm_after.as_ref(), placed)?;
        let x = tape.norm(&x, &norm, Want::Product).map_err(wrap)?;
        tape.linear(&x, &card.projection, None).map_err(wrap)
    }
}
