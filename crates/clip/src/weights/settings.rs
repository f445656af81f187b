//! What the tensors of a CLIP do not say: its non-linearity, its heads, and how pictures are made ready for it.

use crate::ops::Activation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// The shorter side is resized, then the middle is cut out: OpenAI's, and open_clip's `shortest`.
    #[default]
    Shortest,
    /// Both sides are resized, whatever becomes of the picture's proportions: open_clip's `squash`.
    Squash,
}

/// The filter of the resize.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// OpenAI's.
    #[default]
    Bicubic,
    /// Of a few open_clip models.
    Bilinear,
}

/// How pictures are made ready for the image tower.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Mean of red, green and blue, taken off pixels in 0..1.
    pub mean: [f32; 3],
    /// What they are divided by then.
    pub deviation: [f32; 3],
    /// How a picture becomes a square.
    pub fit: Fit,
    /// The filter of the resize.
    pub interpolation: Interpolation,
}

impl Default for Look {
    /// OpenAI's (`clip/clip.py`, `_transform`).
    #[expect(clippy::excessive_precision, reason = "as published")]
    fn default() -> Self {
        Self {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            deviation: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            fit: Fit::Shortest,
            interpolation: Interpolation::Bicubic,
        }
    }
}

impl Look {
    /// With `mean` and `deviation` as a configuration has them: OpenAI's to the bit where they are OpenAI's to six
    /// digits, as configurations round differently.
    pub(super) fn normalised_by(mut self, mean: [f64; 3], deviation: [f64; 3]) -> Self {
        let snapped = |given: [f64; 3], usual: [f32; 3]| {
            let near = given
                .iter()
                .zip(usual)
                .all(|(g, u)| (g - f64::from(u)).abs() < 1e-6);
            if near { usual } else { given.map(|v| v as f32) }
        };
        let usual = Self::default();
        self.mean = snapped(mean, usual.mean);
        self.deviation = snapped(deviation, usual.deviation);
        self
    }

    /// SigLIP's: mean and deviation of one half, both sides resized.
    pub(super) fn siglip() -> Self {
        Self {
            mean: [0.5; 3],
            deviation: [0.5; 3],
            fit: Fit::Squash,
            interpolation: Interpolation::Bicubic,
        }
    }

    /// Whether it is OpenAI's.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fit = match self.fit {
            Fit::Shortest => "shorter side resized, middle cut out",
            Fit::Squash => "both sides resized",
        };
        let filter = match self.interpolation {
            Interpolation::Bicubic => "bicubic",
            Interpolation::Bilinear => "bilinear",
        };
        let of = |name: &str, v: [f32; 3]| format!("{name} {} {} {}", v[0], v[1], v[2]);
        let numbers = [of("mean", self.mean), of("deviation", self.deviation)];
        write!(f, "{fit}, {filter}, {}", numbers.join(", "))
    }
}

/// What somebody who knows says of weights that come without a configuration, as options or as a TOML file beside them.
/// Nothing of it is needed; all of it may be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Non-linearity of both towers' MLPs.
    pub activation: Option<Activation>,
    /// Attention heads of the image tower.
    pub image_heads: Option<usize>,
    /// Attention heads of the text tower.
    pub text_heads: Option<usize>,
    /// Mean of red, green and blue.
    pub mean: Option<[f64; 3]>,
    /// Their deviation.
    pub deviation: Option<[f64; 3]>,
    /// How a picture becomes a square.
    pub fit: Option<Fit>,
    /// The filter of the resize.
    pub interpolation: Option<Interpolation>,
}

impl Given {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is said here, and where nothing is, what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            activation: self.activation.or(other.activation),
            image_heads: self.image_heads.or(other.image_heads),
            text_heads: self.text_heads.or(other.text_heads),
            mean: self.mean.or(other.mean),
            deviation: self.deviation.or(other.deviation),
            fit: self.fit.or(other.fit),
            interpolation: self.interpolation.or(other.interpolation),
        }
    }

    /// `look` with what is said of pictures.
    pub(super) fn look(&self, look: Look) -> Look {
        let mut out = look.normalised_by(
            self.mean.unwrap_or(look.mean.map(f64::from)),
            self.deviation.unwrap_or(look.deviation.map(f64::from)),
        );
        out.fit = self.fit.unwrap_or(look.fit);
        out.interpolation = self.interpolation.unwrap_or(look.interpolation);
        out
    }
}

/// What nothing beside the tensors says, and was taken as usual; each with what makes it likely.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assumed {
    /// The non-linearity.
    pub activation: Option<String>,
    /// Heads of either tower.
    pub heads: Option<String>,
}

impl Assumed {
    /// One sentence, if anything was assumed.
    pub fn sentence(&self) -> Option<String> {
        let parts: Vec<&str> = [&self.activation, &self.heads]
            .into_iter()
            .filter_map(|said| said.as_deref())
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// What follows the fingerprint of the tensors where they are not run as OpenAI's are: records, prompts and caches must
/// not take one for the other. Empty where they are.
pub(super) fn manner(
    activations: [Activation; 2],
    heads: [(usize, usize); 2],
    usual: [usize; 2],
    look: &Look,
) -> String {
    let name = |activation| match activation {
        Activation::QuickGelu => "quickgelu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelutanh",
    };
    let mut out = match activations {
        [Activation::QuickGelu, Activation::QuickGelu] => String::new(),
        [image, text] if image == text => format!("-{}", name(image)),
        [image, text] => format!("-{}x{}", name(image), name(text)),
    };
    let [(image, _), (text, _)] = heads;
    if [image, text] != usual {
        out += &format!("-heads{image}x{text}");
    }
    if !look.is_usual() {
        let digest = Sha256::digest(look.to_string());
        let digits: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        out += &format!("-pictures{digits}");
    }
    out
}
