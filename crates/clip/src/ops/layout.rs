//! How sequences lie in packed rows, and which rows see which.

/// Sequences that start with the same rows: `prefix` rows once, then what is each sequence's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Rows shared by every sequence of the group.
    pub prefix: usize,
    /// Own rows of each sequence.
    pub own: Vec<usize>,
}

/// A run of rows that one or more sequences pass through: what they share, or what is one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node whose rows come right before in every sequence that passes through; `None` at a start.
    pub parent: Option<usize>,
    /// Rows of its sequences before this node, which is the position of its first row in them.
    pub position: usize,
    /// First packed row.
    pub start: usize,
    /// Rows.
    pub length: usize,
}

impl Node {
    /// Positions up to its last row.
    pub fn reach(&self) -> usize {
        self.position + self.length
    }
}

/// Packed rows `[R, W]`: sequences as trees of the rows that they share, each node's rows once, no padding anywhere.
///
/// Nodes lie depth first: after a node come its children, each with all below it. A row sees the rows of its own node
/// and of all nodes above; with `causal`, only those before it and itself. Sharing is exact only under `causal`, where
/// nothing later can influence a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    nodes: Vec<Node>,
    /// The node in which each sequence ends; no two end in the same.
    ends: Vec<usize>,
    causal: bool,
    rows: usize,
}

impl Layout {
    /// Causal sequences in groups.
    pub fn causal(groups: &[Group]) -> Self {
        let (mut nodes, mut ends) = (Vec::new(), Vec::new());
        for group in groups {
            let shared = (group.prefix > 0).then_some(nodes.len());
            if shared.is_some() {
                nodes.push((None, group.prefix));
            }
            for &length in &group.own {
                ends.push(nodes.len());
                nodes.push((shared, length));
            }
        }
        Self::new(&nodes, ends, true)
    }

    /// Causal sequences as trees: parent and rows of each node, depth first; and the node in which each sequence ends.
    ///
    /// # Panics
    /// When nodes are not depth first, or two sequences end in one node.
    pub fn trees(nodes: &[(Option<usize>, usize)], ends: Vec<usize>) -> Self {
        Self::new(nodes, ends, true)
    }

    /// `count` sequences of `length` rows that all see each other's rows, as the image tower has them.
    pub fn full(count: usize, length: usize) -> Self {
        Self::new(&vec![(None, length); count], (0..count).collect(), false)
    }

    /// Sequences of these many rows, one after the other; in each all rows see each other.
    pub fn apart(lengths: &[usize]) -> Self {
        let nodes: Vec<_> = lengths.iter().map(|&length| (None, length)).collect();
        Self::new(&nodes, (0..nodes.len()).collect(), false)
    }

    fn new(parts: &[(Option<usize>, usize)], ends: Vec<usize>, causal: bool) -> Self {
        let mut nodes: Vec<Node> = Vec::with_capacity(parts.len());
        let (mut rows, mut open) = (0, Vec::new());
        for &(parent, length) in parts {
            while open.last() != parent.as_ref() && !open.is_empty() {
                open.pop();
            }
            assert_eq!(open.last(), parent.as_ref(), "nodes lie depth first");
            open.push(nodes.len());
            nodes.push(Node {
                parent,
                position: parent.map_or(0, |p| nodes[p].reach()),
                start: rows,
                length,
            });
            rows += length;
        }
        let mut taken = vec![false; nodes.len()];
        for &end in &ends {
            assert!(
                !std::mem::replace(&mut taken[end], true),
                "each sequence ends in a node of its own"
            );
        }
        Self {
            nodes,
            ends,
            causal,
            rows,
        }
    }

    /// The same sequences with `count` more rows in each, the first of them at `position`. Sequences that share the row
    /// before share these.
    ///
    /// # Panics
    /// At position 0, and when a sequence ends before `position`.
    pub fn grown(&self, position: usize, count: usize) -> Self {
        assert!(position > 0, "rows enter behind a row");
        assert!(
            self.ends().all(|n| n.reach() > position),
            "rows enter before the end of every sequence"
        );
        let nodes = self.nodes.iter().map(|n| {
            let enter = (n.position..n.reach()).contains(&(position - 1));
            (n.parent, n.length + if enter { count } else { 0 })
        });
        Self::new(&nodes.collect::<Vec<_>>(), self.ends.clone(), self.causal)
    }

    /// All rows, `R`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.ends.len()
    }

    /// Whether rows see only what comes before them.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// All nodes, depth first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node in which each sequence ends: what is its own.
    pub fn ends(&self) -> impl ExactSizeIterator<Item = Node> + '_ {
        self.ends.iter().map(|&n| self.nodes[n])
    }

    /// Own position of each sequence's last row in the node in which it ends: what [`super::Block::forward`] selects where
    /// a text is read.
    pub fn last_rows(&self) -> Vec<usize> {
        self.ends().map(|n| n.length - 1).collect()
    }

    /// Which sequence ends in each node, if one does.
    pub(super) fn ending(&self) -> Vec<Option<usize>> {
        let mut of = vec![None; self.nodes.len()];
        for (sequence, &node) in self.ends.iter().enumerate() {
            of[node] = Some(sequence);
        }
        of
    }

    /// The packed row at own position `positions[s]` of each sequence.
    pub(crate) fn chosen(&self, positions: &[usize]) -> Vec<usize> {
        let own = self.ends().zip(positions);
        own.map(|(node, &p)| node.start + p).collect()
    }

    /// Packed rows that node `index` and those above it hold, by their position in a sequence.
    pub fn path(&self, index: usize) -> Vec<usize> {
        let mut rows = vec![0; self.nodes[index].reach()];
        let mut at = Some(index);
        while let Some(node) = at.map(|i| self.nodes[i]) {
            for (row, position) in rows[node.position..node.reach()].iter_mut().zip(0..) {
                *row = node.start + position;
            }
            at = node.parent;
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_cover_every_row_once_and_paths_lead_through_what_is_shared() {
        let groups = [
            Group {
                prefix: 3,
                own: vec![2, 4],
            },
            Group {
                prefix: 0,
                own: vec![1],
            },
        ];
        let layout = Layout::causal(&groups);
        assert_eq!((layout.rows(), layout.sequences()), (10, 3));
        let ends: Vec<Node> = layout.ends().collect();
        assert_eq!((ends[1].position, ends[1].start, ends[1].length), (3, 5, 4));
        assert_eq!(layout.path(2), [0, 1, 2, 5, 6, 7, 8]);
        assert_eq!(layout.path(3), [9]);
        assert_eq!(layout.chosen(&[1, 3, 0]), [4, 8, 9]);

        let deeper = Layout::trees(
            &[(None, 2), (Some(0), 1), (Some(1), 3), (Some(0), 1)],
            vec![3, 2],
        );
        assert_eq!(deeper.path(2), [0, 1, 2, 3, 4, 5]);
        assert_eq!(deeper.path(3), [0, 1, 6]);
    }

    #[test]
    fn sequences_apart_share_nothing_and_see_all_of_themselves() {
        let layout = Layout::apart(&[2, 3]);
        assert_eq!((layout.rows(), layout.sequences()), (5, 2));
        assert!(!layout.is_causal() && layout.path(1) == [2, 3, 4]);
        assert_eq!(layout.last_rows(), [1, 2]);
        // One more row in each, behind its first.
        assert_eq!(layout.grown(1, 1), Layout::apart(&[3, 4]));
    }

    #[test]
    #[should_panic(expected = "depth first")]
    fn nodes_out_of_order_are_refused() {
        Layout::trees(&[(None, 1), (None, 1), (Some(0), 1)], vec![2]);
    }
}
