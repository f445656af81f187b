//! `promptbed data pixels`: what a model sees of one picture.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{Device, Tensor};
use datasets::transform::test_view;

use crate::cli::Done;

/// Show what a model would see of one picture: after resize (bicubic, antialiased) and centre crop, u8 [N, N, 3].
///
/// Example: promptbed data pixels photo.jpg --size 224 --out pixels.safetensors
#[derive(clap::Args)]
pub struct Pixels {
    /// Picture.
    file: PathBuf,
    /// Pixels a side, N.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Safetensors file to write, with `pixels`.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Pixels {
    pub fn run(self) -> Result<Done> {
        let n = self.size as usize;
        let picture = datasets::open_picture(&self.file)?;
        let (width, height) = (picture.width, picture.height);
        let view = test_view(&picture, n);
        let hash = crate::hash::hex(&view.data);
        if let Some(out) = &self.out {
            let tensor = Tensor::from_vec(view.data, (n, n, 3), &Device::Cpu)?;
            let bytes = safetensors::serialize([("pixels", &tensor)], None)?;
            crate::store::replace(out, &bytes)?;
        }
        crate::out!(
            "{}: {width} x {height} -> {n} x {n}, sha256 {hash}",
            self.file.display()
        );
        Ok(Done::All)
    }
}
