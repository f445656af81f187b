//! The card's memory: buffers that are used again, one store and one stream for each thread of the program.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::{result as driver, sys};

use crate::card::Gpu;
use crate::error::{Error, Result};
use crate::products::Products;

/// A stream of the card, with the memory that its launches use: what is given back is used again by later launches of
/// the same stream, which run after those before. A step of known shapes allocates nothing.
pub struct Lane {
    pub(crate) gpu: Gpu,
    pub(crate) stream: sys::CUstream,
    free: Mutex<HashMap<usize, Vec<u64>>>,
    pub(crate) products: Mutex<Products>,
}

// SAFETY: streams and device addresses may be used from any thread (CUDA driver API); the rest is behind locks.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a stream of {:?}", self.gpu)
    }
}

/// What a buffer of `bytes` takes: in steps of an eighth of its power of two, so that sizes that are nearly the same
/// share their memory.
fn taken(bytes: usize) -> usize {
    let bytes = bytes.max(512);
    bytes.next_multiple_of((bytes.next_power_of_two() / 8).max(512))
}

impl Gpu {
    /// The calling thread's lane, made at its first call.
    ///
    /// # Errors
    /// What the driver says.
    pub fn lane(&self) -> Result<Arc<Lane>> {
        thread_local! {
            static LANES: RefCell<Vec<(usize, Arc<Lane>)>> = const { RefCell::new(Vec::new()) };
        }
        self.enter()?;
        let own = LANES.with_borrow(|lanes| {
            let found = lanes.iter().find(|(ordinal, _)| *ordinal == self.ordinal());
            found.map(|(_, lane)| lane.clone())
        });
        if let Some(lane) = own {
            return Ok(lane);
        }
        let lane = Arc::new(Lane {
            gpu: self.clone(),
            stream: driver::stream::create(driver::stream::StreamKind::NonBlocking)?,
            free: Mutex::default(),
            products: Mutex::default(),
        });
        LANES.with_borrow_mut(|lanes| lanes.push((self.ordinal(), lane.clone())));
        let mut all = self.lanes();
        all.retain(|lane| lane.strong_count() > 0);
        all.push(Arc::downgrade(&lane));
        drop(all);
        Ok(lane)
    }
}

impl Lane {
    fn free(&self) -> MutexGuard<'_, HashMap<usize, Vec<u64>>> {
        // Nothing that can panic leaves the lists half changed.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for `bytes`, whatever is in it.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer> {
        let size = taken(bytes);
        let found = self.free().get_mut(&size).and_then(Vec::pop);
        let address = match found {
            Some(address) => address,
            None => self.allocate(size)?,
        };
        Ok(Buffer {
            address,
            bytes,
            gpu: self.gpu.clone(),
            lane: Arc::downgrade(self),
        })
    }

    /// A buffer with these numbers that any thread's launches may read: weights, plans.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn upload_shared<T: Copy>(&self, values: &[T]) -> Result<Buffer> {
        let bytes = size_of_val(values);
        let buffer = Buffer {
            address: self.allocate(taken(bytes))?,
            bytes,
            gpu: self.gpu.clone(),
            lane: Weak::new(),
        };
        if !values.is_empty() {
            // SAFETY: the buffer is as large; the wait comes before anybody else has it.
            unsafe { driver::memcpy_htod_async(buffer.address, values, self.stream) }?;
            self.wait()?;
        }
        Ok(buffer)
    }

    /// `count` float32 numbers.
    pub(crate) fn floats(self: &Arc<Self>, count: usize) -> Result<Buffer> {
        self.take(4 * count)
    }

    /// An address with `size` bytes behind it, which the caller frees.
    pub(crate) fn allocate(&self, size: usize) -> Result<u64> {
        // SAFETY: plain allocation.
        if let Ok(address) = unsafe { driver::malloc_sync(size) } {
            return Ok(address);
        }
        // What waits in other sizes, or for other threads, may make room.
        let lanes: Vec<Arc<Self>> = self.gpu.lanes().iter().filter_map(Weak::upgrade).collect();
        lanes.iter().try_for_each(|lane| lane.release())?;
        // SAFETY: as above.
        unsafe { driver::malloc_sync(size) }.map_err(|_| {
            let (free, total) = driver::mem_get_info().unwrap_or_default();
            Error::Memory {
                asked: size >> 20,
                free: free >> 20,
                total: total >> 20,
            }
        })
    }

    /// Gives memory that waits to be used again back to the driver.
    fn release(&self) -> Result<()> {
        self.wait()?;
        for address in self.free().drain().flat_map(|(_, all)| all) {
            // SAFETY: nobody has it, and nothing that was launched uses it any more.
            unsafe { driver::free_sync(address) }?;
        }
        Ok(())
    }

    /// Until all that was launched is done.
    pub(crate) fn wait(&self) -> Result<()> {
        self.gpu.enter()?;
        // SAFETY: the stream lives as long as this.
        Ok(unsafe { driver::stream::synchronize(self.stream) }?)
    }

    /// A buffer with these numbers.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn upload<T: Copy>(self: &Arc<Self>, values: &[T]) -> Result<Buffer> {
        let buffer = self.take(size_of_val(values))?;
        if !values.is_empty() {
            // SAFETY: the buffer is as large; from pageable memory the call returns once the values are copied.
            unsafe { driver::memcpy_htod_async(buffer.address, values, self.stream) }?;
        }
        Ok(buffer)
    }

    /// The numbers at `address`, once all that was launched before is done.
    pub(crate) fn download(&self, address: u64, count: usize) -> Result<Vec<f32>> {
        let mut out = vec![0f32; count];
        if count > 0 {
            // SAFETY: callers give an address with `count` numbers behind it; the wait comes before `out` is read.
            unsafe { driver::memcpy_dtoh_async(&mut out, address, self.stream) }?;
        }
        self.wait()?;
        Ok(out)
    }

    /// `count` numbers from one place to another.
    pub(crate) fn copy(&self, to: u64, from: u64, count: usize) -> Result<()> {
        if count > 0 {
            // SAFETY: callers give addresses with `count` numbers behind them.
            unsafe { driver::memcpy_dtod_async(to, from, 4 * count, self.stream) }?;
        }
        Ok(())
    }

    /// Zeros.
    pub(crate) fn clear(&self, buffer: &Buffer) -> Result<()> {
        // SAFETY: as many bytes as the buffer has.
        Ok(unsafe { driver::memset_d8_async(buffer.address, 0, buffer.bytes, self.stream) }?)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // What fails here failed before, or the program ends.
        let _ = self.release();
        let products = self.products.get_mut();
        products.unwrap_or_else(PoisonError::into_inner).close();
        // SAFETY: nobody launches on it any more.
        let _ = unsafe { driver::stream::destroy(self.stream) };
    }
}

/// Memory on the card; goes back to its lane when dropped.
#[derive(Debug)]
pub struct Buffer {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    gpu: Gpu,
    /// Of none where launches of many lanes read it.
    lane: Weak<Lane>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.lane.upgrade() {
            Some(lane) => lane
                .free()
                .entry(taken(self.bytes))
                .or_default()
                .push(self.address),
            // The driver waits for what was launched before it frees.
            None => {
                let _ = self.gpu.enter();
                // SAFETY: nobody else has this address.
                let _ = unsafe { driver::free_sync(self.address) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_takes_at_most_an_eighth_more_than_it_needs_and_never_less() {
        for bytes in [1, 511, 512, 513, 5000, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let size = taken(bytes);
            assert!(size >= bytes && size.is_multiple_of(512), "{bytes}");
            assert!(
                size <= (bytes + bytes / 4).max(1024),
                "{bytes} takes {size}"
            );
        }
    }
}
