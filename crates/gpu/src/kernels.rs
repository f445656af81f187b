//! Launches of the kernels of `kernels.cu`: one function each, with the shapes that the kernel's head names.

use std::ffi::c_void;

use cudarc::driver::{result as driver, sys};

use crate::card::Precision;
use crate::error::{Error, Result};
use crate::memory::Lane;

/// A kernel's parameters, in order.
#[derive(Default)]
struct Arguments {
    values: Vec<u64>,
}

/// What a parameter can be; the driver reads as many bytes as the kernel declares.
trait Argument {
    fn bits(self) -> u64;
}

impl Argument for u64 {
    fn bits(self) -> u64 {
        self
    }
}

/// A null pointer where there is none.
impl Argument for Option<u64> {
    fn bits(self) -> u64 {
        self.unwrap_or(0)
    }
}

/// An `int`.
impl Argument for usize {
    fn bits(self) -> u64 {
        // Sizes were checked by `fits`; `long long` parameters read all of it.
        self as u64
    }
}

impl Argument for bool {
    fn bits(self) -> u64 {
        u64::from(self)
    }
}

impl Argument for f32 {
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Arguments {
    fn with(mut self, value: impl Argument) -> Self {
        self.values.push(value.bits());
        self
    }
}

macro_rules! arguments {
    ($($value:expr),+ $(,)?) => { Arguments::default()$(.with($value))+ };
}

/// Threads of a block: lanes of a warp, warps.
const BLOCK: (u32, u32, u32) = (32, 4, 1);
/// Threads of a block where every number is by itself.
const FLAT: (u32, u32, u32) = (256, 1, 1);
/// Most dynamic shared memory that needs no asking: 48 KB with what kernels have of fixed size.
const SHARED: usize = 32 << 10;

fn fits(count: usize, what: &str) -> Result<u32> {
    match i32::try_from(count) {
        Ok(count) => Ok(count as u32),
        Err(_) => Err(Error::Shape(format!(
            "{count} {what} are more than a kernel counts"
        ))),
    }
}

/// What the forward and backward of attention over pictures share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pictures {
    pub(crate) count: usize,
    pub(crate) tokens: usize,
    /// `tokens`, or 1 where only the first row of each asks.
    pub(crate) asking: usize,
}

/// Heads of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    pub(crate) size: usize,
}

/// Addresses of an attention's lists; see [`crate::Attention`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paths {
    pub(crate) query: u64,
    pub(crate) offset: u64,
    pub(crate) keys: u64,
    pub(crate) asks: u64,
    pub(crate) seen_offset: u64,
    pub(crate) seen: u64,
    pub(crate) rows: usize,
    pub(crate) queries: usize,
    pub(crate) longest: usize,
}

/// What attention backward reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attended {
    pub(crate) qkv: u64,
    pub(crate) out: u64,
    pub(crate) logsum: u64,
    pub(crate) dout: u64,
}

/// Kernels that take inputs of products as half numbers, or as float32.
fn inputs(half: bool) -> Precision {
    match half {
        true => Precision::Half,
        false => Precision::Float32,
    }
}

impl Lane {
    fn launch(
        &self,
        name: &'static str,
        of: Precision,
        grid: (u32, u32, u32),
        block: (u32, u32, u32),
        shared: usize,
        mut arguments: Arguments,
    ) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        let function = self.gpu.function(name, of)?;
        let values = arguments.values.iter_mut();
        let mut pointers: Vec<*mut c_void> = values.map(|v| std::ptr::from_mut(v).cast()).collect();
        // SAFETY: parameters are those of the kernel, in its order; addresses come from live buffers of the shapes that
        // it expects, which callers check; the lane's stream orders the launch before their memory is used again.
        unsafe {
            if shared > SHARED {
                let most =
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                driver::function::set_function_attribute(function, most, shared as i32)?;
            }
            driver::launch_kernel(
                function,
                grid,
                block,
                shared as u32,
                self.stream,
                &mut pointers,
            )?;
        }
        Ok(())
    }

    /// One warp a row.
    fn by_rows(&self, name: &'static str, half: bool, rows: usize, a: Arguments) -> Result<()> {
        let blocks = fits(rows, "rows")?.div_ceil(BLOCK.1);
        self.launch(name, inputs(half), (blocks, 1, 1), BLOCK, 0, a)
    }

    /// One thread a number.
    fn by_numbers(&self, name: &'static str, half: bool, n: usize, a: Arguments) -> Result<()> {
        let blocks = fits(n.div_ceil(FLAT.0 as usize), "blocks of numbers")?;
        self.launch(name, inputs(half), (blocks, 1, 1), FLAT, 0, a)
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(crate) fn norm(
        &self,
        half: bool,
        x: u64,
        (gain, bias): (u64, u64),
        stream: Option<u64>,
        input: Option<u64>,
        stats: Option<u64>,
        (rows, width): (usize, usize),
        epsilon: f32,
    ) -> Result<()> {
        let a = arguments![x, gain, bias, stream, input, stats, rows, width, epsilon];
        self.by_rows("norm_rows", half, rows, a)
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(crate) fn norm_back(
        &self,
        half: bool,
        (x, gain, stats): (u64, u64, u64),
        dy: u64,
        dx: u64,
        copy: Option<u64>,
        add: bool,
        (rows, width): (usize, usize),
    ) -> Result<()> {
        let a = arguments![x, gain, stats, dy, dx, copy, add, rows, width];
        self.by_rows("norm_back", half, rows, a)
    }

    pub(crate) fn norm_weights_back(
        &self,
        (x, stats): (u64, u64),
        dy: u64,
        (dgain, dbias): (u64, u64),
        (rows, width): (usize, usize),
    ) -> Result<()> {
        let grid = (fits(width, "columns")?.div_ceil(32), 1, 1);
        let a = arguments![x, stats, dy, dgain, dbias, rows, width];
        self.launch(
            "norm_weights_back",
            Precision::Float32,
            grid,
            (32, 8, 1),
            0,
            a,
        )
    }

    pub(crate) fn activate(
        &self,
        half: bool,
        h: u64,
        out: u64,
        n: usize,
        kind: usize,
    ) -> Result<()> {
        self.by_numbers("activate", half, n, arguments![h, out, n, kind])
    }

    pub(crate) fn activate_back(
        &self,
        half: bool,
        h: u64,
        dy: u64,
        dx: u64,
        n: usize,
        kind: usize,
    ) -> Result<()> {
        self.by_numbers("activate_back", half, n, arguments![h, dy, dx, n, kind])
    }

    pub(crate) fn attend_path(
        &self,
        half: bool,
        qkv: u64,
        p: &Paths,
        out: u64,
        logsum: u64,
        heads: Heads,
    ) -> Result<()> {
        let grid = (
            fits(p.queries, "queries")?.div_ceil(BLOCK.1),
            most(heads.count)?,
            1,
        );
        let shared = 4 * BLOCK.1 as usize * (p.longest + heads.size);
        let a = arguments![
            qkv,
            p.query,
            p.offset,
            p.keys,
            out,
            logsum,
            p.queries,
            heads.count,
            heads.size,
            p.longest
        ];
        self.launch("attend_path", inputs(half), grid, BLOCK, shared, a)
    }

    pub(crate) fn attend_path_back(
        &self,
        half: bool,
        of: &Attended,
        p: &Paths,
        dqkv: u64,
        heads: Heads,
    ) -> Result<()> {
        let asking = fits(p.queries, "queries")?.div_ceil(BLOCK.1);
        let grid = (asking + fits(p.rows, "rows")?, most(heads.count)?, 1);
        let shared = attend_path_back_shared(p.longest, heads.size);
        let a = arguments![
            of.qkv,
            p.query,
            p.offset,
            p.keys,
            p.asks,
            p.seen_offset,
            p.seen,
            of.out,
            of.logsum,
            of.dout,
            dqkv,
            p.rows,
            p.queries,
            heads.count,
            heads.size,
            p.longest
        ];
        self.launch("attend_path_back", inputs(half), grid, BLOCK, shared, a)
    }

    pub(crate) fn attend_full(
        &self,
        precision: Precision,
        qkv: u64,
        of: Pictures,
        out: u64,
        logsum: u64,
        heads: Heads,
    ) -> Result<()> {
        let grid = (
            fits(of.asking, "rows")?.div_ceil(32),
            most(heads.count)?,
            most(of.count)?,
        );
        let a = arguments![
            qkv,
            out,
            logsum,
            of.count,
            of.tokens,
            heads.count,
            heads.size,
            of.asking
        ];
        let shared = attend_full_shared(heads.size);
        self.launch("attend_full", precision, grid, BLOCK, shared, a)
    }

    pub(crate) fn attend_full_back(
        &self,
        precision: Precision,
        saved: &Attended,
        of: Pictures,
        dqkv: u64,
        heads: Heads,
    ) -> Result<()> {
        let tiles = fits(of.asking, "rows")?.div_ceil(32) + fits(of.tokens, "rows")?.div_ceil(32);
        let grid = (tiles, most(heads.count)?, most(of.count)?);
        let a = arguments![
            saved.qkv,
            saved.out,
            saved.logsum,
            saved.dout,
            dqkv,
            of.count,
            of.tokens,
            heads.count,
            heads.size,
            of.asking
        ];
        let shared = attend_full_back_shared(heads.size);
        self.launch("attend_full_back", precision, grid, BLOCK, shared, a)
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(crate) fn put_rows(
        &self,
        x: u64,
        prompt: u64,
        source: u64,
        out: u64,
        (kept, share): (f32, f32),
        (rows, width): (usize, usize),
    ) -> Result<()> {
        let a = arguments![x, prompt, source, out, kept, share, rows, width];
        self.by_rows("put_rows", false, rows, a)
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(crate) fn put_rows_back(
        &self,
        half: bool,
        dy: u64,
        copy: Option<u64>,
        (offset, list): (u64, u64),
        dprompt: Option<u64>,
        (kept, share): (f32, f32),
        (sources, width): (usize, usize),
    ) -> Result<()> {
        let a = arguments![dy, copy, offset, list, dprompt, kept, share, sources, width];
        let grid = (fits(sources, "prompt rows")?, most(width.div_ceil(32))?, 1);
        self.launch("put_rows_back", inputs(half), grid, (32, 8, 1), 0, a)
    }

    pub(crate) fn gather(
        &self,
        x: u64,
        from: u64,
        out: u64,
        (rows, width): (usize, usize),
    ) -> Result<()> {
        self.by_rows("gather", false, rows, arguments![x, from, out, rows, width])
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(crate) fn gather_back(
        &self,
        half: bool,
        dy: u64,
        (offset, list): (u64, u64),
        dx: u64,
        copy: Option<u64>,
        add: bool,
        (rows, width): (usize, usize),
    ) -> Result<()> {
        let a = arguments![dy, offset, list, dx, copy, add, rows, width];
        self.by_rows("gather_back", half, rows, a)
    }

    pub(crate) fn patches(
        &self,
        half: bool,
        pixels: u64,
        out: u64,
        (pictures, grid, patch): (usize, usize, usize),
    ) -> Result<()> {
        let n = pictures * grid * grid * 3 * patch * patch;
        let a = arguments![pixels, out, pictures, grid, patch];
        self.by_numbers("patches", half, n, a)
    }

    #[allow(clippy::too_many_arguments, reason = "the kernel's own")]
    pub(crate) fn embed_pictures(
        &self,
        patches: u64,
        classes: Option<u64>,
        positions: u64,
        out: u64,
        (pictures, count, extra, width): (usize, usize, usize, usize),
    ) -> Result<()> {
        let rows = pictures * (usize::from(classes.is_some()) + count + extra);
        let a = arguments![
            patches, classes, positions, out, pictures, count, extra, width
        ];
        self.by_rows("embed_pictures", false, rows, a)
    }

    pub(crate) fn add(
        &self,
        half: bool,
        x: u64,
        y: u64,
        copy: Option<u64>,
        n: usize,
    ) -> Result<()> {
        self.by_numbers("add", half, n, arguments![x, y, copy, n])
    }

    pub(crate) fn to_input(
        &self,
        half: bool,
        x: u64,
        out: u64,
        scale: f32,
        n: usize,
    ) -> Result<()> {
        self.by_numbers("to_input", half, n, arguments![x, out, scale, n])
    }

    pub(crate) fn widen(&self, half: bool, x: u64, out: u64, n: usize) -> Result<()> {
        self.by_numbers("from_input", half, n, arguments![x, out, n])
    }

    pub(crate) fn times(&self, x: u64, y: u64, out: u64, factor: f32, n: usize) -> Result<()> {
        self.by_numbers("times", false, n, arguments![x, y, out, factor, n])
    }
}

/// Blocks along a grid's second and third side.
fn most(count: usize) -> Result<u32> {
    match u16::try_from(count) {
        Ok(count) => Ok(u32::from(count)),
        Err(_) => Err(Error::Shape(format!(
            "{count} at once are more than a grid of blocks has on a side (65,535)"
        ))),
    }
}

// Bytes of dynamic shared memory, as the kernels' heads say.

fn attend_path_back_shared(longest: usize, size: usize) -> usize {
    4 * (10 * size + (4 * longest).max(256))
}

fn attend_full_shared(size: usize) -> usize {
    4 * (96 * (size + 4) + 1152)
}

fn attend_full_back_shared(size: usize) -> usize {
    4 * (128 * (size + 4) + 2432)
}
