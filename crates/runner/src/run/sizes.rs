//! Sizes of the released CLIPs by the names that suites use, for when the weights are not at hand.

use clip::weights::{Architecture, ImageTower, Transformer};

/// Names of the released CLIPs there are sizes of.
pub const NAMES: [&str; 5] = [
    "clip-vit-b32",
    "clip-vit-b16",
    "clip-vit-l14",
    "clip-rn50",
    "clip-rn101",
];

/// Sizes of `name` (arXiv 2103.00020, tables 19 and 20); `None` for what is not one of [`NAMES`].
pub fn released(name: &str) -> Option<Architecture> {
    let transformer = |width: usize, layers| Transformer {
        width,
        layers,
        hidden: 4 * width,
        heads: width / 64,
    };
    let vit = |width, layers, patch| ImageTower::Transformer {
        blocks: transformer(width, layers),
        patch,
        image: 224,
    };
    let resnet = |layers| ImageTower::ResNet {
        width: 64,
        layers,
        heads: 32,
        image: 224,
    };
    let (embedding, text, image) = match name {
        "clip-vit-b32" => (512, 512, vit(768, 12, 32)),
        "clip-vit-b16" => (512, 512, vit(768, 12, 16)),
        "clip-vit-l14" => (768, 768, vit(1024, 24, 14)),
        "clip-rn50" => (1024, 512, resnet([3, 4, 6, 3])),
        "clip-rn101" => (512, 512, resnet([3, 4, 23, 3])),
        _ => return None,
    };
    Some(Architecture {
        embedding,
        family: clip::text::Family::Clip,
        context: clip::tokenizer::CONTEXT,
        text: transformer(text, 12),
        image,
        is_timm: false,
    })
}
