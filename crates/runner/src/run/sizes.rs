//! Sizes of the released CLIPs by the names that suites use, for when the weights are not at hand.

use clip::text::{Family, Pooling};
use clip::tokenizer::CONTEXT;
use clip::weights::{Architecture, ImageTower, Transformer};

/// Names of the released CLIPs there are sizes of.
pub const NAMES: [&str; 6] = [
    "clip-vit-b32",
    "clip-vit-b16",
    "clip-vit-l14",
    "clip-rn50",
    "clip-rn101",
    "biomedclip",
];

/// Sizes of `name` (arXiv 2103.00020, tables 19 and 20; BiomedCLIP's are those of BERT-base and ViT-B/16, arXiv
/// 2303.00915); `None` for what is not one of [`NAMES`].
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
        "biomedclip" => (512, 768, vit(768, 12, 16)),
        _ => return None,
    };
    let is_bert = name == "biomedclip";
    let (family, context) = if is_bert {
        (Family::Bert(Pooling::First), 256)
    } else {
        (Family::Clip, CONTEXT)
    };
    Some(Architecture {
        embedding,
        family,
        context,
        text: transformer(text, 12),
        image,
        is_timm: is_bert,
    })
}
