//! Which classes take part in a training or a test.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::numpy;

/// Which classes take part: the base-to-novel protocol trains on one half and tests on both, protocols of several stages
/// take one part or session after the other. Written as its [`ClassSet::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ClassSet {
    /// Every class.
    All,
    /// The first ceil(n/2) labels in ascending order.
    Base,
    /// The others.
    Novel,
    /// Parts `first..=last`, counted from 1, of the labels in ascending order cut into `of` parts as even as can be:
    /// part `i` ends at ceil(i·n/of), so that part 1 of 2 is [`ClassSet::Base`].
    Parts {
        /// First part.
        first: usize,
        /// Last part, no smaller.
        last: usize,
        /// Parts there are, no fewer.
        of: usize,
    },
    /// What is learned in some sessions of class-incremental learning.
    Sessions {
        /// First session, from 1.
        first: usize,
        /// Last session, no smaller.
        last: usize,
        /// How the classes are cut into sessions.
        cut: Sessions,
    },
}

/// How the classes of a dataset are cut into sessions: their order, and where a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sessions {
    /// How many.
    pub count: usize,
    /// Classes of the first session, of which the field writes `50-5` or B50; the others share the rest as evenly as can
    /// be. `None`: all share alike.
    pub first: Option<usize>,
    /// In which order the classes come.
    pub order: Order,
}

/// In which order classes come, session after session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// By label, as AttriCLIP has them.
    Labels,
    /// As numpy's `RandomState(seed).permutation(n)` has it; with seed 1993 that of PyCIL, PROOF and C3Box.
    Shuffled(u32),
    /// Of 100 classes, the order of iCaRL's run on CIFAR-100, which PODNet, DyTox, Continual-CLIP and RAPF took over.
    Icarl,
}

/// iCaRL's order of CIFAR-100's classes.
const ICARL: [usize; 100] = [
    87, 0, 52, 58, 44, 91, 68, 97, 51, 15, 94, 92, 10, 72, 49, 78, 61, 14, 8, 86, 84, 96, 18, 24,
    32, 45, 88, 11, 4, 67, 69, 66, 77, 47, 79, 93, 29, 50, 57, 83, 17, 81, 41, 12, 37, 59, 25, 20,
    80, 73, 1, 28, 6, 46, 62, 82, 53, 9, 31, 75, 38, 63, 33, 74, 27, 22, 36, 3, 16, 21, 60, 19, 70,
    90, 89, 43, 5, 42, 65, 76, 40, 30, 23, 85, 2, 95, 56, 48, 71, 64, 98, 13, 99, 7, 34, 55, 54,
    26, 35, 39,
];

impl Order {
    /// The places of `n` classes in label order, as they come; `None` where there is no such order of `n` classes.
    pub fn of(self, n: usize) -> Option<Vec<usize>> {
        match self {
            Self::Labels => Some((0..n).collect()),
            Self::Shuffled(seed) => Some(numpy::permutation(seed, n)),
            Self::Icarl => (n == ICARL.len()).then(|| ICARL.to_vec()),
        }
    }
}

impl Sessions {
    /// Place behind the last class of session `number` of `n` classes; 0 of session 0.
    fn end(self, number: usize, n: usize) -> usize {
        match (number, self.first) {
            (0, _) => 0,
            (number, None) => (number * n).div_ceil(self.count),
            (number, Some(first)) => {
                let first = first.min(n);
                first + ((number - 1) * (n - first)).div_ceil(self.count.max(2) - 1)
            }
        }
    }

    /// `-of-10`, `-of-6-after-50`, then `-shuffled-1993` or `-icarl` where they do not come by label.
    fn name(self) -> String {
        let mut name = format!("-of-{}", self.count);
        if let Some(first) = self.first {
            name += &format!("-after-{first}");
        }
        match self.order {
            Order::Labels => {}
            Order::Shuffled(seed) => name += &format!("-shuffled-{seed}"),
            Order::Icarl => name += "-icarl",
        }
        name
    }

    /// What [`Sessions::name`] wrote, less its `-of-`.
    fn named(name: &str) -> Option<Self> {
        let (name, order) = match (name.strip_suffix("-icarl"), name.split_once("-shuffled-")) {
            (Some(rest), _) => (rest, Order::Icarl),
            (_, Some((rest, seed))) => (rest, Order::Shuffled(seed.parse().ok()?)),
            _ => (name, Order::Labels),
        };
        let (count, first) = match name.split_once("-after-") {
            Some((count, first)) => (count, Some(first.parse().ok()?)),
            None => (name, None),
        };
        let count = count.parse().ok()?;
        Some(Self {
            count,
            first,
            order,
        })
    }
}

impl ClassSet {
    /// `all`, `base`, `novel`, `part-2-of-10`, `parts-1-2-of-10`, or the same of sessions, as `sessions-1-2-of-10-icarl`.
    pub fn name(self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Base => "base".to_owned(),
            Self::Novel => "novel".to_owned(),
            Self::Parts { first, last, of } if first == last => format!("part-{first}-of-{of}"),
            Self::Parts { first, last, of } => format!("parts-{first}-{last}-of-{of}"),
            Self::Sessions { first, last, cut } if first == last => {
                format!("session-{first}{}", cut.name())
            }
            Self::Sessions { first, last, cut } => format!("sessions-{first}-{last}{}", cut.name()),
        }
    }

    /// The set of that name; `None` where there is no such set.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "all" => return Some(Self::All),
            "base" => return Some(Self::Base),
            "novel" => return Some(Self::Novel),
            _ => {}
        }
        let (parts, of) = name.split_once("-of-")?;
        let (kind, numbers) = parts.split_once('-')?;
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let (set, count) = if kind.starts_with("part") {
            let of = of.parse().ok()?;
            (Self::Parts { first, last, of }, of)
        } else {
            let cut = Sessions::named(of)?;
            (Self::Sessions { first, last, cut }, cut.count)
        };
        // Only what `name` writes: no "part-0-of-2", no "parts-2-2-of-3", no "part-01-of-2".
        (1 <= first && first <= last && last <= count && set.name() == name).then_some(set)
    }

    /// Which of `n` classes are in the set, by their places in label order, and in which order they come.
    pub fn places(self, n: usize) -> Vec<usize> {
        let range = self.range(n);
        match self {
            // Without such an order, no class is left.
            Self::Sessions { cut, .. } => {
                cut.order.of(n).map_or_else(Vec::new, |o| o[range].to_vec())
            }
            _ => range.collect(),
        }
    }

    /// Which of `n` classes are in the set, by their places in the order in which they come: that of sessions, else that of
    /// labels.
    pub fn range(self, n: usize) -> Range<usize> {
        let (first, last, of) = match self {
            Self::All => return 0..n,
            Self::Base => (1, 1, 2),
            Self::Novel => (2, 2, 2),
            Self::Parts { first, last, of } => (first, last, of),
            Self::Sessions { first, last, cut } => return cut.end(first - 1, n)..cut.end(last, n),
        };
        let end = |part: usize| (part * n).div_ceil(of);
        end(first - 1)..end(last)
    }
}

impl std::fmt::Display for ClassSet {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(&self.name())
    }
}

impl From<ClassSet> for String {
    fn from(set: ClassSet) -> Self {
        set.name()
    }
}

impl TryFrom<String> for ClassSet {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| {
            format!("{name:?} is no class set; there are all, base, novel, parts such as part-2-of-10 and \
                     sessions such as session-2-of-10")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_class_once_and_halves_are_two_of_them() {
        for n in 0..40 {
            assert_eq!(ClassSet::Base.range(n), 0..n.div_ceil(2));
            assert_eq!(ClassSet::Novel.range(n), n.div_ceil(2)..n);
            for of in 1..12 {
                let parts = (1..=of).map(|i| ClassSet::Parts {
                    first: i,
                    last: i,
                    of,
                });
                let cut: Vec<usize> = parts.flat_map(|part| part.range(n)).collect();
                assert_eq!(cut, (0..n).collect::<Vec<_>>());
                let whole = ClassSet::Parts {
                    first: 1,
                    last: of,
                    of,
                };
                assert_eq!(whole.range(n), ClassSet::All.range(n));
            }
        }
    }

    #[test]
    fn class_sets_are_read_by_the_name_they_are_written_with() {
        let one = ClassSet::Parts {
            first: 3,
            last: 3,
            of: 10,
        };
        let some = ClassSet::Parts {
            first: 1,
            last: 3,
            of: 10,
        };
        assert_eq!(
            (one.name().as_str(), some.name().as_str()),
            ("part-3-of-10", "parts-1-3-of-10")
        );
        let cut = |first, order| Sessions {
            count: 6,
            first,
            order,
        };
        let session = |last, cut| ClassSet::Sessions {
            first: 2,
            last,
            cut,
        };
        for (set, name) in [
            (session(2, cut(None, Order::Labels)), "session-2-of-6"),
            (
                session(3, cut(Some(50), Order::Icarl)),
                "sessions-2-3-of-6-after-50-icarl",
            ),
            (
                session(6, cut(None, Order::Shuffled(7))),
                "sessions-2-6-of-6-shuffled-7",
            ),
        ] {
            assert_eq!(set.name(), name);
            assert_eq!(ClassSet::named(name), Some(set));
        }
        for set in [ClassSet::All, ClassSet::Base, ClassSet::Novel, one, some] {
            assert_eq!(ClassSet::named(&set.name()), Some(set));
        }
        for wrong in [
            "old",
            "part-0-of-2",
            "part-3-of-2",
            "parts-2-2-of-3",
            "part-01-of-2",
            "parts-1-of-2",
            "session-7-of-6",
            "session-2-of-6-shuffled-",
            "sessions-2-of-6-shuffled-07",
            "",
        ] {
            assert_eq!(ClassSet::named(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sessions_cover_every_class_once_in_their_order() {
        let cut = |count, first, order| Sessions {
            count,
            first,
            order,
        };
        let session = |cut, number| ClassSet::Sessions {
            first: number,
            last: number,
            cut,
        };
        for order in [Order::Labels, Order::Shuffled(1993)] {
            for n in 10..40 {
                for first in [None, Some(1), Some(n / 2)] {
                    let cut = cut(5, first, order);
                    let sets = (1..=5).map(|i| session(cut, i));
                    let sizes: Vec<usize> = sets.clone().map(|s| s.range(n).len()).collect();
                    let all: Vec<usize> = sets.flat_map(|s| s.places(n)).collect();
                    assert_eq!(Some(all), order.of(n), "{cut:?}");
                    let rest = if let Some(first) = first {
                        assert_eq!(sizes[0], first);
                        &sizes[1..]
                    } else {
                        &sizes[..]
                    };
                    let (low, high) = (rest.iter().min().unwrap(), rest.iter().max().unwrap());
                    assert!(high - low <= 1 && *low > 0, "{sizes:?}");
                }
            }
        }
        // CIFAR-100 as Continual-CLIP and RAPF have it, ten sessions of ten; and after the first fifty, five of ten.
        let icarl = session(cut(10, None, Order::Icarl), 1);
        assert_eq!(icarl.places(100), [87, 0, 52, 58, 44, 91, 68, 97, 51, 15]);
        assert!(icarl.places(99).is_empty());
        let half = cut(6, Some(50), Order::Labels);
        let sizes = (1..=6).map(|i| session(half, i).range(100).len());
        assert!(sizes.eq([50, 10, 10, 10, 10, 10]));
        let mut every = ICARL;
        every.sort_unstable();
        assert!(every.into_iter().eq(0..100));
    }
}
