//! The sizes of a CLIP, read off its tensors, and which tensors a CLIP of these sizes has.

use super::foreign;
use crate::error::Fault;
use crate::text::{Family, Pooling};
use crate::tokenizer::{CONTEXT, VOCABULARY};
use std::collections::{BTreeMap, BTreeSet};

/// Every head of a released OpenAI CLIP has this width.
const HEAD_WIDTH: usize = 64;
/// Image towers of these widths have wider heads, as many as the second number, in every model that was released:
/// open_clip's ViT-H, ViT-g, ViT-bigG and ViT-e (`model_configs/` at 3.3.0), SigLIP's SO400M and giant.
const WIDE: [(usize, usize); 6] = [
    (1280, 16),
    (1408, 16),
    (1664, 16),
    (1792, 16),
    (1152, 16),
    (1536, 16),
];
/// Missing or unknown tensors that a message lists.
const MOST_LISTED: usize = 8;

/// Sizes of a CLIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// `E`, the width both towers end in.
    pub embedding: usize,
    /// Whose text tower it is.
    pub family: Family,
    /// Text tower.
    pub text: Transformer,
    /// Most tokens of a text, start and end included.
    pub context: usize,
    /// Image tower.
    pub image: ImageTower,
    /// Whether that is as timm has it: a bias of the patches and no norm behind them.
    pub is_timm: bool,
}

/// Sizes of a transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transformer {
    /// `W`.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Width inside the MLP.
    pub hidden: usize,
    /// Attention heads; one in towers narrower than 64.
    pub heads: usize,
}

/// Sizes of an image tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageTower {
    /// A vision transformer.
    Transformer {
        /// Its blocks.
        blocks: Transformer,
        /// Pixels a patch side.
        patch: usize,
        /// Pixels an image side.
        image: usize,
    },
    /// SigLIP's vision transformer, without a class token, its features pooled from all patches.
    Pooled {
        /// Its blocks.
        blocks: Transformer,
        /// Pixels a patch side.
        patch: usize,
        /// Pixels an image side.
        image: usize,
    },
    /// A ModifiedResNet with attention pooling.
    ResNet {
        /// Channels after the stem; the last stage has 32 times as many.
        width: usize,
        /// Bottlenecks in each stage.
        layers: [usize; 4],
        /// Heads of the attention pool.
        heads: usize,
        /// Pixels an image side.
        image: usize,
    },
}

impl ImageTower {
    /// Pixels an image side.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Transformer { image, .. }
            | Self::Pooled { image, .. }
            | Self::ResNet { image, .. } => *image,
        }
    }

    /// Blocks of a vision transformer of any kind.
    pub fn blocks(&self) -> Option<&Transformer> {
        match self {
            Self::Transformer { blocks, .. } | Self::Pooled { blocks, .. } => Some(blocks),
            Self::ResNet { .. } => None,
        }
    }
}

/// Heads of OpenAI's towers of this width.
pub(crate) fn heads(width: usize) -> usize {
    (width / HEAD_WIDTH).max(1)
}

/// Heads of the image tower of released models of this width.
fn image_heads(width: usize) -> usize {
    let wide = WIDE.iter().find(|(w, _)| *w == width);
    wide.map_or_else(|| heads(width), |(_, heads)| *heads)
}

impl Architecture {
    /// Heads of image and text tower, each with its width; a ResNet's are those of its pool.
    pub fn heads(&self) -> [(usize, usize); 2] {
        let image = match &self.image {
            ImageTower::Transformer { blocks, .. } | ImageTower::Pooled { blocks, .. } => {
                (blocks.heads, blocks.width)
            }
            ImageTower::ResNet { width, heads, .. } => (*heads, 32 * width),
        };
        [image, (self.text.heads, self.text.width)]
    }
}

/// Shapes by name, as found.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

struct Expected(Vec<(String, Vec<usize>)>);

impl Expected {
    fn put(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    fn affine(&mut self, base: &str, width: usize) {
        self.put(format!("{base}.weight"), &[width]);
        self.put(format!("{base}.bias"), &[width]);
    }

    fn linear(&mut self, base: &str, out: usize, from: usize) {
        self.put(format!("{base}.weight"), &[out, from]);
        self.put(format!("{base}.bias"), &[out]);
    }

    fn batch_norm(&mut self, base: &str, width: usize) {
        self.affine(base, width);
        self.put(format!("{base}.running_mean"), &[width]);
        self.put(format!("{base}.running_var"), &[width]);
    }

    fn transformer(&mut self, base: &str, sizes: &Transformer) {
        let (w, h) = (sizes.width, sizes.hidden);
        for i in 0..sizes.layers {
            let block = format!("{base}transformer.resblocks.{i}");
            self.affine(&format!("{block}.ln_1"), w);
            self.put(format!("{block}.attn.in_proj_weight"), &[3 * w, w]);
            self.put(format!("{block}.attn.in_proj_bias"), &[3 * w]);
            self.linear(&format!("{block}.attn.out_proj"), w, w);
            self.affine(&format!("{block}.ln_2"), w);
            self.linear(&format!("{block}.mlp.c_fc"), h, w);
            self.linear(&format!("{block}.mlp.c_proj"), w, h);
        }
    }

    /// SigLIP's attention pool.
    fn pool(&mut self, width: usize, hidden: usize) {
        let pool = "visual.attn_pool";
        self.put(format!("{pool}.probe"), &[width]);
        self.put(format!("{pool}.in_proj_weight"), &[3 * width, width]);
        self.put(format!("{pool}.in_proj_bias"), &[3 * width]);
        self.linear(&format!("{pool}.out_proj"), width, width);
        self.affine(&format!("{pool}.norm"), width);
        self.linear(&format!("{pool}.mlp.c_fc"), hidden, width);
        self.linear(&format!("{pool}.mlp.c_proj"), width, hidden);
    }

    fn resnet(&mut self, width: usize, layers: [usize; 4]) {
        let half = width / 2;
        for (i, (out, from)) in [(half, 3), (half, half), (width, half)]
            .into_iter()
            .enumerate()
        {
            self.put(format!("visual.conv{}.weight", i + 1), &[out, from, 3, 3]);
            self.batch_norm(&format!("visual.bn{}", i + 1), out);
        }
        let mut from = width;
        for (stage, count) in layers.into_iter().enumerate() {
            let inner = width << stage;
            for i in 0..count {
                let block = format!("visual.layer{}.{i}", stage + 1);
                for (j, shape) in [
                    [inner, from, 1, 1],
                    [inner, inner, 3, 3],
                    [4 * inner, inner, 1, 1],
                ]
                .iter()
                .enumerate()
                {
                    self.put(format!("{block}.conv{}.weight", j + 1), shape);
                    self.batch_norm(&format!("{block}.bn{}", j + 1), shape[0]);
                }
                if i == 0 {
                    self.put(
                        format!("{block}.downsample.0.weight"),
                        &[4 * inner, from, 1, 1],
                    );
                    self.batch_norm(&format!("{block}.downsample.1"), 4 * inner);
                }
                from = 4 * inner;
            }
        }
    }
}

/// How many `{base}{i}.{leaf}` there are, counting from 0 without a gap.
fn run_of(shapes: &Shapes, base: &str, leaf: &str) -> usize {
    (0..)
        .take_while(|i| shapes.contains_key(&format!("{base}{i}.{leaf}")))
        .count()
}

fn transformer(shapes: &Shapes, base: &str, width: usize) -> Transformer {
    let blocks = format!("{base}transformer.resblocks.");
    let layers = run_of(shapes, &blocks, "ln_1.weight");
    let hidden = shapes
        .get(&format!("{blocks}0.mlp.c_fc.weight"))
        .and_then(|s| s.first())
        .copied();
    // A tower without blocks is not one: then the first block is what is missing.
    Transformer {
        width,
        layers: layers.max(1),
        hidden: hidden.unwrap_or(4 * width),
        heads: heads(width),
    }
}

/// `s` for `s * s` positions and `more`.
fn side(positions: usize, more: usize) -> Option<usize> {
    let side = positions.checked_sub(more)?.isqrt();
    (side > 0 && side * side + more == positions).then_some(side)
}

/// Whose text tower has tensors of these names; where BERT's is read, its tensors do not say.
pub(crate) fn family_of(has: impl Fn(&str) -> bool) -> Family {
    if has("ln_embedding.weight") {
        Family::Bert(Pooling::First)
    } else if has("text_projection.bias") {
        Family::Siglip
    } else {
        Family::Clip
    }
}

/// Sizes that fit the tensors found, or everything that is wrong with them.
pub(super) fn of(shapes: &Shapes) -> Result<Architecture, Vec<Fault>> {
    let family = family_of(|name| shapes.contains_key(name));
    let is_bert = matches!(family, Family::Bert(_));
    let anchors = [
        ("positional_embedding", true),
        ("text_projection", !is_bert),
        ("visual.conv1.weight", true),
        ("logit_scale", true),
        ("ln_final.weight", !is_bert),
    ];
    let missing: Vec<String> = anchors
        .iter()
        .filter(|(n, is_needed)| *is_needed && !shapes.contains_key(*n))
        .map(|(n, _)| n)
        .map(|&n| n.to_owned())
        .collect();
    if !missing.is_empty() {
        return Err(vec![not_a_clip(&missing, shapes.keys())]);
    }
    let mut faults = Vec::new();
    let mut dimensions = |name: &str, rank: usize, letters: &str| {
        let shape = &shapes[name];
        if shape.len() != rank || shape.contains(&0) {
            faults.push(Fault::new(
                name,
                format!("has shape {shape:?}; it is {letters}, none of them 0"),
            ));
        }
        let mut all = shape.clone();
        all.resize(rank, 1);
        all
    };
    let [context, text_width] = match &dimensions("positional_embedding", 2, "[77, W]")[..] {
        [context, width] => [*context, *width],
        _ => unreachable!("two are asked for"),
    };
    let last = ["text_projection", "text_projection.2"];
    let last = last.iter().find(|name| shapes.contains_key(**name));
    let embedding = last.map_or(text_width, |name| dimensions(name, 2, "[W, E]")[1]);
    let conv = dimensions("visual.conv1.weight", 4, "[V, 3, P, P]");
    if !faults.is_empty() {
        return Err(faults);
    }

    let mut expected = Expected(Vec::new());
    let text = transformer(shapes, "", text_width);
    let context = match family {
        Family::Clip => CONTEXT,
        _ => context,
    };
    expected.put("positional_embedding", &[context, text_width]);
    // Rows are checked with the vocabulary.
    let rows = shapes
        .get(super::TOKENS)
        .and_then(|s| s.first())
        .copied()
        .unwrap_or(VOCABULARY);
    expected.put(super::TOKENS, &[rows, text_width]);
    expected.transformer("", &text);
    if let Some(hidden) = shapes.get("text_projection.0").and_then(|s| s.get(1)) {
        expected.put("text_projection.0", &[text_width, *hidden]);
        expected.put("text_projection.2", &[*hidden, embedding]);
    } else if last.is_some() {
        expected.put("text_projection", &[text_width, embedding]);
    }
    match family {
        Family::Clip => expected.affine("ln_final", text_width),
        Family::Siglip => {
            expected.affine("ln_final", text_width);
            expected.put("text_projection.bias", &[embedding]);
        }
        Family::Bert(_) => {
            if shapes
                .get("type_embedding")
                .is_some_and(|s| s.first() == Some(&1))
            {
                let problem = "has one row, as RoBERTa's, whose positions and tokenizer are others than BERT's; of the text \
                               towers of transformers only BERT's can be run here";
                return Err(vec![Fault::new("type_embedding", problem)]);
            }
            expected.put("type_embedding", &[2, text_width]);
            expected.affine("ln_embedding", text_width);
        }
    }
    for scalar in ["logit_scale", "logit_bias"] {
        if scalar == "logit_scale" || shapes.contains_key(scalar) {
            let is_vector = shapes[scalar] == [1];
            expected.put(scalar, if is_vector { &[1] } else { &[] });
        }
    }

    let positions = |name: &str, more: usize| {
        let shape = shapes
            .get(name)
            .ok_or_else(|| not_a_clip(&[name.to_owned()], shapes.keys()))?;
        let side = shape.first().and_then(|&n| side(n, more));
        side.ok_or_else(|| {
            let one = if more == 1 { " + 1" } else { "" };
            let problem =
                format!("has shape {shape:?}; it is [s * s{one}, V] for s patches a side");
            Fault::new(name, problem)
        })
    };
    let is_timm = shapes.contains_key("visual.conv1.bias");
    let is_resnet = shapes.contains_key("visual.layer1.0.conv1.weight");
    let image = if is_resnet {
        let (width, layers) = (
            2 * conv[0],
            [1, 2, 3, 4]
                .map(|l| run_of(shapes, &format!("visual.layer{l}."), "conv1.weight").max(1)),
        );
        expected.resnet(width, layers);
        let (pool, out) = ("visual.attnpool.positional_embedding", 32 * width);
        let side = positions(pool, 1).map_err(|f| vec![f])?;
        expected.put(pool, &[side * side + 1, out]);
        for projection in ["q_proj", "k_proj", "v_proj"] {
            expected.linear(&format!("visual.attnpool.{projection}"), out, out);
        }
        expected.linear("visual.attnpool.c_proj", embedding, out);
        ImageTower::ResNet {
            width,
            layers,
            heads: heads(out),
            image: 32 * side,
        }
    } else {
        let (width, patch) = (conv[0], conv[2]);
        let is_pooled = shapes.contains_key("visual.attn_pool.probe");
        let class = usize::from(!is_pooled);
        let side = positions("visual.positional_embedding", class).map_err(|f| vec![f])?;
        expected.put("visual.conv1.weight", &[width, 3, patch, patch]);
        expected.put("visual.positional_embedding", &[side * side + class, width]);
        if is_pooled || is_timm {
            expected.put("visual.conv1.bias", &[width]);
        } else {
            expected.affine("visual.ln_pre", width);
        }
        let mut blocks = transformer(shapes, "visual.", width);
        blocks.heads = image_heads(width);
        expected.transformer("visual.", &blocks);
        expected.affine("visual.ln_post", width);
        let image = side * patch;
        if is_pooled {
            // Its features are as wide as the tower.
            expected.pool(embedding, blocks.hidden);
            ImageTower::Pooled {
                blocks,
                patch,
                image,
            }
        } else {
            expected.put("visual.class_embedding", &[width]);
            expected.put("visual.proj", &[width, embedding]);
            ImageTower::Transformer {
                blocks,
                patch,
                image,
            }
        }
    };
    compare(shapes, &expected.0)?;
    Ok(Architecture {
        embedding,
        family,
        text,
        context,
        image,
        is_timm,
    })
}

/// `a, b, c and 5 more`
fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let shown: Vec<String> = names
        .iter()
        .take(MOST_LISTED)
        .map(|n| n.chars().take(80).collect())
        .collect();
    match names.len().checked_sub(MOST_LISTED) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}

pub(super) fn not_a_clip<'a>(
    missing: &[String],
    found: impl ExactSizeIterator<Item = &'a String> + Clone,
) -> Fault {
    let count = found.len();
    let family = foreign::family(found.clone());
    let family = family.map_or(String::new(), |f| format!(" but {f}"));
    let problem = match count {
        0 => "is missing, as is every other tensor: this is not a CLIP".to_owned(),
        _ => format!(
            "is missing, so this is not a CLIP{family}; its {count} tensors are {}",
            listed(found)
        ),
    };
    Fault::new(format!("tensor {}", listed(missing.iter())), problem)
}

fn compare(shapes: &Shapes, expected: &[(String, Vec<usize>)]) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let missing: Vec<String> = expected
        .iter()
        .map(|(n, _)| n)
        .filter(|n| !shapes.contains_key(*n))
        .cloned()
        .collect();
    if !missing.is_empty() {
        let problem = format!(
            "{} of {} tensors are missing",
            missing.len(),
            expected.len()
        );
        faults.push(Fault::new(
            format!("tensor {}", listed(missing.iter())),
            problem,
        ));
    }
    for (name, shape) in expected {
        if let Some(found) = shapes.get(name).filter(|s| *s != shape) {
            faults.push(Fault::new(
                name,
                format!("has shape {found:?}; with the other tensors it has to be {shape:?}"),
            ));
        }
    }
    let names: BTreeSet<&String> = expected.iter().map(|(n, _)| n).collect();
    let unknown: Vec<&String> = shapes
        .keys()
        .filter(|n| !names.contains(n) && *n != super::TOKEN_IDS)
        .collect();
    if !unknown.is_empty() {
        let family = foreign::family(shapes.keys());
        let family = family.map_or(String::new(), |f| format!("; together they look like {f}"));
        let problem = format!(
            "{} tensors belong to no CLIP that can be run here{family}",
            unknown.len()
        );
        faults.push(Fault::new(
            format!("tensor {}", listed(unknown.into_iter())),
            problem,
        ));
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}
