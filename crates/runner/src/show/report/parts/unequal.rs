//! Macro accuracy, where classes have unequal numbers of pictures and it is another number than accuracy.

use super::{Contents, Fold, Part};
use crate::show::report::view::TableView;
use crate::show::summary::Score;
use crate::show::table;

/// Of sections whose classes are unequal.
pub(super) const PART: Part = Part {
    title: "Macro accuracy",
    charts: &[],
    fold: Fold::First,
    fill: |pages| {
        if !pages.section.is_unequal() {
            return None;
        }
        let prose = "Classes have unequal numbers of test images here. Macro accuracy is the mean of the classes' recall: a \
                     rare class counts as much as a common one.";
        let tables = table::section_tables(&pages.section.scored(Score::Classes));
        let tables = tables.iter().map(TableView::of);
        Contents::of_tables(vec![prose.to_owned()], tables)
    },
};
