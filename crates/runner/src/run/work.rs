//! How many floating-point operations a trial cannot do without, from sizes alone: no weight, no picture.

use std::ops::Range;

use clip::ops::{Activation, BlockShape, Layout, Norms, Work};
use clip::text::Family;
use clip::weights::{Architecture, ImageTower, Transformer};
use datasets::ClassSet;
use methods::{ImageCost, Sees, Support, TextCost};

use crate::record::TestSet;
use crate::run::population::{Population, Words};
use crate::run::suite::{Resolved, Views};
use crate::run::texts::Texts;

/// What a trial takes, by kind of pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Operations of text passes with a gradient.
    pub text_step: f64,
    /// Operations of text passes without.
    pub text_forward: f64,
    /// Operations of image passes with prompts and a gradient.
    pub image_step: f64,
    /// Operations of image passes without a gradient.
    pub image_forward: f64,
    /// Pictures through the image tower, views and repetitions each for itself.
    pub images: u64,
    /// Optimizer steps.
    pub steps: u64,
}

impl Load {
    /// All operations.
    pub fn total(&self) -> f64 {
        self.text_step + self.text_forward + self.image_step + self.image_forward
    }
}

impl std::ops::AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.text_step += other.text_step;
        self.text_forward += other.text_forward;
        self.image_step += other.image_step;
        self.image_forward += other.image_forward;
        self.images += other.images;
        self.steps += other.steps;
    }
}

fn shape(t: &Transformer) -> BlockShape {
    BlockShape {
        width: t.width,
        heads: t.heads,
        hidden: t.hidden,
        activation: Activation::QuickGelu,
        norms: Norms::Clip,
    }
}

/// The last `count` blocks, of which the last computes one row of each sequence.
fn blocks(t: &Transformer, count: usize, layout: &Layout, ends: &[usize]) -> Work {
    let (shape, before) = (shape(t), count.saturating_sub(1) as f64);
    shape.work(layout, None) * before + shape.work(layout, Some(ends))
}

/// One pass over texts.
pub fn text(a: &Architecture, texts: &Texts) -> Work {
    let count = texts.lengths.len();
    let layers = a.text.layers;
    let apart = |lengths: &[usize]| {
        let layout = Layout::apart(lengths);
        blocks(&a.text, layers, &layout, &vec![0; count])
    };
    let all = match a.family {
        Family::Clip => {
            let pieces = texts.shared.iter();
            let piece = |layout: &Layout| blocks(&a.text, layers, layout, &layout.last_rows());
            pieces
                .map(piece)
                .fold(Work::default(), |all, one| all + one)
        }
        // Nothing is shared where all rows of a text see each other.
        Family::Bert(_) => apart(&texts.lengths),
        Family::Siglip => apart(&vec![a.context; count]),
    };
    let projection = 2.0 * (count * a.text.width * a.embedding) as f64;
    let ends_in = Work {
        forward: projection,
        backward: projection,
    };
    all + ends_in
}

/// One picture through the image tower, with `prompts` extra tokens.
pub fn image(a: &Architecture, prompts: usize) -> Work {
    image_blocks(a, 0..prompted(a), prompts)
}

/// Blocks of the image tower that prompts can enter; other kinds than vision transformers have none.
fn prompted(a: &Architecture) -> usize {
    match &a.image {
        ImageTower::Transformer { blocks, .. } => blocks.layers,
        ImageTower::Pooled { .. } | ImageTower::ResNet { .. } => 0,
    }
}

/// What `range` of a vision transformer's blocks do of one picture, with the embedding before the first and the projection
/// behind the last; towers of other kinds as a whole.
fn image_blocks(a: &Architecture, range: Range<usize>, prompts: usize) -> Work {
    match &a.image {
        ImageTower::Transformer {
            blocks: t,
            patch,
            image,
        } => {
            let patches = (image / patch).pow(2);
            let layout = Layout::full(1, 1 + patches + prompts);
            let mut all = Work::default();
            if range.start == 0 {
                all.forward += 2.0 * (patches * t.width * 3 * patch * patch) as f64;
            }
            if range.end < t.layers {
                return all + shape(t).work(&layout, None) * range.len() as f64;
            }
            let projection = 2.0 * (t.width * a.embedding) as f64;
            all.forward += projection;
            all.backward += projection;
            blocks(t, range.len(), &layout, &[0]) + all
        }
        ImageTower::Pooled {
            blocks: t,
            patch,
            image,
        } => {
            let patches = (image / patch).pow(2);
            let embedding = 2.0 * (patches * t.width * 3 * patch * patch) as f64;
            let pool = 2.0 * (2 * patches * t.width * t.width) as f64;
            let all = shape(t).work(&Layout::full(1, patches), None);
            Work {
                forward: embedding + all.forward * t.layers as f64 + pool,
                backward: 0.0,
            }
        }
        ImageTower::ResNet {
            width,
            layers,
            image,
            ..
        } => Work {
            forward: resnet(*width, layers, *image, a.embedding),
            backward: 0.0,
        },
    }
}

/// Forward pass of a ModifiedResNet: a convolution of side `k` to `o` channels of `r` squared places is
/// `2 k k i o r r`; the attention pool has one query.
fn resnet(width: usize, layers: &[usize; 4], image: usize, embedding: usize) -> f64 {
    let convolution =
        |k: usize, from: usize, to: usize, side: usize| 2 * k * k * from * to * side * side;
    let half = image / 2;
    let mut all = convolution(3, 3, width / 2, half)
        + convolution(3, width / 2, width / 2, half)
        + convolution(3, width / 2, width, half);
    let (mut side, mut from) = (half / 2, width);
    for (stage, count) in layers.iter().enumerate() {
        let planes = width << stage;
        for block in 0..*count {
            all += convolution(1, from, planes, side) + convolution(3, planes, planes, side);
            if stage > 0 && block == 0 {
                side /= 2;
            }
            if block == 0 {
                all += convolution(1, from, 4 * planes, side);
            }
            all += convolution(1, planes, 4 * planes, side);
            from = 4 * planes;
        }
    }
    let places = side * side + 1;
    let (keys_and_values, query, out) = (
        4 * places * from * from,
        2 * from * from,
        2 * from * embedding,
    );
    (all + keys_and_values + query + out + 4 * places * from) as f64
}

/// What a trial of a method takes.
pub struct Counter<'a> {
    /// Sizes.
    pub architecture: &'a Architecture,
    /// The method with its settings.
    pub method: &'a Resolved,
}

impl Counter<'_> {
    /// Whose texts are encoded where the classes `set` are learned or asked about.
    fn texts_of(&self, set: ClassSet) -> ClassSet {
        if self.method.config.cost().text.whole {
            ClassSet::All
        } else {
            set
        }
    }

    /// One pass over the texts of the classes that are encoded where `set` is learned or asked about.
    pub fn text(&self, of: &Population, set: ClassSet) -> Work {
        let TextCost { words, shared, .. } = self.method.config.cost().text;
        let words = Words { all: words, shared };
        text(self.architecture, &of.texts(self.texts_of(set), words))
    }

    /// Training on some classes of one dataset, or of several at once, each with the pictures learned of it.
    pub fn learning(&self, of: &[(&Population, ClassSet, usize)], views: Views) -> Load {
        if let [(of, set, pictures)] = of {
            return self.training(of, *set, *pictures, views);
        }
        let parts: Vec<_> = of.iter().map(|(of, set, _)| (*of, *set)).collect();
        let pictures = of.iter().map(|(.., pictures)| pictures).sum();
        self.training(
            &Population::together(&parts),
            ClassSet::All,
            pictures,
            views,
        )
    }

    /// Training on `pictures` of the classes `set`; what `views` caches is counted as if nobody else needed it.
    pub fn training(&self, of: &Population, set: ClassSet, pictures: usize, views: Views) -> Load {
        let (cost, needs) = (self.method.config.cost(), self.method.config.needs());
        let frozen = image(self.architecture, 0);
        let mut load = Load::default();
        // The few shots as a whole, before any step.
        let passes = match needs.support {
            None => 0,
            Some(Support::Plain) => 1,
            Some(Support::Passes(n)) => n,
        };
        let search = self.method.config.search();
        // A search that puts something into the image tower sees pixels, which nothing has been computed of.
        if search.is_none() || needs.sees != Sees::Pixels {
            load.images += (passes * pictures) as u64;
            load.image_forward += (passes * pictures) as f64 * frozen.forward;
        }
        if let Some(search) = search {
            let candidates = search.candidates as f64;
            let text = self.text(of, set);
            let seen = candidates * pictures as f64 * cost.image.trained;
            load.text_forward += candidates * cost.text.forward * text.forward;
            load.images += seen as u64;
            load.image_forward += seen * image(self.architecture, cost.image.tokens).forward;
        }
        let Some(training) = &self.method.training else {
            return load;
        };
        let length = training.length(pictures);
        let steps = length.steps;
        let batch = training.batch.min(pictures);
        let seen = (steps * batch) as f64;
        let text = self.text(of, set);
        let times = steps as f64
            * if cost.text.per_picture {
                batch as f64
            } else {
                1.0
            };
        let blocks = prompted(self.architecture);
        // Of views that come again, features are kept.
        let now = match views {
            Views::Cached(_) | Views::None if needs.frozen_features => ImageCost {
                frozen: 0.0,
                ..cost.image
            },
            _ => cost.image,
        };
        let [without, with] = now.operations(blocks, |range, tokens| {
            image_blocks(self.architecture, range, tokens)
        });
        load.steps = steps as u64;
        load.text_step =
            times * (cost.text.forward * text.forward + cost.text.backward * text.backward);
        load.image_step = seen * with;
        let encoded = match views {
            Views::Fresh => steps * batch,
            Views::Cached(n) => n.min(length.epochs) * pictures,
            Views::None => pictures,
        };
        if needs.sees == Sees::Pixels {
            load.images += (seen * (cost.image.trained + now.frozen)) as u64;
            load.image_forward += seen * without;
            if now.frozen < cost.image.frozen {
                load.images += encoded as u64;
                load.image_forward += encoded as f64 * cost.image.frozen * frozen.forward;
            }
        } else {
            load.images += encoded as u64;
            load.image_forward += encoded as f64 * frozen.forward;
        }
        load
    }

    /// Testing on the pictures of `set`, without the features that all methods with a frozen image tower share.
    pub fn testing(&self, of: &Population, set: TestSet) -> Load {
        let pictures = of.tests(set.pictures) as f64;
        let text = self.text(of, set.among);
        let cost = self.method.config.cost();
        let mut load = Load::default();
        match self.method.config.needs().sees {
            Sees::Views { count, .. } => {
                let cost = cost.text;
                // The texts that every picture starts from are computed once; where they are tuned, one pass goes without
                // a gradient: that which scores.
                let steps = (cost.forward - 1.0).max(0.0) * text.forward;
                let steps = steps + cost.backward * text.backward;
                load.text_step = text.forward + pictures * steps;
                load.text_forward = pictures * cost.forward.min(1.0) * text.forward;
                load.images = (pictures * count as f64) as u64;
                load.image_forward = pictures * count as f64 * image(self.architecture, 0).forward;
            }
            sees => {
                load.text_forward =
                    text.forward * if cost.text.per_picture { pictures } else { 1.0 };
                if sees == Sees::Pixels {
                    load.images = pictures as u64;
                    load.image_forward =
                        pictures * image(self.architecture, cost.image.tokens).forward;
                }
            }
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use clip::text::Slot;
    use methods::parts::layout;

    use super::*;
    use crate::run::sizes::released;

    #[test]
    fn texts_of_the_whole_dataset_are_counted_whatever_half_is_learned() {
        let architecture = released("clip-vit-b16").unwrap();
        let split = &datasets::drawn::open("drawn-textures").unwrap().split;
        let of = Population::counted(split).unwrap();
        let texts = |name: &str, set| {
            let entry = methods::find(name).unwrap();
            let reading = entry.read(toml::Table::new());
            let method = Resolved {
                name: entry.name,
                config: reading.config,
                training: entry.training.clone(),
                settings: reading.resolved,
            };
            let counter = Counter {
                architecture: &architecture,
                method: &method,
            };
            let tested = counter.testing(&of, TestSet::of(set)).text_forward;
            let learned = counter.training(&of, set, 16, Views::Fresh).text_step;
            [learned, tested]
        };
        let halves = [ClassSet::Base, ClassSet::Novel, ClassSet::All];
        let [base, novel, all] = halves.map(|set| texts("lasp", set));
        assert_eq!([base, novel], [all, all]);
        let [base, _, all] = halves.map(|set| texts("kgcoop", set));
        assert!(base[0] < 0.7 * all[0] && base[1] < 0.7 * all[1]);
    }

    #[test]
    fn texts_are_counted_as_the_tower_computes_them() {
        let weights = crate::backbone::weights("drawn", None, &crate::backbone::Told::default());
        let architecture = weights.unwrap().architecture;
        let clip = crate::backbone::shipped().unwrap();
        let method = |name: &str, config: &str| {
            let entry = methods::find(name).unwrap();
            let reading = entry.read(config.parse().unwrap());
            Resolved {
                name: entry.name,
                config: reading.config,
                training: entry.training.clone(),
                settings: reading.resolved,
            }
        };
        let coop = method("coop", "init = 'a photo of a'");
        let counter = Counter {
            architecture: &architecture,
            method: &coop,
        };
        let mut saved = 0;
        for id in ["drawn-textures", "drawn-pets", "drawn-food"] {
            let split = &datasets::drawn::open(id).unwrap().split;
            let names = split.names_of(ClassSet::All).unwrap();
            let classes = methods::Classes::new(&names, id, "a photo of a {}.");
            let (words, end) = ("a photo of a", layout::Position::End);
            let count = layout::word_count(words);
            let wording = clip.text.wording();
            let sequences = layout::sequences(wording, &classes, words, count, end, |_, i| i);
            let sequences = sequences.unwrap();
            let tokens: usize = sequences.iter().map(Vec::len).sum();
            let plan = clip.text.plan(&sequences).unwrap();
            let (wanted, of) = (clip.text.work(&plan), Population::counted(split).unwrap());
            let ours = counter.text(&of, ClassSet::All);
            let far = (ours.both() / wanted.both() - 1.0).abs();
            assert!(far < 1e-12, "{id}: {ours:?} and {wanted:?}");
            saved += tokens - plan.rows() - 5 * (names.len() - 1);
        }
        assert!(saved > 0, "some names begin alike");
    }

    /// `docs/model_profile.csv` of open_clip at 3b37473, in GFLOP: image and text tower of one picture and one text of
    /// 77 tokens, every row of the last block computed.
    #[test]
    fn operations_agree_with_a_published_profile() {
        for (name, image_gflop, text_gflop) in [
            ("clip-vit-b32", 8.82, 5.96),
            ("clip-vit-b16", 35.13, 5.96),
            ("clip-vit-l14", 162.03, 13.3),
            ("clip-rn50", 12.22, 5.96),
            ("clip-rn101", 19.54, 5.96),
        ] {
            let a = released(name).unwrap();
            // What the published programs do beyond need: rows of the last block, masked pairs and queries of the pool
            // that nobody reads.
            let unread = |t: &Transformer, rows: usize, seen: usize| {
                let (w, h, n, layers) = (
                    t.width as f64,
                    t.hidden as f64,
                    rows as f64,
                    t.layers as f64,
                );
                let products = (n - 1.0) * (4.0 * w * w + 4.0 * w * h);
                let pairs = (layers - 1.0) * (n * n - seen as f64) + n * n - n;
                products + 4.0 * w * pairs
            };
            let more = match &a.image {
                ImageTower::Transformer {
                    blocks,
                    patch,
                    image,
                } => {
                    let rows = 1 + (image / patch).pow(2);
                    unread(blocks, rows, rows * rows)
                }
                ImageTower::ResNet { width, image, .. } => {
                    let (d, places) = (32.0 * *width as f64, (image / 32).pow(2) as f64);
                    places * (2.0 * d * d + 2.0 * d * a.embedding as f64)
                }
                ImageTower::Pooled { .. } => unreachable!("no released size is SigLIP's"),
            };
            let agree = |ours: f64, published: f64| (ours / published - 1.0).abs() < 0.005;
            let ours = (image(&a, 0).forward + more) / 1e9;
            assert!(
                agree(ours, image_gflop),
                "{name}: image {ours}, published {image_gflop}"
            );
            let more = unread(&a.text, 77, 77 * 78 / 2);
            let one = Texts::new(&[(0..77).map(Slot::Context).collect()]);
            let ours = (text(&a, &one).forward + more) / 1e9;
            assert!(
                agree(ours, text_gflop),
                "{name}: text {ours}, published {text_gflop}"
            );
        }
    }
}
