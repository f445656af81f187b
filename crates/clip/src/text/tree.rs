//! Text sequences as packed rows: trees in which every start that sequences share has its rows once.
//!
//! "a photo of a sea horse." and "a photo of a sea lion." go the same way up to "sea"; the tower is causal, so that their
//! hidden states are the same up to there (arXiv 2103.00020, section 2.4).

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, bail};

use super::Slot;
use crate::ops::Layout;

/// One position of a packed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// `None` where it entered at a later block.
    pub(crate) slot: Option<Slot>,
    pub(crate) position: usize,
}

/// Sequences laid out. `R` rows.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) layout: Arc<Layout>,
    /// What is in each of the `R` rows.
    pub(crate) rows: Vec<Row>,
    /// Packed rows that hold context, with the context row.
    pub(crate) context: Arc<Vec<(usize, usize)>>,
}

/// What the sequences of a plan have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// What they start with, but for the last row of each. Rows see those before them.
    Starts,
    /// Nothing.
    Nothing {
        /// Whether rows see only those before them, and not all of their sequence.
        causal: bool,
    },
}

impl Sharing {
    /// The rows of `sequence` that are not those of the one `before` it, both sorted among all.
    fn own(self, before: &[Slot], sequence: &[Slot]) -> usize {
        if self != Self::Starts {
            return sequence.len();
        }
        let same = before.iter().zip(sequence).take_while(|(a, b)| a == b);
        let shared = same.count().min(before.len() - 1).min(sequence.len() - 1);
        sequence.len() - shared
    }

    /// Cuts `sequences`, which are sorted where they share, into runs of at most `most` rows, unless one alone has more.
    pub(crate) fn cut(self, sequences: &[&[Slot]], most: usize) -> Vec<Range<usize>> {
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut rows = 0;
        for (i, sequence) in sequences.iter().enumerate() {
            let more = match i {
                0 => sequence.len(),
                _ => self.own(sequences[i - 1], sequence),
            };
            match pieces.last_mut() {
                Some(piece) if rows + more <= most => {
                    piece.end = i + 1;
                    rows += more;
                }
                _ => {
                    pieces.push(i..i + 1);
                    rows = sequence.len();
                }
            }
        }
        pieces
    }
}

impl Packed {
    /// Lays out sequences of at least one slot each, which are sorted where they share their starts. Sequence after
    /// sequence ends in a later node.
    pub(crate) fn new(sequences: &[&[Slot]], sharing: Sharing) -> Self {
        let mut trees = Trees::default();
        match sharing {
            Sharing::Starts => {
                debug_assert!(sequences.is_sorted(), "sequences that share are sorted");
                trees.grow(sequences, 0, None);
            }
            Sharing::Nothing { .. } => sequences.iter().for_each(|s| trees.end(s, 0, None)),
        }
        let layout = match sharing {
            Sharing::Nothing { causal: false } => {
                let lengths: Vec<usize> = trees.nodes.iter().map(|(_, n)| *n).collect();
                Layout::apart(&lengths)
            }
            _ => Layout::trees(&trees.nodes, trees.ends),
        };
        let context = trees.rows.iter().enumerate();
        let context = context.filter_map(|(at, row)| match row.slot {
            Some(Slot::Context(source)) => Some((at, source)),
            _ => None,
        });
        Self {
            context: Arc::new(context.collect()),
            layout: Arc::new(layout),
            rows: trees.rows,
        }
    }

    /// Whether packed rows are the sequences one after the other.
    pub(crate) fn is_apart(&self) -> bool {
        self.layout.nodes().len() == self.layout.sequences()
            && self.layout.nodes().iter().copied().eq(self.layout.ends())
    }

    /// With `count` more rows in every sequence, the first at `position`; and for each of the new packed rows the old one
    /// that it is (any, where it is new).
    ///
    /// # Errors
    /// At position 0, and when a sequence ends before `position`.
    pub(crate) fn grown(&self, position: usize, count: usize) -> Result<(Self, Vec<u32>)> {
        let shortest = self.layout.ends().map(|n| n.reach()).min();
        if position == 0 || shortest.is_some_and(|length| length <= position) {
            bail!(
                "rows enter a text behind its start token and before its end token; position {position} is not there in \
                 all sequences"
            );
        }
        let layout = self.layout.grown(position, count);
        let (mut rows, mut from) = (Vec::with_capacity(layout.rows()), Vec::new());
        for (old, new) in self.layout.nodes().iter().zip(layout.nodes()) {
            for (at, position_now) in (new.position..new.reach()).enumerate() {
                let entered = (position..position + count).contains(&position_now);
                // Rows behind those that entered inside of this node lie `count` further on in it.
                let shift = if old.length < new.length && position_now >= position + count {
                    count
                } else {
                    0
                };
                let source = old.start + if entered { 0 } else { at - shift };
                let slot = if entered {
                    None
                } else {
                    self.rows[source].slot
                };
                rows.push(Row {
                    slot,
                    position: position_now,
                });
                from.push(source as u32);
            }
        }
        let context = rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| match row.slot {
                Some(Slot::Context(source)) => Some((at, source)),
                _ => None,
            });
        let grown = Self {
            context: Arc::new(context.collect()),
            layout: Arc::new(layout),
            rows,
        };
        Ok((grown, from))
    }

    /// Packed rows that hold positions `first..first + count`, with the position's index as source.
    pub(crate) fn rows_at(&self, first: usize, count: usize) -> Arc<Vec<(usize, usize)>> {
        let held = self.rows.iter().enumerate();
        let held = held.filter(|(_, row)| (first..first + count).contains(&row.position));
        Arc::new(held.map(|(at, row)| (at, row.position - first)).collect())
    }
}

/// Trees while they grow.
#[derive(Default)]
struct Trees {
    /// Parent and rows of each node, depth first.
    nodes: Vec<(Option<usize>, usize)>,
    rows: Vec<Row>,
    /// The node in which each sequence ends.
    ends: Vec<usize>,
}

impl Trees {
    /// Adds what comes from `position` on of `sequences`, which are sorted and the same before it.
    fn grow(&mut self, sequences: &[&[Slot]], position: usize, parent: Option<usize>) {
        let [first, rest @ ..] = sequences else {
            return;
        };
        if rest.is_empty() {
            return self.end(first, position, parent);
        }
        // The last row of each stays its own, for that is where it is read.
        let shared = rest.iter().fold(first.len() - 1, |n, s| {
            let same = first.iter().zip(s.iter()).take_while(|(a, b)| a == b);
            same.count().min(n).min(s.len() - 1)
        });
        let (parent, position) = if shared > position {
            let node = self.push(&first[position..shared], position, parent);
            (Some(node), shared)
        } else {
            (parent, position)
        };
        for branch in sequences.chunk_by(|a, b| a[position] == b[position]) {
            // Those that end here come first among those that go on from the same slot.
            let last = branch
                .iter()
                .take_while(|s| s.len() == position + 1)
                .count();
            for sequence in &branch[..last] {
                self.end(sequence, position, parent);
            }
            self.grow(&branch[last..], position, parent);
        }
    }

    /// Adds the rest of a sequence that shares no more.
    fn end(&mut self, slots: &[Slot], position: usize, parent: Option<usize>) {
        let node = self.push(&slots[position..], position, parent);
        self.ends.push(node);
    }

    fn push(&mut self, slots: &[Slot], position: usize, parent: Option<usize>) -> usize {
        self.nodes.push((parent, slots.len()));
        let rows = slots.iter().zip(position..);
        self.rows.extend(rows.map(|(&slot, position)| Row {
            slot: Some(slot),
            position,
        }));
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands for a row that entered later.
    const ENTERED: Slot = Slot::Token(1000);

    fn tokens(ids: &[u32]) -> Vec<Slot> {
        ids.iter().map(|i| Slot::Token(*i)).collect()
    }

    /// Reads every sequence back out of the packed rows.
    fn read(packed: &Packed) -> Vec<Vec<Slot>> {
        let nodes = packed.layout.nodes();
        let index = |n: crate::ops::Node| nodes.iter().position(|m| *m == n).unwrap();
        let ends: Vec<usize> = packed.layout.ends().map(index).collect();
        ends.iter()
            .map(|&end| {
                let path = packed.layout.path(end);
                let rows = path.iter().map(|&row| packed.rows[row]);
                rows.enumerate()
                    .map(|(position, row)| {
                        assert_eq!(row.position, position);
                        row.slot.unwrap_or(ENTERED)
                    })
                    .collect()
            })
            .collect()
    }

    /// Sorted, with what they start with shared.
    fn shared(sequences: &[Vec<Slot>]) -> (Vec<Vec<Slot>>, Packed) {
        let mut sorted = sequences.to_vec();
        sorted.sort();
        let packed = Packed::new(&slices(&sorted), Sharing::Starts);
        (sorted, packed)
    }

    fn slices(sequences: &[Vec<Slot>]) -> Vec<&[Slot]> {
        sequences.iter().map(Vec::as_slice).collect()
    }

    #[test]
    fn shared_starts_have_their_rows_once_and_every_sequence_is_there_in_order() {
        let (sorted, packed) = shared(&[
            tokens(&[1, 5, 6, 9]),
            tokens(&[1, 2, 3, 9]),
            tokens(&[1, 2, 4, 9]),
            tokens(&[1, 2, 9]),
            tokens(&[1, 2, 3, 7, 9]),
        ]);
        assert_eq!(read(&packed), sorted);
        // 1 | 2 | 3 | 7 9; 9 | 4 9 | 9 | 5 6 9
        assert_eq!(packed.rows.len(), 1 + 1 + 1 + 2 + 1 + 2 + 1 + 3);
    }

    #[test]
    fn every_sequence_keeps_a_last_row_of_its_own() {
        for sequences in [
            vec![tokens(&[1, 2, 9]), tokens(&[1, 2, 9])],
            vec![tokens(&[9]), tokens(&[9])],
            vec![tokens(&[1, 9]), tokens(&[1, 9, 2, 9])],
            vec![tokens(&[1, 2, 9]), tokens(&[1, 2, 3, 9]), tokens(&[1, 2])],
            vec![tokens(&[1, 2, 9])],
        ] {
            let (sorted, packed) = shared(&sequences);
            assert_eq!(read(&packed), sorted);
            let ends: Vec<usize> = packed.layout.ends().map(|n| n.start).collect();
            assert!(ends.is_sorted(), "sequences end in their order: {ends:?}");
        }
    }

    #[test]
    fn contexts_of_their_own_are_not_shared() {
        let own = |row| vec![Slot::Token(1), Slot::Context(row), Slot::Token(9)];
        let (_, packed) = shared(&[own(0), own(1)]);
        assert_eq!(packed.rows.len(), 5);
        assert_eq!(*packed.context, [(1, 0), (3, 1)]);
        assert_eq!(*packed.rows_at(1, 2), [(1, 0), (2, 1), (3, 0), (4, 1)]);
    }

    #[test]
    fn pieces_are_as_many_rows_as_their_trees_have() {
        // Lengths and starts of every kind: the digits of a number in base 3, and an end.
        let mut sequences: Vec<Vec<Slot>> = (0..400u32)
            .map(|i| {
                let length = i % 6;
                let digits = (0..length).map(|d| i / 3u32.pow(d) % 3);
                tokens(&digits.chain([9]).collect::<Vec<_>>())
            })
            .collect();
        sequences.sort();
        let sorted = slices(&sequences);
        for (sharing, most) in [
            (Sharing::Starts, 1),
            (Sharing::Starts, 40),
            (Sharing::Starts, usize::MAX),
            (Sharing::Nothing { causal: true }, 40),
            (Sharing::Nothing { causal: false }, usize::MAX),
        ] {
            let pieces = sharing.cut(&sorted, most);
            let flat: Vec<usize> = pieces.iter().cloned().flatten().collect();
            assert_eq!(flat, (0..sorted.len()).collect::<Vec<_>>());
            for (i, piece) in pieces.iter().enumerate() {
                let packed = Packed::new(&sorted[piece.clone()], sharing);
                assert_eq!(read(&packed), sequences[piece.clone()]);
                let rows = packed.rows.len();
                assert!(rows <= most || piece.len() == 1, "{rows} of {most}");
                // None was cut before its time.
                if i + 1 < pieces.len() {
                    let longer = Packed::new(&sorted[piece.start..piece.end + 1], sharing);
                    assert!(longer.rows.len() > most);
                }
            }
        }
    }

    #[test]
    fn rows_enter_every_sequence_once_and_the_others_are_what_they_were() {
        let c = |i| Slot::Context(i);
        let [start, end] = [Slot::Token(1), Slot::Token(9)];
        let (sequences, packed) = shared(&[
            vec![start, c(0), c(1), Slot::Token(5), end],
            vec![start, c(0), c(1), Slot::Token(6), Slot::Token(7), end],
            vec![start, c(0), c(1), end],
            vec![start, c(2), Slot::Token(5), end],
            vec![start, c(0), end],
            vec![start, c(3), end],
        ]);
        for position in [1, 2] {
            let (grown, from) = packed.grown(position, 3).unwrap();
            let expected: Vec<Vec<Slot>> = sequences
                .iter()
                .map(|s| [&s[..position], &[ENTERED; 3], &s[position..]].concat())
                .collect();
            assert_eq!(read(&grown), expected);
            assert_eq!(from.len(), grown.rows.len());
            for (row, from) in grown.rows.iter().zip(&from) {
                let old = packed.rows[*from as usize];
                if let Some(slot) = row.slot {
                    assert_eq!(Some(slot), old.slot);
                }
            }
            for &(row, source) in grown.context.iter() {
                assert_eq!(grown.rows[row].slot, Some(c(source)));
            }
            let before = packed.rows.len();
            // Behind the start token, which all share; or behind the three contexts that differ.
            let entered = grown.rows.len() - before;
            assert_eq!(entered, if position == 1 { 3 } else { 9 });
        }
        assert!(packed.grown(0, 1).is_err());
        assert!(packed.grown(3, 1).is_err());
    }

    #[test]
    fn only_sequences_one_after_the_other_are_apart() {
        let both = [tokens(&[1, 2, 9]), tokens(&[1, 3, 9])];
        for causal in [false, true] {
            let packed = Packed::new(&slices(&both), Sharing::Nothing { causal });
            assert!(packed.is_apart() && packed.rows.len() == 6);
            assert_eq!(packed.layout.is_causal(), causal);
        }
        assert!(!shared(&both).1.is_apart());
        assert!(shared(&both[..1]).1.is_apart());
    }

    #[test]
    fn the_modules_example_has_the_rows_that_it_says() {
        let texts = ["a photo of a sea horse.", "a photo of a sea lion."].map(|text| {
            let ids = crate::Tokenizer::shared().sequence(text).unwrap();
            tokens(&ids)
        });
        assert_eq!(texts.each_ref().map(Vec::len), [9, 9]);
        let (_, packed) = shared(&texts);
        let lengths: Vec<usize> = packed.layout.nodes().iter().map(|n| n.length).collect();
        assert_eq!((lengths, packed.rows.len()), (vec![6, 3, 3], 12));
        assert_eq!(packed.layout.path(2), [0, 1, 2, 3, 4, 5, 9, 10, 11]);
        assert_eq!(packed.layout.last_rows(), [2, 2]);
    }
}
