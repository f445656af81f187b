//! Damaged and hostile weight files end in one error: no panic, no memory beyond a small multiple of the file.
//!
//! `PROMPTBED_FUZZ_SECONDS=120 cargo test --release -p clip --test hostile_files` runs each for two minutes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test, with an allocator that counts"
)]

use clip::weights::{self, pickle};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Remembers the largest single request.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Far above what reading a file of this size needs, far below what a hostile length asks for.
fn most_at_once(file: usize) -> usize {
    64 * file + (4 << 20)
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(path.join(name)).unwrap()
}

/// The tiny CLIP again, as safetensors.
fn safetensors() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-zip.pt");
    let weights = weights::open(&path).unwrap();
    let ids: Vec<i64> = weights
        .token_rows
        .unwrap()
        .into_iter()
        .map(i64::from)
        .collect();
    let ids = candle_core::Tensor::new(ids, &candle_core::Device::Cpu).unwrap();
    let mut tensors: std::collections::HashMap<_, _> = weights.tensors.into_iter().collect();
    tensors.insert("token_embedding.ids".to_owned(), ids);
    let file = tempfile::NamedTempFile::new().unwrap();
    candle_core::safetensors::save(&tensors, file.path()).unwrap();
    std::fs::read(file.path()).unwrap()
}

#[derive(Clone, Debug)]
enum Damage {
    Cut(usize),
    Flip(usize, u8),
    Overwrite(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len().max(1);
        match self {
            Self::Cut(at) => bytes.truncate(at % length),
            Self::Flip(at, bit) => {
                if let Some(byte) = bytes.get_mut(at % length) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::Overwrite(at, with) => {
                for (byte, new) in bytes.iter_mut().skip(at % length).zip(with) {
                    *byte = *new;
                }
            }
            Self::Remove(at, count) => {
                let at = at % length;
                let end = (at + count % 64).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            Self::Repeat(at, count) => {
                let at = at % length;
                let end = (at + count % 64).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(end..end, piece);
            }
        }
    }
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    // Lengths that have broken parsers.
    let hostile = prop_oneof![
        Just(vec![0xff; 8]),
        Just(vec![0xff, 0xff, 0xff, 0x7f]),
        Just(0x7fff_ffff_ffff_ffff_u64.to_le_bytes().to_vec()),
        Just(vec![0; 8]),
        proptest::collection::vec(any::<u8>(), 1..9),
    ];
    // Half of all damage near the ends, where headers and directories are.
    let place = prop_oneof![
        any::<usize>(),
        0usize..600,
        (0usize..600).prop_map(|n| usize::MAX - n)
    ];
    let one = prop_oneof![
        1 => place.clone().prop_map(Damage::Cut),
        4 => (place.clone(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        4 => (place.clone(), hostile).prop_map(|(at, with)| Damage::Overwrite(at, with)),
        1 => (place.clone(), any::<usize>()).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (place, any::<usize>()).prop_map(|(at, n)| Damage::Repeat(at, n)),
    ];
    proptest::collection::vec(one, 1..4)
}

/// A legacy file whose object is made by a random program of valid opcodes.
fn programs() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&[u8]; 40] = [
        b"(",
        b"0",
        b"1",
        b"2",
        b"N",
        b"\x88",
        b"K\x07",
        b"J\xff\xff\xff\xff",
        b"]",
        b")",
        b"}",
        b"t",
        b"l",
        b"d",
        b"s",
        b"u",
        b"a",
        b"e",
        b"\x85",
        b"\x86",
        b"\x87",
        b"q\x00",
        b"q\x01",
        b"h\x00",
        b"h\x01",
        b"\x94",
        b"R",
        b"\x81",
        b"b",
        b"Q",
        b"X\x07\x00\x00\x00storage",
        b"X\x03\x00\x00\x00ctx",
        b"X\x01\x00\x00\x000",
        b"ctorch\nHalfStorage\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch.optim.sgd\nSGD\n",
        b"c__builtin__\nset\n",
        b"\x93",
    ];
    proptest::collection::vec(0..PIECES.len(), 0..200).prop_map(|pieces| {
        // Magic, protocol 1001, an empty system dictionary, the program, no storages.
        let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.}.}q\x00]q\x01".to_vec();
        bytes.extend(pieces.into_iter().flat_map(|i| PIECES[i]));
        bytes.extend(b".].");
        bytes
    })
}

/// How many random programs run to their end.
fn run_programs(cases: u32) -> usize {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let read = std::cell::Cell::new(0);
    TestRunner::new_with_rng(config, rng)
        .run(&programs(), |bytes| {
            std::fs::remove_file(file.path()).unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            LARGEST.store(0, Ordering::Relaxed);
            if let Ok(tree) = pickle::read(file.path()) {
                read.set(read.get() + 1);
                let _ = tree.tensors().map_err(|e| e.to_string());
                let _ = format!("{:?}", tree.entries().len());
            }
            let largest = LARGEST.load(Ordering::Relaxed);
            // A tree that repeats itself is given up after a million places.
            prop_assert!(largest <= 512 << 20, "{largest} bytes at once");
            Ok(())
        })
        .unwrap_or_else(|e| panic!("programs: {e}"));
    read.get()
}

/// Reads damaged copies until the time is over; gives how many and how many of them were refused.
fn fuzz(name: &str, whole: &[u8]) -> (usize, usize) {
    let seconds = std::env::var("PROMPTBED_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let end = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let file = tempfile::NamedTempFile::new().unwrap();
    let path: PathBuf = file.path().to_owned();
    let (mut tried, mut refused, mut round) = (0, 0, 0u8);
    loop {
        let config = Config {
            cases: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let mut seed = [round; 32];
        seed[1] = tried as u8;
        seed[2] = (tried >> 8) as u8;
        seed[3] = (tried >> 16) as u8;
        let mut runner =
            TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
        let counts = std::cell::Cell::new((0, 0));
        runner
            .run(&damages(), |damages| {
                let mut bytes = whole.to_vec();
                damages.iter().for_each(|d| d.apply(&mut bytes));
                // Replaced, never overwritten: the file before it may still be mapped.
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, &bytes).unwrap();
                LARGEST.store(0, Ordering::Relaxed);
                let mut is_refused = false;
                match weights::open(&path) {
                    // What is read is usable: finite and of its declared sizes.
                    Ok(weights) => prop_assert!(
                        weights.tensors.len() >= 38 && weights.fingerprint().len() == 64
                    ),
                    Err(error) => {
                        is_refused = true;
                        let message = error.to_string();
                        prop_assert!(
                            !message.is_empty() && message.len() < 64 << 10,
                            "{} bytes",
                            message.len()
                        );
                    }
                }
                if let Ok(tree) = pickle::read(&path)
                    && let Ok(tensors) = tree.tensors()
                {
                    for (name, tensor) in tensors {
                        let _ = tensor.load(&name);
                    }
                }
                let largest = LARGEST.load(Ordering::Relaxed);
                prop_assert!(
                    largest <= most_at_once(bytes.len()),
                    "{largest} bytes at once for {}",
                    bytes.len()
                );
                let (tried, refused) = counts.get();
                counts.set((tried + 1, refused + usize::from(is_refused)));
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        tried += counts.get().0;
        refused += counts.get().1;
        round = round.wrapping_add(1);
        if end.is_none_or(|end| Instant::now() >= end) {
            eprintln!(
                "{name}: {tried} damaged files, {refused} refused, the rest damaged where it does not show"
            );
            return (tried, refused);
        }
    }
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn damaged_files_end_in_one_error() {
    let files = [
        ("safetensors", safetensors()),
        ("TorchScript", fixture("tiny-torchscript.pt")),
        ("zip", fixture("tiny-zip.pt")),
        ("legacy", fixture("tiny-legacy.pt")),
        ("Dassl zip", fixture("dassl-zip.pth.tar")),
        ("Dassl legacy", fixture("dassl-legacy.pth.tar")),
    ];
    let ended = run_programs(20_000);
    eprintln!("20000 random pickle programs, {ended} ran to their end");
    assert!(ended > 0);
    for (name, whole) in files {
        let (tried, refused) = fuzz(name, &whole);
        assert!(tried >= 400 && refused > 0, "{name}: {tried} {refused}");
    }
}
