//! Products of matrices, by cuBLASLt.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, PoisonError};

use cudarc::cublaslt::{result as lt, sys};
use cudarc::driver::result as driver;

use crate::card::Precision;
use crate::error::Result;
use crate::memory::Lane;

/// A matrix in memory, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mat {
    pub(crate) address: u64,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Numbers from a row to the next.
    pub(crate) stride: usize,
    /// Whether its transpose is meant.
    pub(crate) turned: bool,
}

impl Mat {
    pub(crate) fn new(address: u64, rows: usize, columns: usize) -> Self {
        Self {
            address,
            rows,
            columns,
            stride: columns,
            turned: false,
        }
    }

    pub(crate) fn t(self) -> Self {
        Self {
            turned: !self.turned,
            ..self
        }
    }
}

/// What is added to a product.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plus {
    /// A row, added to every row.
    pub(crate) bias: Option<u64>,
    /// A matrix of the result's shape and stride: the result itself, to add to what is there.
    pub(crate) matrix: Option<u64>,
}

/// What a product is, but for addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    out: (usize, usize, usize),
    inner: usize,
    left: (usize, bool),
    right: (usize, bool),
    bias: bool,
    half: bool,
    tf32: bool,
    /// Bytes that addresses of right, left and out are multiples of.
    aligned: [u32; 3],
}

/// How a kind of product is done: found once, so that it is done the same way every time.
struct Way {
    description: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// A lane's ways and the room that they work in.
#[derive(Default)]
pub(crate) struct Products {
    ways: HashMap<Kind, Way>,
    room: Option<u64>,
}

// SAFETY: descriptions may be used from any thread, one at a time (cuBLASLt documentation); a lane's lock sees to that.
unsafe impl Send for Products {}

/// Bytes that products may work in: what NVIDIA advises for its newest cards.
const ROOM: usize = 32 << 20;

impl Products {
    /// Gives up what it holds.
    pub(crate) fn close(&mut self) {
        for (_, way) in self.ways.drain() {
            // SAFETY: made in `way`, destroyed once.
            unsafe {
                for layout in way.layouts {
                    let _ = lt::destroy_matrix_layout(layout);
                }
                let _ = lt::destroy_matmul_desc(way.description);
            }
        }
        if let Some(room) = self.room.take() {
            // SAFETY: allocated in `multiply`; the lane waited for its launches.
            let _ = unsafe { driver::free_sync(room) };
        }
    }
}

impl Lane {
    /// `out = left right + plus`, with `out` float32 `[rows, columns]`; `half`: both inputs are half.
    pub(crate) fn multiply(
        self: &Arc<Self>,
        out: Mat,
        left: Mat,
        right: Mat,
        plus: Plus,
        half: bool,
        precision: Precision,
    ) -> Result<()> {
        let inner = if left.turned { left.rows } else { left.columns };
        debug_assert_eq!(
            inner,
            if right.turned {
                right.columns
            } else {
                right.rows
            },
            "inner sides of a product agree"
        );
        if out.rows == 0 || out.columns == 0 {
            return Ok(());
        }
        let kind = Kind {
            out: (out.rows, out.columns, out.stride),
            inner,
            left: (left.stride, left.turned),
            right: (right.stride, right.turned),
            bias: plus.bias.is_some(),
            half,
            tf32: precision == Precision::Tf32 && !half,
            aligned: [
                right.address,
                left.address,
                out.address | plus.matrix.unwrap_or(0),
            ]
            .map(aligned),
        };
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        let room = match products.room {
            Some(room) => room,
            None => *products.room.insert(self.allocate(ROOM)?),
        };
        let handle = self.gpu.products();
        let way = match products.ways.entry(kind) {
            std::collections::hash_map::Entry::Occupied(found) => found.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(find(handle, &kind, (left, right))?)
            }
        };
        let (one, add) = (1f32, if plus.matrix.is_some() { 1f32 } else { 0.0 });
        let pointer = |address: u64| address as *const c_void;
        // SAFETY: addresses come from live buffers of the shapes that the layouts name; the launch is ordered on the
        // lane's stream, which is what gives their memory to others.
        unsafe {
            if let Some(bias) = plus.bias {
                set(
                    way.description,
                    sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &bias,
                )?;
            }
            // Row by row is column by column of the transposes: out' = right' left'.
            lt::matmul(
                handle,
                way.description,
                (&raw const one).cast(),
                (&raw const add).cast(),
                pointer(right.address),
                way.layouts[0],
                pointer(left.address),
                way.layouts[1],
                pointer(plus.matrix.unwrap_or(out.address)),
                way.layouts[2],
                out.address as *mut c_void,
                way.layouts[2],
                &raw const way.algorithm,
                room as *mut c_void,
                ROOM,
                self.stream.cast(),
            )?;
        }
        Ok(())
    }
}

/// Bytes that an address is a multiple of, up to cuBLASLt's 256.
fn aligned(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// # Safety
/// `description` is live, and `T` is what the attribute holds.
unsafe fn set<T>(
    description: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<()> {
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: as said above.
    Ok(unsafe { lt::set_matmul_desc_attribute(description, attribute, value, size_of::<T>()) }?)
}

fn find(handle: sys::cublasLtHandle_t, kind: &Kind, (left, right): (Mat, Mat)) -> Result<Way> {
    use sys::cublasComputeType_t as Compute;
    use sys::cublasLtMatmulDescAttributes_t as Attribute;
    use sys::cudaDataType_t as Type;
    let input = if kind.half {
        Type::CUDA_R_16F
    } else {
        Type::CUDA_R_32F
    };
    let compute = if kind.tf32 {
        Compute::CUBLAS_COMPUTE_32F_FAST_TF32
    } else {
        Compute::CUBLAS_COMPUTE_32F
    };
    let (rows, columns, stride) = kind.out;
    let layout = |m: Mat, of| {
        let (inside, outside) = (m.columns as u64, m.rows as u64);
        lt::create_matrix_layout(of, inside, outside, m.stride as i64)
    };
    let layouts = [
        layout(right, input)?,
        layout(left, input)?,
        lt::create_matrix_layout(Type::CUDA_R_32F, columns as u64, rows as u64, stride as i64)?,
    ];
    let description = lt::create_matmul_desc(compute, Type::CUDA_R_32F)?;
    // `cublasOperation_t`: CUBLAS_OP_N, CUBLAS_OP_T.
    let turned = |m: Mat| i32::from(m.turned);
    // SAFETY: all was just made; each attribute gets the type that cuBLASLt documents for it.
    unsafe {
        set(
            description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            &turned(right),
        )?;
        set(
            description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSB,
            &turned(left),
        )?;
        if kind.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set(
                description,
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                &epilogue,
            )?;
            let of = Type::CUDA_R_32F;
            set(
                description,
                Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                &of,
            )?;
        }
        let wish = lt::create_matmul_pref()?;
        let wished = |attribute, value: *const c_void, size| {
            lt::set_matmul_pref_attribute(wish, attribute, value, size)
        };
        use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
        let room = ROOM;
        wished(
            Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const room).cast(),
            size_of::<usize>(),
        )?;
        // Parts of a long inner side are never added up in place, which would be in any order.
        use sys::cublasLtReductionScheme_t as Scheme;
        let schemes = Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32
            | Scheme::CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE as u32;
        wished(
            Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            (&raw const schemes).cast(),
            size_of::<u32>(),
        )?;
        // Views into larger buffers start at any number.
        let [of_right, of_left, of_out] = &kind.aligned;
        for (attribute, bytes) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_right),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_left),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_out),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_out),
        ] {
            let bytes = std::ptr::from_ref(bytes).cast();
            wished(attribute, bytes, size_of::<u32>())?;
        }
        let found = lt::get_matmul_algo_heuristic(
            handle,
            description,
            layouts[0],
            layouts[1],
            layouts[2],
            layouts[2],
            wish,
        );
        lt::destroy_matmul_pref(wish)?;
        Ok(Way {
            description,
            layouts,
            algorithm: found?.algo,
        })
    }
}
