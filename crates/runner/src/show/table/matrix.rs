//! Matrices of what was kept, as CSV: a line a trial, what was learned last, and what was asked about.

use crate::protocols::Shows;
use crate::show::summary::Section;
use crate::start;

/// The section's matrices; `None` where it has none. `learned` and `tested` count sessions from 1, or are ids of datasets.
pub(super) fn render(section: &Section) -> Option<String> {
    let mut out = String::new();
    for (method, start, shots, seed, matrix) in section.matrices() {
        let name = |place: usize| {
            let id = start::datasets(start).nth(place);
            match section.protocol.shows {
                Shows::Datasets => id.unwrap_or_default().to_owned(),
                _ => (place + 1).to_string(),
            }
        };
        let places = (0..matrix.len()).flat_map(|t| (0..matrix.len()).map(move |j| (t, j)));
        for (t, j) in places {
            let Some(tally) = matrix.at(t, j) else {
                continue;
            };
            let method = method.replace('"', "\"\"");
            out += &format!(
                "\"{method}\",{start},{shots},{seed},{},{},{},{},{:.4}\n",
                name(t),
                name(j),
                tally.correct,
                tally.total,
                tally.accuracy()
            );
        }
    }
    let head = "method,trained_on,shots,seed,learned,tested,correct,total,accuracy\n";
    (!out.is_empty()).then(|| format!("{head}{out}"))
}
