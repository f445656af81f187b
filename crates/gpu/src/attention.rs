//! Who sees whom.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernels::{Paths, Pictures};
use crate::memory::{Buffer, Lane};

/// Which rows ask, and which rows each of them sees.
#[derive(Debug)]
pub struct Attention {
    pub(crate) kind: Kind,
    rows: usize,
    queries: usize,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Full(Pictures),
    Paths(
        Paths,
        #[expect(dead_code, reason = "holds the memory that addresses point into")] Vec<Buffer>,
    ),
}

impl Attention {
    /// `count` sequences of `length` rows, one after the other, in each of which all rows see each other; all rows ask, or
    /// the first of each alone.
    pub fn full(count: usize, length: usize, first_only: bool) -> Self {
        let asking = if first_only { 1 } else { length };
        Self {
            kind: Kind::Full(Pictures {
                count,
                tokens: length,
                asking,
            }),
            rows: count * length,
            queries: count * asking,
        }
    }

    /// Query `i` is row `queries[i].0` of `rows`, and sees the rows `queries[i].1`.
    ///
    /// # Errors
    /// A row that is not there, or asks twice; when the card's memory is used up.
    pub fn paths(lane: &Arc<Lane>, rows: usize, queries: &[(usize, Vec<usize>)]) -> Result<Self> {
        let (mut offset, mut keys) = (vec![0i32], Vec::new());
        let mut asks = vec![-1i32; rows];
        let mut seen = vec![Vec::new(); rows];
        for (index, (row, path)) in queries.iter().enumerate() {
            if path.is_empty() || path.iter().chain([row]).any(|r| *r >= rows) {
                return Err(Error::Shape(format!(
                    "query row {row} of {rows} sees {path:?}"
                )));
            }
            if std::mem::replace(&mut asks[*row], index as i32) >= 0 {
                return Err(Error::Shape(format!("row {row} asks twice")));
            }
            path.iter().for_each(|key| seen[*key].push(index));
            keys.extend(path.iter().map(|key| *key as i32));
            offset.push(keys.len() as i32);
        }
        let (seen_offset, seen) = flat(&seen);
        let longest = queries.iter().map(|(_, path)| path.len()).max();
        let query: Vec<i32> = queries.iter().map(|(row, _)| *row as i32).collect();
        let lists = [&query, &offset, &keys, &asks, &seen_offset, &seen];
        let held = lists.map(|list| lane.upload_shared(list));
        let held = held.into_iter().collect::<Result<Vec<_>>>()?;
        let paths = Paths {
            query: held[0].address,
            offset: held[1].address,
            keys: held[2].address,
            asks: held[3].address,
            seen_offset: held[4].address,
            seen: held[5].address,
            rows,
            queries: queries.len(),
            longest: longest.unwrap_or(1),
        };
        Ok(Self {
            kind: Kind::Paths(paths, held),
            rows,
            queries: queries.len(),
        })
    }

    /// Rows that there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that ask, which is how many come out.
    pub fn queries(&self) -> usize {
        self.queries
    }
}

/// Lists one behind the other, and where each starts.
pub(crate) fn flat(lists: &[Vec<usize>]) -> (Vec<i32>, Vec<i32>) {
    let mut offset = vec![0i32];
    let mut all = Vec::new();
    for list in lists {
        all.extend(list.iter().map(|i| *i as i32));
        offset.push(all.len() as i32);
    }
    (offset, all)
}
