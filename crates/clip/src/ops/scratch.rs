//! Buffers that are used again instead of being given back to the system.
//!
//! A block needs the same few sizes at every layer and step. Fresh memory costs a page fault every 4 kB and a pass that
//! clears it; a buffer that comes back costs neither.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most numbers that wait to be used again (1 GB); beyond, buffers are freed.
const MOST_WAITING: usize = 1 << 28;
/// Smaller ones are left to the allocator, which keeps them anyway.
const SMALLEST: usize = 1 << 12;

static WAITING: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

fn waiting() -> MutexGuard<'static, Vec<Vec<f32>>> {
    // Nothing that can panic leaves the list half changed.
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers of any value, to be written before they are read; returned to the others when dropped.
#[derive(Debug, Default)]
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
}

/// A buffer of `len` numbers, whatever they are.
pub fn take(len: usize) -> Buffer {
    let mut list = waiting();
    // The smallest that is large enough, unless it is far too large.
    let fits = |v: &Vec<f32>| v.len() >= len && v.len() <= 2 * len.max(SMALLEST);
    let best = (0..list.len())
        .filter(|i| fits(&list[*i]))
        .min_by_key(|i| list[*i].len());
    let found = best.map(|i| list.swap_remove(i));
    drop(list);
    Buffer {
        values: found.unwrap_or_else(|| vec![0.0; len]),
        len,
    }
}

/// A buffer of `len` zeros.
pub fn zeros(len: usize) -> Buffer {
    let mut buffer = take(len);
    buffer.fill(0.0);
    buffer
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.values.len() < SMALLEST {
            return;
        }
        let mut list = waiting();
        let held: usize = list.iter().map(Vec::len).sum();
        if held + self.values.len() <= MOST_WAITING {
            list.push(std::mem::take(&mut self.values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_that_was_asked_for_whatever_it_was_before() {
        let mut first = take(10_000);
        first.fill(7.0);
        drop(first);
        for len in [9_000, 10_000, 6_000, 0, 3] {
            assert_eq!(take(len).len(), len);
            assert!(zeros(len).iter().all(|v| *v == 0.0));
        }
    }
}
