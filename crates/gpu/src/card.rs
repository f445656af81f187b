//! One card, opened.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use cudarc::cublaslt::{result as lt, sys as lt_sys};
use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use crate::error::{Error, Result};
use crate::memory::Lane;

/// In what numbers products are computed. Everything between them, all sums, and what is trained are float32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As on the processor.
    #[default]
    Float32,
    /// Inputs rounded to 11 significant bits by the card's matrix units, weights kept in float32.
    Tf32,
    /// Inputs and weights rounded to half precision, which loses nothing of OpenAI's weights. Gradients are scaled by a
    /// power of two on their way, so that small ones are kept.
    Half,
}

/// The kernels, compiled for a precision.
struct Module {
    handle: sys::CUmodule,
    functions: Mutex<HashMap<&'static str, usize>>,
}

struct Card {
    ordinal: usize,
    name: String,
    memory: usize,
    context: sys::CUcontext,
    products: lt_sys::cublasLtHandle_t,
    /// Compute capability without its point: 90.
    architecture: i32,
    /// Of all threads: what waits in one may make room for another.
    lanes: Mutex<Vec<Weak<Lane>>>,
    /// One for each precision, compiled when first used.
    modules: [OnceLock<Module>; 3],
    compiling: Mutex<()>,
}

// SAFETY: a context, a cuBLASLt handle and modules may be used from any thread (CUDA driver API, cuBLASLt documentation);
// what changes is behind locks.
unsafe impl Send for Card {}
// SAFETY: as above.
unsafe impl Sync for Card {}

/// One card, opened; clones are the same.
#[derive(Clone)]
pub struct Gpu(Arc<Card>);

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.0.ordinal, self.0.name)
    }
}

const KERNELS: &str = concat!(
    include_str!("kernels.cu"),
    include_str!("attention.cu"),
    include_str!("pictures.cu")
);

impl Gpu {
    /// Opens card `ordinal` (from 0).
    ///
    /// # Errors
    /// All libraries that are missing; a card that is not there; what the driver says.
    pub fn open(ordinal: usize) -> Result<Self> {
        open_libraries();
        let mut missing = Vec::new();
        // SAFETY: looks whether a library of that name opens.
        unsafe {
            if !sys::is_culib_present() {
                missing.push("there is no NVIDIA driver (libcuda.so.1 does not open)");
            }
            if !nvrtc_sys::is_culib_present() {
                missing.push(
                    "libnvrtc.so.12 or .13 does not open (it comes with any CUDA toolkit, and with PyTorch in \
                     nvidia/cuda_nvrtc/lib)",
                );
            }
            if !lt_sys::is_culib_present() {
                missing.push(
                    "libcublasLt.so.12 or .13 does not open (it comes with any CUDA toolkit, and with PyTorch in \
                     nvidia/cublas/lib)",
                );
            }
        }
        if !missing.is_empty() {
            return Err(Error::Missing(missing));
        }
        let no_card = |there: String| Error::NoCard {
            asked: ordinal,
            there,
        };
        driver::init().map_err(|e| no_card(format!("the driver finds no GPU ({e})")))?;
        let count = driver::device::get_count()? as usize;
        if ordinal >= count {
            let last = count.saturating_sub(1);
            return Err(no_card(match count {
                0 => "the driver finds no GPU".to_owned(),
                1 => "this machine has one GPU, cuda:0".to_owned(),
                _ => format!("this machine has cuda:0 to cuda:{last}"),
            }));
        }
        let device = driver::device::get(ordinal as i32)?;
        let name = driver::device::get_name(device)?;
        // SAFETY: the device was just given by the driver; the context is kept for as long as the card is.
        let (memory, context, major, minor) = unsafe {
            let attribute = |a| driver::device::get_attribute(device, a);
            use sys::CUdevice_attribute as A;
            let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let context = driver::primary_ctx::retain(device)?;
            driver::ctx::set_current(context)?;
            (driver::device::total_mem(device)?, context, major, minor)
        };
        let products = lt::create_handle()?;
        Ok(Self(Arc::new(Card {
            ordinal,
            name,
            memory,
            context,
            products,
            architecture: 10 * major + minor,
            lanes: Mutex::default(),
            modules: Default::default(),
            compiling: Mutex::default(),
        })))
    }

    /// Which card, from 0.
    pub fn ordinal(&self) -> usize {
        self.0.ordinal
    }

    /// As the driver calls it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Bytes of memory on the card.
    pub fn memory(&self) -> usize {
        self.0.memory
    }

    /// Compiles the kernels of a precision, unless they are. What uses them does so by itself; here, to know early that they
    /// compile.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn prepare(&self, of: Precision) -> Result<()> {
        self.module(of).map(|_| ())
    }

    pub(crate) fn products(&self) -> lt_sys::cublasLtHandle_t {
        self.0.products
    }

    /// The lanes of all threads, to look at or to add to.
    pub(crate) fn lanes(&self) -> MutexGuard<'_, Vec<Weak<Lane>>> {
        // Nothing that can panic leaves the list half changed.
        self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the calling thread's calls go to this card.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as the card.
        Ok(unsafe { driver::ctx::set_current(self.0.context) }?)
    }

    /// The kernel `name`, of those compiled for a precision.
    pub(crate) fn function(&self, name: &'static str, of: Precision) -> Result<sys::CUfunction> {
        let module = self.module(of)?;
        let lock = module.functions.lock();
        let mut functions = lock.unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function as sys::CUfunction);
        }
        let c_name = CString::new(name).map_err(|e| Error::Compile(e.to_string()))?;
        // SAFETY: the module is loaded and stays so.
        let function = unsafe { driver::module::get_function(module.handle, c_name) }?;
        functions.insert(name, function as usize);
        Ok(function)
    }

    fn module(&self, of: Precision) -> Result<&Module> {
        let place = &self.0.modules[of as usize];
        if let Some(module) = place.get() {
            return Ok(module);
        }
        let _one = self
            .0
            .compiling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = place.get() {
            return Ok(module);
        }
        let image = compile(self.0.architecture, of)?;
        self.enter()?;
        // SAFETY: the image is what the compiler gave, and is only read here.
        let handle = unsafe { driver::module::load_data(image.as_ptr().cast::<c_void>()) }?;
        Ok(place.get_or_init(|| Module {
            handle,
            functions: Mutex::default(),
        }))
    }
}

/// Machine code of the kernels for the very card, so that no driver is too old for what the compiler gives; for a card
/// that is newer than the compiler, its newest PTX, which the driver compiles on.
fn compile(architecture: i32, of: Precision) -> Result<Vec<u8>> {
    let source = CString::new(KERNELS).map_err(|e| Error::Compile(e.to_string()))?;
    let known = architectures()?;
    let is_known = known.contains(&architecture);
    let older = known.iter().filter(|known| **known < architecture).max();
    let target = match (is_known, older) {
        (false, Some(older)) => format!("compute_{older}"),
        _ => format!("sm_{architecture}"),
    };
    let mut options = vec![
        format!("--gpu-architecture={target}"),
        "--std=c++17".to_owned(),
    ];
    match of {
        Precision::Float32 => {}
        Precision::Tf32 => options.push("-DTF32".to_owned()),
        Precision::Half => options.push("-DHALF".to_owned()),
    }
    let program = nvrtc::create_program(&source, Some(c"kernels.cu"))?;
    // SAFETY: the program was just made, and is destroyed at the end, whatever happens.
    unsafe {
        let image = match nvrtc::compile_program(program, &options) {
            Ok(()) if target.starts_with("sm_") => machine_code(program),
            Ok(()) => {
                let text = nvrtc::get_ptx(program).map_err(Error::from);
                text.map(|text| text.iter().map(|c| *c as u8).collect())
            }
            Err(error) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log
                    .iter()
                    .map(|c| *c as u8)
                    .take_while(|c| *c != 0)
                    .collect();
                let log = String::from_utf8_lossy(&log).trim().to_owned();
                Err(Error::Compile(format!("{error}: {log}")))
            }
        };
        nvrtc::destroy_program(program)?;
        image
    }
}

/// Compute capabilities that the compiler knows.
fn architectures() -> Result<Vec<i32>> {
    let mut count = 0;
    // SAFETY: the list has as many places as the compiler said.
    unsafe {
        nvrtc_sys::nvrtcGetNumSupportedArchs(&mut count).result()?;
        let mut known = vec![0; count.max(0) as usize];
        nvrtc_sys::nvrtcGetSupportedArchs(known.as_mut_ptr()).result()?;
        Ok(known)
    }
}

/// # Safety
/// `program` was compiled for a card.
unsafe fn machine_code(program: nvrtc_sys::nvrtcProgram) -> Result<Vec<u8>> {
    let mut size = 0;
    // SAFETY: as said above; the image is as large as the compiler said.
    unsafe {
        nvrtc_sys::nvrtcGetCUBINSize(program, &mut size).result()?;
        let mut image = vec![0u8; size];
        nvrtc_sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()?;
        Ok(image)
    }
}

/// Opens what is in the folders of `PROMPTBED_CUDA_LIBRARIES` (separated as in `PATH`): a library that is open once is
/// found by its name afterwards.
fn open_libraries() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let Some(folders) = std::env::var_os("PROMPTBED_CUDA_LIBRARIES") else {
            return;
        };
        let mut files: Vec<PathBuf> = std::env::split_paths(&folders)
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|entries| {
                entries
                    .filter_map(std::result::Result::ok)
                    .map(|e| e.path())
            })
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let wanted = ["libcuda.so", "libnvrtc", "libcublasLt.so"];
                wanted.iter().any(|w| name.starts_with(w))
            })
            .collect();
        // NVRTC looks for its builtins by their name alone: they are open before it is.
        files.sort_by_key(|file| !file.to_string_lossy().contains("builtins"));
        for file in files {
            // SAFETY: NVIDIA's libraries, or what the user put in their place, run their initialisers.
            if let Ok(library) = unsafe { libloading::Library::new(&file) } {
                // Stays open to the end.
                std::mem::forget(library);
            }
        }
    });
}
