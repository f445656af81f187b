//! Contact sheets: a few pictures of every class in one, so that a person sees what a model sees.

use crate::transform::test_view;
use crate::{Error, Item, Pictures, Rgb, load};

/// Pixels between two pictures.
const GAP: usize = 2;
const PAPER: u8 = 255;

/// How a contact sheet is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Pictures a class, the first of the list.
    pub per_class: usize,
    /// Side of a picture in pixels; it is shown as [`test_view`] gives it.
    pub cell: usize,
    /// White pixels left of every row, for whoever writes the class names.
    pub margin: usize,
}

/// A finished sheet.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// The picture.
    pub picture: Rgb,
    /// Class name of every row, and the pixel row its pictures start at.
    pub rows: Vec<(String, usize)>,
}

/// One row a class, in order of label, of the first pictures of each.
///
/// # Errors
/// The first picture that does not decode, with its path.
///
/// # Panics
/// When the cell is 0.
pub fn sheet(pictures: &dyn Pictures, items: &[Item], layout: Layout) -> Result<Sheet, Error> {
    let mut classes: std::collections::BTreeMap<u32, Vec<Item>> = std::collections::BTreeMap::new();
    for item in items {
        let class = classes.entry(item.label).or_default();
        if class.len() < layout.per_class {
            class.push(item.clone());
        }
    }
    let step = layout.cell + GAP;
    let (width, height) = (
        layout.margin + layout.per_class * step + GAP,
        classes.len() * step + GAP,
    );
    let mut picture = Rgb {
        width,
        height,
        data: vec![PAPER; width * height * 3],
    };
    let mut rows = Vec::with_capacity(classes.len());
    for (row, class) in classes.into_values().enumerate() {
        let top = GAP + row * step;
        let views = load::all(pictures, &class, |_, rgb| test_view(&rgb, layout.cell))?;
        for (column, view) in views.iter().enumerate() {
            let left = layout.margin + GAP + column * step;
            for (y, line) in view.data.chunks_exact(layout.cell * 3).enumerate() {
                let at = ((top + y) * width + left) * 3;
                picture.data[at..at + line.len()].copy_from_slice(line);
            }
        }
        rows.push((
            class
                .first()
                .map(|item| item.class_name.clone())
                .unwrap_or_default(),
            top,
        ));
    }
    Ok(Sheet { picture, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain;

    impl Pictures for Plain {
        fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
            let value: u8 = item.path.to_string_lossy().parse().unwrap();
            Ok(Rgb::from_raw(6, 5, vec![value; 90]))
        }

        fn content_key(&self, item: &Item) -> Result<String, Error> {
            Ok(item.path.display().to_string())
        }
    }

    #[test]
    fn every_class_has_a_row_of_its_first_pictures() {
        let items: Vec<Item> = [(10, 1), (20, 0), (30, 1), (40, 1)]
            .iter()
            .map(|(path, label)| Item {
                path: path.to_string().into(),
                label: *label,
                class_name: format!("class {label}"),
            })
            .collect();
        let sheet = sheet(
            &Plain,
            &items,
            Layout {
                per_class: 2,
                cell: 4,
                margin: 3,
            },
        )
        .unwrap();
        assert_eq!(
            sheet.rows,
            [("class 0".to_owned(), 2), ("class 1".to_owned(), 8)]
        );
        assert_eq!((sheet.picture.width, sheet.picture.height), (17, 14));
        let at = |x, y| sheet.picture.pixel(x, y)[0];
        assert_eq!(
            [at(5, 2), at(11, 2), at(5, 8), at(11, 8)],
            [20, 255, 10, 30]
        );
        assert_eq!(
            [at(4, 2), at(5, 1), at(8, 5), at(9, 5)],
            [255, 255, 20, 255]
        );
        let png = crate::decode(&sheet.picture.png()).unwrap();
        assert_eq!(png, sheet.picture);
    }
}
