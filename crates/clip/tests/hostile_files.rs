//! Damaged and hostile weight files end in one error: no panic, no memory beyond a small multiple of the file.
//!
//! `PROMPTBED_FUZZ_SECONDS=120 cargo test --release -p clip --test hostile_files` runs each for two minutes;
//! `PROMPTBED_FUZZ_ONLY=legacy` only that one.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test, with an allocator that counts"
)]

mod published_names;

use clip::Clip;
use clip::weights::{self, pickle};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Remembers the largest single request, and the most that was in use.
struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    LARGEST.fetch_max(bytes, Ordering::Relaxed);
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

/// The largest request and the most in use beyond what was, while `work` is done.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = NOW.load(Ordering::Relaxed);
    LARGEST.store(0, Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = work();
    let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
    (result, LARGEST.load(Ordering::Relaxed), most)
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

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        more(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
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
        .iter()
        .flatten()
        .map(|id| i64::from(*id))
        .collect();
    let ids = candle_core::Tensor::new(ids, &candle_core::Device::Cpu).unwrap();
    let mut tensors: std::collections::HashMap<_, _> = weights
        .shapes()
        .map(|(name, _)| (name.to_owned(), weights.tensor(name).unwrap()))
        .collect();
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
            let ((), largest, most) = counted(|| {
                if let Ok(tree) = pickle::read(file.path()) {
                    read.set(read.get() + 1);
                    let _ = tree.tensors().map_err(|e| e.to_string());
                    let _ = format!("{:?}", tree.entries().len());
                }
            });
            // A tree that repeats itself is given up after a million places.
            prop_assert!(
                largest <= 512 << 20 && most <= 1 << 30,
                "{largest} bytes at once, {most} in all"
            );
            Ok(())
        })
        .unwrap_or_else(|e| panic!("programs: {e}"));
    read.get()
}

/// What came of reading damaged copies.
#[derive(Clone, Copy, Default)]
struct Tally {
    tried: usize,
    refused: usize,
    /// Most bytes in use beyond those before.
    most: usize,
}

/// A message for a person: there, and of a length that can be read.
fn is_told(message: &str) -> bool {
    !message.is_empty() && message.len() < 64 << 10
}

/// Draws damage and does `attempt` with it until the time is over; `attempt` says whether it was refused, and how many
/// bytes were in use.
fn until_the_end<S: Strategy>(
    name: &str,
    drawn: &S,
    attempt: impl Fn(S::Value) -> Result<(bool, usize), TestCaseError>,
) -> Tally {
    let seconds = std::env::var("PROMPTBED_FUZZ_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let end = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let tally = std::cell::Cell::new(Tally::default());
    loop {
        let config = Config {
            cases: 400,
            failure_persistence: None,
            ..Config::default()
        };
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&(tally.get().tried as u64).to_le_bytes());
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
            .run(drawn, |value| {
                let (refused, most) = attempt(value)?;
                let t = tally.get();
                tally.set(Tally {
                    tried: t.tried + 1,
                    refused: t.refused + usize::from(refused),
                    most: t.most.max(most),
                });
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        if end.is_none_or(|end| Instant::now() >= end) {
            let Tally {
                tried,
                refused,
                most,
            } = tally.get();
            eprintln!(
                "{name}: {tried} damaged, {refused} refused, the rest damaged where it does not show; at most {most} \
                 bytes in use"
            );
            return tally.get();
        }
    }
}

/// Opens what may be a CLIP, and as far as it is one uses it: finite and of its declared sizes.
fn open(path: &Path, size: usize) -> Result<(bool, usize), TestCaseError> {
    let (opened, largest, most) =
        counted(|| Clip::load(path).map(|clip| (clip.parameters(), clip.fingerprint().len())));
    prop_assert!(
        largest <= most_at_once(size),
        "{largest} bytes at once for {size}"
    );
    prop_assert!(
        most <= 2 * most_at_once(size),
        "{most} bytes in use for {size}"
    );
    match opened {
        Ok((parameters, digits)) => {
            prop_assert!(parameters > 0 && digits == 64);
            Ok((false, most))
        }
        Err(error) => {
            let message = error.to_string();
            prop_assert!(is_told(&message), "{} bytes", message.len());
            Ok((true, most))
        }
    }
}

/// Reads damaged copies of a file.
fn fuzz(name: &str, whole: &[u8]) -> Tally {
    let folder = tempfile::TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("x");
    until_the_end(name, &damages(), |damages| {
        let mut bytes = whole.to_vec();
        damages.iter().for_each(|d| d.apply(&mut bytes));
        // Replaced, never overwritten: the file before it may still be mapped.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, &bytes).unwrap();
        let result = open(&path, bytes.len())?;
        let ((), largest, _) = counted(|| {
            if let Ok(tree) = pickle::read(&path)
                && let Ok(tensors) = tree.tensors()
            {
                for (name, tensor) in tensors {
                    let _ = tensor.load(&name);
                }
            }
        });
        prop_assert!(
            largest <= most_at_once(bytes.len()),
            "{largest} bytes at once for {}",
            bytes.len()
        );
        Ok(result)
    })
}

/// Opens folders of which one file is damaged.
fn fuzz_folder(name: &str, files: &[(&str, Vec<u8>)], damaged: usize) -> Tally {
    let folder = tempfile::TempDir::new().unwrap();
    let size = files.iter().map(|(_, bytes)| bytes.len()).sum();
    for (file, bytes) in files {
        std::fs::write(folder.path().join(file), bytes).unwrap();
    }
    let (file, whole) = &files[damaged];
    until_the_end(name, &damages(), |damages| {
        let mut bytes = whole.clone();
        damages.iter().for_each(|d| d.apply(&mut bytes));
        std::fs::write(folder.path().join(file), &bytes).unwrap();
        open(folder.path(), size)
    })
}

/// Any text is tokens, or too long and said so.
fn fuzz_tokens() -> Tally {
    let piece = prop_oneof![
        any::<String>(),
        "[a-z0-9 '&;#<>_.-]{0,40}",
        "(&(amp;)*(lt|gt|quot|#x?[0-9a-f]{0,9});?){0,8}",
        Just("\u{1f469}\u{200d}\u{1f692}\u{fe0f}".to_owned()),
        Just("e\u{301}\u{323}\u{308}".repeat(20)),
        Just(" \u{3000}\t\u{85}".to_owned()),
    ];
    let texts = proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    until_the_end("tokens", &texts, |text| {
        let (tokens, _, most) = counted(|| clip::Tokenizer::shared().padded(&text));
        prop_assert!(
            most <= 4096 * text.len() + (1 << 20),
            "{most} bytes for a text of {}",
            text.len()
        );
        match tokens {
            Ok(tokens) => {
                let end = tokens.iter().position(|&t| t == 49407);
                prop_assert!(tokens[0] == 49406 && end.is_some(), "{text:?}: {tokens:?}");
                Ok((false, most))
            }
            Err(error) => {
                prop_assert!(
                    error.to_string().contains("at most 77"),
                    "{text:?}: {error}"
                );
                Ok((true, most))
            }
        }
    })
}

const CONFIG: &str = r#"{"model_type": "clip", "projection_dim": 4, "text_config": {"hidden_size": 8,
    "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 49408, "eos_token_id": 2, "hidden_act": "gelu"},
    "vision_config": {"hidden_size": 8, "image_size": 8, "patch_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "hidden_act": "gelu"}}"#;
const OPEN_CLIP: &str = r#"{"model_cfg": {"embed_dim": 4, "quick_gelu": false, "vision_cfg": {"image_size": 8, "layers": 1,
    "width": 8, "patch_size": 4}, "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "layers": 1}}}"#;

/// The tiny CLIP under Hugging Face's names in two shards with an index, and its configuration.
fn sharded() -> Vec<(&'static str, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-zip.pt");
    let tiny = weights::open(&path).unwrap();
    let mut shards: [std::collections::HashMap<String, candle_core::Tensor>; 2] =
        Default::default();
    let mut map = serde_json::Map::new();
    let files = ["a.safetensors", "b.safetensors"];
    let mut put = |name: String, tensor: candle_core::Tensor| {
        let shard = name.len() % 2;
        map.insert(name.clone(), files[shard].into());
        shards[shard].insert(name, tensor.contiguous().unwrap());
    };
    let ids: Vec<i64> = tiny
        .token_rows
        .iter()
        .flatten()
        .map(|id| i64::from(*id))
        .collect();
    put(
        "text_model.embeddings.token_embedding.ids".to_owned(),
        candle_core::Tensor::new(ids, &candle_core::Device::Cpu).unwrap(),
    );
    for (name, _) in tiny.shapes() {
        let tensor = tiny.tensor(name).unwrap();
        let (tower, rest) = match name.strip_prefix("visual.") {
            Some(rest) => ("vision_model.", rest),
            None => ("text_model.", name),
        };
        match rest {
            "logit_scale" => put(rest.to_owned(), tensor),
            "text_projection" => put("text_projection.weight".to_owned(), tensor.t().unwrap()),
            "proj" => put("visual_projection.weight".to_owned(), tensor.t().unwrap()),
            _ if rest.contains("in_proj_") => {
                let leaf = rest.rsplit('_').next().unwrap();
                for (part, rows) in ["q", "k", "v"].iter().zip(tensor.chunk(3, 0).unwrap()) {
                    let name = format!("{tower}encoder.layers.0.self_attn.{part}_proj.{leaf}");
                    put(name, rows);
                }
            }
            _ => {
                let renamed = published_names::hugging_face_name(rest);
                put(format!("{tower}{renamed}"), tensor);
            }
        }
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    let mut out = vec![
        ("model.safetensors.index.json", index.into_bytes()),
        ("config.json", CONFIG.as_bytes().to_vec()),
    ];
    for (file, tensors) in files.into_iter().zip(shards) {
        let bytes = safetensors::serialize(tensors, None).unwrap();
        out.push((file, bytes));
    }
    out
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn damaged_files_end_in_one_error() {
    let only = std::env::var("PROMPTBED_FUZZ_ONLY").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    // What is made once a process is not of a file.
    let _ = clip::Tokenizer::shared();
    if wanted("programs") {
        let ended = run_programs(20_000);
        eprintln!("20000 random pickle programs, {ended} ran to their end");
        assert!(ended > 0);
    }
    let mut tallies = Vec::new();
    for (name, whole) in [
        ("safetensors", safetensors()),
        ("TorchScript", fixture("tiny-torchscript.pt")),
        ("zip", fixture("tiny-zip.pt")),
        ("legacy", fixture("tiny-legacy.pt")),
        ("Dassl zip", fixture("dassl-zip.pth.tar")),
        ("Dassl legacy", fixture("dassl-legacy.pth.tar")),
    ] {
        if wanted(name) {
            tallies.push((name, fuzz(name, &whole)));
        }
    }
    let sharded = sharded();
    let whole = tempfile::TempDir::new().unwrap();
    for (file, bytes) in &sharded {
        std::fs::write(whole.path().join(file), bytes).unwrap();
    }
    Clip::load(whole.path()).unwrap_or_else(|e| panic!("undamaged: {e}"));
    let open_clip = [
        ("open_clip_config.json", OPEN_CLIP.as_bytes().to_vec()),
        ("open_clip_model.safetensors", safetensors()),
    ];
    for (name, files, damaged) in [
        ("index", &sharded[..], 0),
        ("configuration", &sharded[..], 1),
        ("shard", &sharded[..], 2),
        ("open_clip configuration", &open_clip[..], 0),
    ] {
        if wanted(name) {
            tallies.push((name, fuzz_folder(name, files, damaged)));
        }
    }
    if wanted("tokens") {
        tallies.push(("tokens", fuzz_tokens()));
    }
    assert!(!tallies.is_empty() || only.as_deref() == Some("programs"));
    for (name, t) in tallies {
        assert!(
            t.tried >= 400 && t.refused > 0,
            "{name}: {} {}",
            t.tried,
            t.refused
        );
    }
}
