//! A model that is loaded is in memory once.

#![expect(clippy::unwrap_used, reason = "a test, with an allocator that counts")]

mod published_names;

use candle_core::{Device, Tensor};
use clip::weights::pickle::{self, Value};
use clip::{Clip, Keep, Tokenizer, weights};
use published_names::Sizes;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes in use and the most there were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Both towers 12 blocks of width 128, 500 token rows: 19 MB in float32; all numbers are half-precision numbers.
fn tensors() -> BTreeMap<String, Tensor> {
    let rows = 500;
    let shapes = published_names::shapes(&Sizes {
        width: 128,
        joint: 96,
        layers: 12,
        tokens: rows,
        places: 17,
        patch: 8,
    });
    let made = shapes.into_iter().map(|(name, shape)| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count)
            .map(|i| (i % 97) as f32 / 128.0 - 0.375)
            .collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    });
    let mut tensors: BTreeMap<String, Tensor> = made.collect();
    let ids: Vec<i64> = (0..rows as i64).collect();
    tensors.insert(
        "token_embedding.ids".to_owned(),
        Tensor::new(ids, &Device::Cpu).unwrap(),
    );
    tensors
}

/// Most bytes in use beyond those before while the file becomes a CLIP, and those in use when it is one.
fn loading(path: &Path, keep: Keep) -> (usize, usize) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let clip = Clip::from_weights_in(&weights::open(path).unwrap(), keep).unwrap();
    let most = MOST.load(Ordering::Relaxed) - before;
    let held = NOW.load(Ordering::Relaxed) - before;
    let whole = 4 * clip.parameters();
    match keep {
        Keep::Float32 => assert!(held >= whole, "{held} of {whole}"),
        Keep::Compact => assert!(held < 6 * whole / 10, "{held} of {whole}"),
    }
    (most, held)
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn loading_takes_no_more_than_the_model_and_a_third() {
    let folder = tempfile::TempDir::new().unwrap();
    // What is made once a process is not of a model.
    let _ = Tokenizer::shared();
    let tensors = tensors();
    let safe = folder.path().join("x.safetensors");
    let map: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    candle_core::safetensors::save(&map, &safe).unwrap();
    let pickled = folder.path().join("x.pt");
    pickle::write(&pickled, &Value::State(tensors.into_iter().collect())).unwrap();
    drop(map);
    loading(&safe, Keep::Float32);
    for (path, keep) in [
        (&safe, Keep::Float32),
        (&pickled, Keep::Float32),
        (&safe, Keep::Compact),
        (&pickled, Keep::Compact),
    ] {
        let (most, held) = loading(path, keep);
        assert!(
            most as f64 <= 1.3 * held as f64,
            "{}, {keep:?}: {most} for {held}",
            path.display()
        );
    }
}
