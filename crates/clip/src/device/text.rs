//! The text tower on the card.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{Result, Tensor};
use gpu::{Activation, Attention, Buffer, Gather, Gpu, Lane, Matrix, Norm, Precision, Puts};
use gpu::{Tape, Value, Want};

use super::block::{CardBlock, Chosen, Rows, changed, norm};
use super::pass::{self, Pass};
use super::{Placed, numbers, wrap};
use crate::changes::BlockChange;
use crate::ops::Put;
use crate::prompts::{At, How, TextPrompt};
use crate::text::{Head, Identity, Packed, Part, Pooling, TextTower, of_piece};

/// A frozen text tower's weights on the card.
#[derive(Debug)]
pub(crate) struct CardText {
    gpu: Gpu,
    pub(super) precision: Precision,
    norm_before: Option<Norm>,
    blocks: Vec<CardBlock>,
    norm_after: Option<Norm>,
    /// One matrix, or two with GELU between them.
    head: Vec<Arc<Matrix>>,
}

/// Position and count of each time that rows entered.
type Entered = Vec<(usize, usize)>;

/// What a part of a plan is on the card; made at its first use.
#[derive(Debug)]
pub(crate) struct CardPart {
    base: Option<Arc<Buffer>>,
    /// As the plan has it, and with rows more.
    laid: Mutex<HashMap<Entered, Arc<Laid>>>,
    /// What enters the block at which a prompt begins, once one has; what leaves the last, where one changes none.
    entering: Mutex<Option<Entering>>,
}

/// Rows below which nothing changes, and what they are made of.
#[derive(Debug)]
struct Entering {
    precision: Precision,
    of: Identity,
    values: Arc<Buffer>,
    rows: usize,
}

/// Packed rows on the card.
#[derive(Debug)]
struct Laid {
    packed: Packed,
    all: Arc<Attention>,
    /// Where rows are read.
    read: OnceLock<(Arc<Attention>, Arc<Chosen>)>,
    /// Where the context goes, by how many rows it has; where positions are, by the first and how many.
    context: Mutex<HashMap<usize, Arc<Puts>>>,
    positions: Mutex<HashMap<(usize, usize), Arc<Puts>>>,
    /// Which row of the rows before each was.
    grown: Option<Arc<Gather>>,
}

/// How many of what is there stay, and how many come.
pub(super) fn shares(put: Put) -> [f32; 2] {
    match put {
        Put::Instead => [0.0, 1.0],
        Put::OnTop => [1.0, 1.0],
        Put::Mixed(share) => [(1.0 - share) as f32, share as f32],
    }
}

impl CardText {
    pub(super) fn new(tower: &TextTower, gpu: &Gpu, precision: Precision) -> Result<Self> {
        let lane = gpu.lane().map_err(wrap)?;
        let lane = &*lane;
        let norms = tower.blocks.first().map(|b| b.shape.norms);
        let epsilon = norms.unwrap_or_default().epsilon();
        let place = |n: &Option<(Tensor, Tensor)>| {
            let placed = n
                .as_ref()
                .map(|(gain, bias)| norm(lane, gain, bias, epsilon));
            placed.transpose()
        };
        let matrix = |m: &Tensor, bias: Option<&Tensor>| -> Result<Arc<Matrix>> {
            let (inner, columns) = m.dims2()?;
            let (values, bias) = (numbers(m)?, bias.map(numbers).transpose()?);
            let sizes = [columns, inner];
            let made = Matrix::new(lane, &values, sizes, true, bias.as_deref(), precision);
            made.map(Arc::new).map_err(wrap)
        };
        let head = match &tower.head {
            Head::None => Vec::new(),
            Head::Linear(m, bias) => vec![matrix(m, bias.as_ref())?],
            Head::Mlp([first, second]) => vec![matrix(first, None)?, matrix(second, None)?],
        };
        let blocks = tower.blocks.iter();
        let blocks = blocks.map(|b| CardBlock::new(b, lane, precision));
        Ok(Self {
            gpu: gpu.clone(),
            precision,
            norm_before: place(&tower.norm_before)?,
            blocks: blocks.collect::<Result<_>>()?,
            norm_after: place(&tower.norm)?,
            head,
        })
    }
}

impl Laid {
    fn new(lane: &Arc<Lane>, packed: Packed, grown: Option<Gather>) -> Result<Self> {
        let rows: Vec<usize> = (0..packed.rows.len()).collect();
        Ok(Self {
            all: Arc::new(attention(lane, &packed, &rows)?),
            packed,
            read: OnceLock::new(),
            context: Mutex::default(),
            positions: Mutex::default(),
            grown: grown.map(Arc::new),
        })
    }

    /// All rows.
    fn all(&self) -> Rows {
        Rows {
            attention: self.all.clone(),
            chosen: None,
        }
    }

    /// The rows that texts are read at.
    fn read(&self, lane: &Arc<Lane>, pooling: Pooling) -> Result<Rows> {
        if self.read.get().is_none() {
            let layout = &self.packed.layout;
            let own = match pooling {
                Pooling::Last => layout.last_rows(),
                Pooling::First | Pooling::Mean => vec![0; layout.sequences()],
            };
            let rows = layout.chosen(&own);
            let attention = attention(lane, &self.packed, &rows)?;
            let from: Vec<Option<usize>> = rows.iter().copied().map(Some).collect();
            let gather = Gather::new(lane, self.packed.rows.len(), &from).map_err(wrap)?;
            let chosen = Chosen {
                gather: Arc::new(gather),
                rows,
            };
            self.read
                .get_or_init(|| (Arc::new(attention), Arc::new(chosen)));
        }
        let (attention, chosen) = self.read.get().expect("was just made, if it was not there");
        Ok(Rows {
            attention: attention.clone(),
            chosen: Some(chosen.clone()),
        })
    }

    /// Where `count` rows of context go.
    fn context(&self, lane: &Lane, count: usize) -> Result<Arc<Puts>> {
        let places = || self.packed.context.to_vec();
        puts(
            &self.context,
            count,
            count,
            lane,
            self.packed.rows.len(),
            places,
        )
    }

    /// Where rows for positions `first..first + count` go.
    fn positions(&self, lane: &Lane, first: usize, count: usize) -> Result<Arc<Puts>> {
        let places = || self.packed.rows_at(first, count).to_vec();
        let rows = self.packed.rows.len();
        puts(&self.positions, (first, count), count, lane, rows, places)
    }
}

/// What is known by `key`, or made.
pub(super) fn puts<K: std::hash::Hash + Eq>(
    known: &Mutex<HashMap<K, Arc<Puts>>>,
    key: K,
    sources: usize,
    lane: &Lane,
    rows: usize,
    places: impl FnOnce() -> Vec<(usize, usize)>,
) -> Result<Arc<Puts>> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(puts) = known.get(&key) {
        return Ok(puts.clone());
    }
    let made = Puts::new(lane, rows, sources, &places()).map_err(wrap)?;
    Ok(known.entry(key).or_insert(Arc::new(made)).clone())
}

/// Each of `asking` and what it sees.
fn attention(lane: &Arc<Lane>, packed: &Packed, asking: &[usize]) -> Result<Attention> {
    let layout = &packed.layout;
    let mut sees = vec![Vec::new(); layout.rows()];
    for (index, node) in layout.nodes().iter().enumerate() {
        let path = layout.path(index);
        for own in 0..node.length {
            let seen = match layout.is_causal() {
                true => node.position + own + 1,
                false => path.len(),
            };
            sees[node.start + own] = path[..seen].to_vec();
        }
    }
    let queries = asking.iter().map(|row| (*row, sees[*row].clone()));
    Attention::paths(lane, layout.rows(), &queries.collect::<Vec<_>>()).map_err(wrap)
}

impl CardPart {
    /// The rows of `packed` with those that entered at `entered`, the last of which is new.
    fn laid(
        &self,
        lane: &Arc<Lane>,
        packed: &Packed,
        entered: &[(usize, usize)],
        before: Option<&Laid>,
    ) -> Result<Arc<Laid>> {
        let mut known = self.laid.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(laid) = known.get(entered) {
            return Ok(laid.clone());
        }
        let made = match (before, entered.last()) {
            (Some(before), Some(&(position, count))) => {
                let (grown, from) = before.packed.grown(position, count)?;
                let from = from.into_iter().zip(&grown.rows);
                // Rows that enter are from none.
                let from = from.map(|(row, new)| new.slot.map(|_| row as usize));
                let gather = Gather::new(lane, before.packed.rows.len(), &from.collect::<Vec<_>>());
                Laid::new(lane, grown, Some(gather.map_err(wrap)?))?
            }
            _ => Laid::new(lane, packed.clone(), None)?,
        };
        let made = known.entry(entered.to_vec()).or_insert(Arc::new(made));
        Ok(made.clone())
    }
}

/// Pieces of a plan through the tower.
struct TextPass {
    tower: TextTower,
    card: Arc<CardText>,
    pieces: Arc<Vec<Part>>,
    kept: usize,
    prompt: TextPrompt,
}

impl TextTower {
    /// As [`TextTower::encode`], on the card.
    pub(crate) fn encode_on_card(
        &self,
        card: &Arc<CardText>,
        pieces: Arc<Vec<Part>>,
        prompt: &TextPrompt,
    ) -> Result<Tensor> {
        let pass = TextPass {
            tower: self.clone(),
            card: card.clone(),
            kept: self.kept(&pieces),
            pieces,
            prompt: prompt.map(&mut |t| Ok(t.detach()))?,
        };
        pass::all(pass, &prompt.tensors())
    }
}

impl TextPass {
    /// Embeddings and positions of a piece.
    fn base(&self, tape: &mut Tape, part: &Part, card: &CardPart) -> Result<Value> {
        let width = self.tower.width();
        match &card.base {
            Some(base) if part.is_of(&self.tower) => {
                Ok(Value::constant(base, part.packed.rows.len(), width))
            }
            _ => {
                let base = self.tower.base(&part.packed)?;
                tape.upload(&numbers(&base)?, width).map_err(wrap)
            }
        }
    }

    /// The rows that block `i` gives: of the last, those that texts are read at.
    fn rows(&self, lane: &Arc<Lane>, laid: &Laid, i: usize) -> Result<Rows> {
        match i + 1 == self.card.blocks.len() {
            true => laid.read(lane, self.tower.family.pooling()),
            false => Ok(laid.all()),
        }
    }

    /// Rows that enter the first block.
    fn embedded(
        &self,
        tape: &mut Tape,
        (part, card): (&Part, &CardPart),
        laid: &Laid,
        prompt: &TextPrompt,
        placed: &Placed,
    ) -> Result<Value> {
        let lane = tape.lane().clone();
        let mut x = self.base(tape, part, card)?;
        if let Some(context) = &prompt.context
            && !part.packed.context.is_empty()
        {
            let context = placed.of(context)?;
            let puts = laid.context(&lane, context.rows)?;
            x = tape
                .put(&x, context, &puts, shares(Put::OnTop))
                .map_err(wrap)?;
        }
        let Some(norm) = &self.card.norm_before else {
            return Ok(x);
        };
        let norm = changed(norm, prompt.changes.norm_before.as_ref(), placed)?;
        tape.norm(&x, &norm, Want::Stream).map_err(wrap)
    }

    /// Rows that enter block `first`, below which the prompt changes nothing: those that are kept, where they are.
    fn entering(
        &self,
        tape: &mut Tape,
        (part, card): (&Part, &CardPart),
        laid: &Laid,
        first: usize,
        placed: &Placed,
    ) -> Result<Value> {
        let (precision, of) = (self.card.precision, self.tower.identity(first));
        let kept = || card.entering.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |e: &&Entering| e.precision == precision && e.of == of;
        if let Some(entering) = kept().as_ref().filter(same) {
            let width = self.tower.width();
            return Ok(Value::constant(&entering.values, entering.rows, width));
        }
        let nothing = TextPrompt::default();
        let mut x = self.embedded(tape, (part, card), laid, &nothing, placed)?;
        let plain = BlockChange::default();
        for (i, block) in self.card.blocks[..first].iter().enumerate() {
            let rows = self.rows(tape.lane(), laid, i)?;
            x = block.forward(tape, x, &rows, &plain, placed)?;
        }
        let values = tape.read(&x).map_err(wrap)?;
        let values = tape.lane().upload_shared(&values).map_err(wrap)?;
        *kept() = Some(Entering {
            precision,
            of,
            values: Arc::new(values),
            rows: x.rows,
        });
        Ok(x)
    }

    /// The piece on the card.
    fn part(&self, part: &Part, lane: &Lane) -> Result<Arc<CardPart>> {
        if let Some(card) = part.card.get() {
            return Ok(card.clone());
        }
        let base = match &part.base {
            Some(base) => {
                let values = numbers(base)?;
                Some(Arc::new(lane.upload_shared(&values).map_err(wrap)?))
            }
            None => None,
        };
        let made = CardPart {
            base,
            laid: Mutex::default(),
            entering: Mutex::default(),
        };
        Ok(part.card.get_or_init(|| Arc::new(made)).clone())
    }
}

impl Pass for TextPass {
    fn place(&self) -> (&Gpu, Precision) {
        (&self.card.gpu, self.card.precision)
    }

    fn prompt(&self) -> Vec<Tensor> {
        self.prompt.tensors()
    }

    fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn kept(&self) -> usize {
        self.kept
    }

    fn run(&self, piece: usize, tape: &mut Tape, placed: &Placed) -> Result<Value> {
        let lane = tape.lane().clone();
        let part = &self.pieces[piece];
        let card = self.part(part, &lane)?;
        let prompt = of_piece(&self.prompt, &self.pieces, piece)?;
        let mut entered = Vec::new();
        let mut laid = card.laid(&lane, &part.packed, &entered, None)?;
        let first = self.tower.fixed_below(part, &prompt);
        let mut x = match first {
            0 => self.embedded(tape, (part, &card), &laid, &prompt, placed)?,
            _ => self.entering(tape, (part, &card), &laid, first, placed)?,
        };
        let changes = &prompt.changes;
        let plain = BlockChange::default();
        for (i, block) in self.card.blocks.iter().enumerate().skip(first) {
            for deep in prompt.deep.iter().filter(|d| d.block == i) {
                let rows = placed.of(&deep.rows)?;
                if let (How::Insert, At::Position(position)) = (deep.how, deep.at) {
                    entered.push((position, rows.rows));
                    laid = card.laid(&lane, &part.packed, &entered, Some(&laid))?;
                    let grown = laid.grown.as_ref().expect("rows entered just now");
                    x = tape.gather(&x, grown).map_err(wrap)?;
                }
                let puts = match deep.at {
                    At::Position(position) => laid.positions(&lane, position, rows.rows)?,
                    At::Context => laid.context(&lane, rows.rows)?,
                };
                let put = deep.how.put().unwrap_or(Put::Instead);
                x = tape.put(&x, rows, &puts, shares(put)).map_err(wrap)?;
            }
            let rows = self.rows(&lane, &laid, i)?;
            let change = changes.blocks.get(&i).unwrap_or(&plain);
            x = block.forward(tape, x, &rows, change, placed)?;
        }
        let matrices = &self.card.head;
        let want = match matrices.is_empty() {
            true => Want::Stream,
            false => Want::Product,
        };
        if let Some(norm) = &self.card.norm_after {
            let norm = changed(norm, changes.norm_after.as_ref(), placed)?;
            x = tape.norm(&x, &norm, want).map_err(wrap)?;
        }
        for (i, matrix) in matrices.iter().enumerate() {
            if i > 0 {
                x = tape.activate(&x, Activation::Gelu).map_err(wrap)?;
            }
            x = tape.linear(&x, matrix, None).map_err(wrap)?;
        }
        Ok(x)
    }
}
