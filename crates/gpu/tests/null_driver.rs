//! The null driver for tests: a CUDA driver, compiler and library of products that run this crate's kernels on the
//! processor, built by the C++ compiler from `emulator/`.
//!
//! Other crates' tests take this file in by its path.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests, each of which uses some of it"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gpu::Gpu;

/// The folder with its libraries, built when the first test of a checkout asks; `None`, said aloud, without a C++
/// compiler.
pub fn folder() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu");
        let name = format!("null-driver-{:016x}", sources(&root));
        let target = root.join("../../target/tmp");
        let (ready, making) = (
            target.join(&name),
            target.join(format!("{name}.{}", std::process::id())),
        );
        if ready.is_dir() {
            return Some(ready);
        }
        std::fs::create_dir_all(&making).unwrap();
        let mut build = Command::new("sh");
        build.arg(root.join("emulator/build.sh")).arg(&making);
        let output = build.output().unwrap();
        if output.status.code() == Some(77) {
            let _ = std::fs::remove_dir_all(&making);
            // Not `eprintln`, which the harness keeps to itself when a test passes.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED in {}: no C++ compiler, so that there is no null driver to run the GPU path on",
                env!("CARGO_CRATE_NAME")
            );
            return None;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "the null driver does not build:\n{said}"
        );
        // Another test may have been quicker.
        if std::fs::rename(&making, &ready).is_err() {
            let _ = std::fs::remove_dir_all(&making);
        }
        Some(ready)
    });
    built.as_deref()
}

/// Of everything that the driver is built from.
fn sources(root: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let folders = [root.join("emulator"), root.join("src")];
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.is_file() && path.extension().is_none_or(|e| e != "rs"))
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        std::fs::read(&file).unwrap().hash(&mut hasher);
    }
    hasher.finish()
}

/// The null driver's card, opened in this process.
pub fn card() -> Option<Gpu> {
    static CARD: OnceLock<Option<Gpu>> = OnceLock::new();
    let card = CARD.get_or_init(|| {
        let folder = folder()?;
        for name in ["libcuda.so", "libnvrtc.so", "libcublasLt.so"] {
            // SAFETY: our own libraries, without initialisers. Once open, they are found by their names.
            let library = unsafe { libloading::Library::new(folder.join(name)) }.unwrap();
            std::mem::forget(library);
        }
        Some(Gpu::open(0).unwrap())
    });
    card.clone()
}

/// What the null driver counted.
pub fn counted(what: &str) -> u64 {
    // SAFETY: functions of our own library, with these types.
    unsafe {
        let library = libloading::Library::new(folder().unwrap().join("libcuda.so")).unwrap();
        let symbol = library
            .get::<unsafe extern "C" fn() -> u64>(what.as_bytes())
            .unwrap();
        symbol()
    }
}

/// Counts from zero again.
pub fn reset() {
    // SAFETY: as above.
    unsafe {
        let library = libloading::Library::new(folder().unwrap().join("libcuda.so")).unwrap();
        library
            .get::<unsafe extern "C" fn()>(b"null_reset")
            .unwrap()();
    }
}

/// Whether kernels and products are only counted.
pub fn skip(on: bool) {
    // SAFETY: as above.
    unsafe {
        let library = libloading::Library::new(folder().unwrap().join("libcuda.so")).unwrap();
        library
            .get::<unsafe extern "C" fn(i32)>(b"null_skip")
            .unwrap()(i32::from(on));
    }
}
