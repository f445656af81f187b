//! The sizes of a CLIP, read off its tensors, and which tensors a CLIP of these sizes has.

use super::foreign;
use crate::error::Fault;
use crate::tokenizer::{CONTEXT, VOCABULARY};
use std::collections::{BTreeMap, BTreeSet};

/// Every head of a released OpenAI CLIP has this width.
const HEAD_WIDTH: usize = 64;
/// Image towers of these widths have wider heads, as many as the second number, in every model that was released:
/// open_clip's ViT-H, ViT-g, ViT-bigG and ViT-e (`model_configs/` at 3.3.0).
const WIDE: [(usize, usize); 4] = [(1280, 16), (1408, 16), (1664, 16), (1792, 16)];
/// Missing or unknown tensors that a message lists.
const MOST_LISTED: usize = 8;

/// Sizes of a CLIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// `E`, the width both towers end in.
    pub embedding: usize,
    /// Text tower.
    pub text: Transformer,
    /// Image tower.
    pub image: ImageTower,
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
            Self::Transformer { image, .. } | Self::ResNet { image, .. } => *image,
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
            ImageTower::Transformer { blocks, .. } => (blocks.heads, blocks.width),
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

/// `s` for `s * s + 1` positions.
fn side(positions: usize) -> Option<usize> {
    let side = positions.checked_sub(1)?.isqrt();
    (side > 0 && side * side + 1 == positions).then_some(side)
}

/// Sizes that fit the tensors found, or everything that is wrong with them.
pub(super) fn of(shapes: &Shapes) -> Result<Architecture, Vec<Fault>> {
    let anchors = [
        "positional_embedding",
        "text_projection",
        "visual.conv1.weight",
        "logit_scale",
        "ln_final.weight",
    ];
    let missing: Vec<String> = anchors
        .iter()
        .filter(|n| !shapes.contains_key(**n))
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
    let text_width = dimensions("positional_embedding", 2, "[77, W]")[1];
    let embedding = dimensions("text_projection", 2, "[W, E]")[1];
    let conv = dimensions("visual.conv1.weight", 4, "[V, 3, P, P]");
    if !faults.is_empty() {
        return Err(faults);
    }

    let mut expected = Expected(Vec::new());
    let text = transformer(shapes, "", text_width);
    expected.put("positional_embedding", &[CONTEXT, text_width]);
    // Rows are checked with the vocabulary.
    let rows = shapes
        .get(super::TOKENS)
        .and_then(|s| s.first())
        .copied()
        .unwrap_or(VOCABULARY);
    expected.put(super::TOKENS, &[rows, text_width]);
    expected.transformer("", &text);
    expected.affine("ln_final", text_width);
    expected.put("text_projection", &[text_width, embedding]);
    let has_vector_scale = shapes["logit_scale"] == [1];
    expected.put("logit_scale", if has_vector_scale { &[1] } else { &[] });

    let positions = |name: &str| {
        let shape = shapes
            .get(name)
            .ok_or_else(|| not_a_clip(&[name.to_owned()], shapes.keys()))?;
        let side = shape.first().and_then(|&n| side(n));
        side.ok_or_else(|| {
            Fault::new(
                name,
                format!("has shape {shape:?}; it is [s * s + 1, V] for s patches a side"),
            )
        })
    };
    let is_resnet = shapes.contains_key("visual.layer1.0.conv1.weight");
    let image = if is_resnet {
        let (width, layers) = (
            2 * conv[0],
            [1, 2, 3, 4]
                .map(|l| run_of(shapes, &format!("visual.layer{l}."), "conv1.weight").max(1)),
        );
        expected.resnet(width, layers);
        let (pool, out) = ("visual.attnpool.positional_embedding", 32 * width);
        let side = positions(pool).map_err(|f| vec![f])?;
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
        let side = positions("visual.positional_embedding").map_err(|f| vec![f])?;
        expected.put("visual.conv1.weight", &[width, 3, patch, patch]);
        expected.put("visual.class_embedding", &[width]);
        expected.put("visual.positional_embedding", &[side * side + 1, width]);
        expected.affine("visual.ln_pre", width);
        let mut blocks = transformer(shapes, "visual.", width);
        blocks.heads = image_heads(width);
        expected.transformer("visual.", &blocks);
        expected.affine("visual.ln_post", width);
        expected.put("visual.proj", &[width, embedding]);
        ImageTower::Transformer {
            blocks,
            patch,
            image: side * patch,
        }
    };
    compare(shapes, &expected.0)?;
    Ok(Architecture {
        embedding,
        text,
        image,
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
