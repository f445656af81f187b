//! How a method is drawn, the same everywhere: `assets/looks.toml`, by algorithm. What it is called, its entry says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::show::summary::Method;

/// Shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Marker {
    /// Disc.
    Circle,
    /// Square.
    Square,
    /// Triangle, point up.
    Triangle,
    /// Square on its corner.
    Diamond,
    /// Triangle, point down.
    Down,
    /// Diagonal cross.
    Cross,
    /// Upright cross.
    Plus,
    /// Five-pointed star.
    Star,
    /// Pentagon.
    Pentagon,
    /// Hexagon.
    Hexagon,
}

/// Every marker, in the order variants of one algorithm step through.
const MARKERS: [Marker; 10] = [
    Marker::Circle,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::Down,
    Marker::Cross,
    Marker::Plus,
    Marker::Star,
    Marker::Pentagon,
    Marker::Hexagon,
];

/// Pattern of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dash {
    /// Unbroken.
    #[default]
    Solid,
    /// Long strokes.
    Dashed,
    /// Short strokes.
    Dotted,
}

/// How a method is called and drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Name for tables and legends.
    pub name: String,
    /// Red, green, blue.
    pub colour: (u8, u8, u8),
    /// Shape of its points.
    pub marker: Marker,
    /// Pattern of its lines.
    pub dash: Dash,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    colour: String,
    marker: Marker,
    #[serde(default)]
    dash: Dash,
}

static ROWS: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
    toml::from_str(include_str!("../../assets/looks.toml")).expect("looks.toml is tested")
});

/// What follows the name of a method that chose by test or whole validation pictures.
pub const PEEKS: &str = " \u{2020}";
/// Colour of methods that stand behind the few that matter.
pub const GREY: (u8, u8, u8) = (0xb4, 0xb4, 0xb4);

/// The look of a method. The first method of an algorithm wears the algorithm's; further ones keep its colour, with
/// other markers and broken lines, and go by their labels.
pub fn look(method: &Method) -> Look {
    let mut look = match ROWS.get(&method.algorithm.replace('_', "-")) {
        Some(row) => Look {
            name: title(&method.algorithm),
            colour: parse_colour(&row.colour).expect("looks.toml is tested"),
            marker: row.marker,
            dash: row.dash,
        },
        None => derived(&method.algorithm),
    };
    if method.label != method.algorithm {
        look.name.clone_from(&method.label);
    }
    if method.peeks {
        look.name += PEEKS;
    }
    if method.is_grey {
        look.colour = GREY;
    }
    if method.variant > 0 {
        let place = MARKERS
            .iter()
            .position(|m| *m == look.marker)
            .expect("MARKERS has every marker");
        look.marker = MARKERS[(place + 3 * method.variant) % MARKERS.len()];
        look.dash = if method.variant % 2 == 1 {
            Dash::Dashed
        } else {
            Dash::Dotted
        };
    }
    look
}

/// Its title in the registry, or its own name where another program ran it.
fn title(algorithm: &str) -> String {
    let id = algorithm.replace('_', "-");
    methods::find(&id).map_or(algorithm, |e| e.title).to_owned()
}

/// Colour and marker of every method of the registry: its row's, or else those that its name leads to, or the next that
/// no other has. Most keep theirs when a method is added.
static WORN: LazyLock<BTreeMap<&str, (usize, Marker)>> = LazyLock::new(|| {
    let mut worn = BTreeMap::new();
    let mut taken: BTreeSet<(usize, Marker)> = ROWS
        .values()
        .zip(0..)
        .map(|(row, at)| (at, row.marker))
        .collect();
    let pairs = ROWS.len() * MARKERS.len();
    for entry in methods::METHODS
        .iter()
        .filter(|e| !ROWS.contains_key(e.name))
    {
        let first = hash(entry.name) % pairs;
        let mut looks = (0..pairs).map(|step| (first + step) % pairs);
        let pair = |at: usize| (at % ROWS.len(), MARKERS[at / ROWS.len()]);
        let free = looks.find(|at| !taken.contains(&pair(*at)));
        let look = pair(free.unwrap_or(first));
        taken.insert(look);
        worn.insert(entry.name, look);
    }
    worn
});

/// A look for an algorithm without a row: that of [`WORN`], and for one that is not in the registry one of its name.
fn derived(algorithm: &str) -> Look {
    let colours: Vec<_> = ROWS
        .values()
        .filter_map(|row| parse_colour(&row.colour))
        .collect();
    let own = (
        hash(algorithm) % colours.len(),
        MARKERS[hash(algorithm) % MARKERS.len()],
    );
    let id = algorithm.replace('_', "-");
    let (colour, marker) = WORN.get(id.as_str()).copied().unwrap_or(own);
    Look {
        name: title(algorithm),
        colour: colours[colour],
        marker,
        dash: Dash::Dashed,
    }
}

/// The same number for the same name, on every machine.
fn hash(name: &str) -> usize {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| {
        (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
    });
    // The low bits of so short a name say little.
    (hash >> 8) as usize
}

/// `#RRGGBB`.
fn parse_colour(text: &str) -> Option<(u8, u8, u8)> {
    let digits = text
        .strip_prefix('#')
        .filter(|digits| digits.len() == 6 && digits.is_ascii())?;
    let channel = |i: usize| u8::from_str_radix(&digits[i..i + 2], 16).ok();
    Some((channel(0)?, channel(2)?, channel(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(label: &str, algorithm: &str, variant: usize) -> Method {
        Method {
            label: label.to_owned(),
            algorithm: algorithm.to_owned(),
            variant,
            is_trained: true,
            peeks: false,
            is_grey: false,
        }
    }

    #[test]
    fn every_row_is_unmistakable() {
        let mut seen = BTreeSet::new();
        for algorithm in ROWS.keys() {
            let look = look(&method(algorithm, algorithm, 0));
            assert!(seen.insert(look.colour), "{algorithm} shares its colour");
            assert_ne!(look.name, "");
        }
        assert!(seen.len() >= 11);
    }

    #[test]
    fn no_two_methods_share_colour_and_marker() {
        let mut seen = BTreeMap::new();
        for entry in methods::METHODS {
            let look = look(&method(entry.name, entry.name, 0));
            let before = seen.insert((look.colour, look.marker), entry.name);
            assert_eq!(before, None, "{} looks the same", entry.name);
        }
    }

    #[test]
    fn a_method_looks_the_same_wherever_it_stands() {
        let coop = look(&method("coop", "coop", 0));
        assert_eq!(
            (coop.name.as_str(), coop.colour, coop.marker),
            ("CoOp", (0, 0x72, 0xB2), Marker::Circle)
        );
        assert_eq!(
            look(&method("mine", "mine", 0)),
            look(&method("mine", "mine", 0))
        );
        assert_eq!(
            look(&method("zero_shot", "zero_shot", 0)).name,
            "Zero-shot CLIP"
        );
    }

    #[test]
    fn variants_keep_the_colour_and_change_the_rest() {
        let looks: Vec<Look> = (0..3)
            .map(|i| look(&method(&format!("coop-m{i}"), "coop", i)))
            .collect();
        assert!(looks.iter().all(|l| l.colour == looks[0].colour));
        assert_eq!(
            looks
                .iter()
                .map(|l| l.marker)
                .collect::<BTreeSet<_>>()
                .len(),
            3
        );
        assert_eq!(looks[1].name, "coop-m1");
    }
}
