//! A decoded picture.

use crate::{Error, Item};

/// 8-bit RGB pixels, rows from the top.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`, red first.
    pub data: Vec<u8>,
}

impl Rgb {
    /// A black picture.
    pub fn new(width: usize, height: usize) -> Self {
        Self {
            width,
            height,
            data: vec![0; width * height * 3],
        }
    }

    /// A picture from `[height, width, 3]` bytes.
    ///
    /// # Panics
    /// When `data` is not `height * width * 3` long.
    pub fn from_raw(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert_eq!(
            data.len(),
            width * height * 3,
            "{width} x {height} pixels of 3 bytes"
        );
        Self {
            width,
            height,
            data,
        }
    }

    /// The picture as a PNG file.
    pub fn png(&self) -> Vec<u8> {
        use image::ImageEncoder;
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(
                &self.data,
                self.width as u32,
                self.height as u32,
                image::ExtendedColorType::Rgb8,
            )
            .expect("a picture with pixels is written to memory");
        bytes
    }

    /// The three bytes at column `x`, row `y`.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.data[at], self.data[at + 1], self.data[at + 2]]
    }
}

/// Where the pictures of a dataset come from: a folder, or a program that draws them.
pub trait Pictures: Send + Sync {
    /// The decoded picture of an item.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Picture`] with the path of the picture.
    fn rgb(&self, item: &Item) -> Result<Rgb, Error>;

    /// A text that changes whenever the picture's pixels can: for caches of what was computed from it.
    ///
    /// # Errors
    /// [`Error::Io`] when the picture cannot be read.
    fn content_key(&self, item: &Item) -> Result<String, Error>;

    /// A text that changes when the picture is replaced, found without reading it where that is possible (length and
    /// time of change of a file). For caches of many pictures; unless overridden, the content key.
    ///
    /// # Errors
    /// [`Error::Io`] when the picture is not there.
    fn stamp(&self, item: &Item) -> Result<String, Error> {
        self.content_key(item)
    }
}
