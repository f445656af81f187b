//! How sequences lie in packed rows, and which rows see which.

/// Sequences that start with the same rows: `prefix` rows once, then what is each sequence's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Rows shared by every segment of the group.
    pub prefix: usize,
    /// Own rows of each sequence.
    pub segments: Vec<usize>,
}

/// Packed rows `[R, W]`: group after group; in each the prefix, then the segments, no padding anywhere.
///
/// A row sees the prefix of its group and the rows of its own segment; with `causal`, only those before it and itself.
/// A shared prefix is exact only under `causal`, where nothing later can influence it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    groups: Vec<Group>,
    causal: bool,
    rows: usize,
    segments: usize,
}

impl Layout {
    /// Causal sequences in groups, as the text tower has them.
    pub fn causal(groups: Vec<Group>) -> Self {
        Self::new(groups, true)
    }

    /// `count` sequences of `length` rows that all see each other's rows, as the image tower has them.
    pub fn full(count: usize, length: usize) -> Self {
        Self::new(
            vec![Group {
                prefix: 0,
                segments: vec![length; count],
            }],
            false,
        )
    }

    fn new(groups: Vec<Group>, causal: bool) -> Self {
        let rows = groups
            .iter()
            .map(|g| g.prefix + g.segments.iter().sum::<usize>())
            .sum();
        let segments = groups.iter().map(|g| g.segments.len()).sum();
        Self {
            groups,
            causal,
            rows,
            segments,
        }
    }

    /// All rows, `R`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// All sequences.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Whether rows see only what comes before them.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The groups in order.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// For each segment in order: first row of its prefix, prefix length, first own row, own length.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let mut row = 0;
        self.groups.iter().flat_map(move |g| {
            let prefix_start = row;
            let mut start = row + g.prefix;
            row = start + g.segments.iter().sum::<usize>();
            g.segments.iter().map(move |&length| {
                let span = Span {
                    prefix_start,
                    prefix: g.prefix,
                    start,
                    length,
                };
                start += length;
                span
            })
        })
    }
}

/// Where one sequence lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First row of the shared prefix.
    pub prefix_start: usize,
    /// Rows of the prefix.
    pub prefix: usize,
    /// First own row.
    pub start: usize,
    /// Own rows.
    pub length: usize,
}

impl Span {
    /// The packed row that holds position `position` of the sequence.
    pub fn row(&self, position: usize) -> usize {
        if position < self.prefix {
            self.prefix_start + position
        } else {
            self.start + position - self.prefix
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_cover_every_row_once() {
        let groups = vec![
            Group {
                prefix: 3,
                segments: vec![2, 4],
            },
            Group {
                prefix: 0,
                segments: vec![1],
            },
        ];
        let layout = Layout::causal(groups);
        assert_eq!(layout.rows(), 10);
        let spans: Vec<Span> = layout.spans().collect();
        assert_eq!(
            spans[1],
            Span {
                prefix_start: 0,
                prefix: 3,
                start: 5,
                length: 4
            }
        );
        assert_eq!(spans[2].row(0), 9);
        assert_eq!((spans[1].row(1), spans[1].row(3)), (1, 5));
    }
}
