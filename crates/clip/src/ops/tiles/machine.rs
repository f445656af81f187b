//! The processor's own matrix unit: instructions, and whether they may be used.
//!
//! Instructions are written out, as Rust has no stable intrinsics for them. The compiler knows nothing of what is in the
//! tiles, and needs not: nobody but the kernels here touches them, and each begins by filling its own.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};

use super::{Grade, SUMS, step_words};

/// Bits of CPUID's leaf 7, register edx.
const BFLOAT: u32 = 1 << 22;
const TILES: u32 = 1 << 24;
/// Bits of XCR0: the system keeps the tiles' configuration, and their contents, for every thread.
const KEPT: u64 = 0b11 << 17;

/// What stands in the way of using the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The processor has none, or none for bfloat16.
    Processor,
    /// The operating system does not keep tiles for threads.
    System,
    /// The operating system refused this process's request.
    Permission,
    /// It does not give the bits of the manual.
    Bits,
}

/// What of the unit is there, each asked only when all before it is.
pub(super) fn lack(
    processor: bool,
    system: impl FnOnce() -> bool,
    permission: impl FnOnce() -> bool,
    bits: impl FnOnce() -> bool,
) -> Option<Lack> {
    if !processor {
        Some(Lack::Processor)
    } else if !system() {
        Some(Lack::System)
    } else if !permission() {
        Some(Lack::Permission)
    } else if !bits() {
        Some(Lack::Bits)
    } else {
        None
    }
}

/// What is missing on this machine.
pub(super) fn missing(bits: impl FnOnce() -> bool) -> Option<Lack> {
    lack(
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (BFLOAT | TILES) == (BFLOAT | TILES),
        keeps_tiles,
        may_use_tiles,
        bits,
    )
}

/// Whether the system keeps tiles when it changes threads.
fn keeps_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let (low, high): (u32, u32);
    // SAFETY: reads a register that programs may read where OSXSAVE is set.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    (u64::from(high) << 32 | u64::from(low)) & KEPT == KEPT
}

/// Asks Linux for the unit, for all threads of this process: it makes room for tiles only where they are asked for.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: a system call that changes nothing but what this process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Nobody has tried the unit under another system.
#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}

/// As `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles in full: 16 rows of 64 bytes.
static FULL: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Tiles of this thread, from here to the drop.
pub(super) struct Configured(());

impl Configured {
    /// # Safety
    /// The processor must have the unit, and this process the permission to use it.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the caller's promise; a configuration that the manual allows.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &FULL,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
        Self(())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: there are tiles to give back. Threads without any cost the system nothing to save.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// The instructions of a kernel: sums in tiles 0 to 3 (from memory, or zero), steps, sums back.
macro_rules! kernel {
    (
        $left:ident, $right:ident, $sums:ident, $steps:ident, $keep:ident, $step:literal,
        zero: $($zero:literal)*; load: $($load:literal)*; step: $($each:literal)*; store: $($store:literal)*
    ) => {
        asm!(
            "test {keep:e}, {keep:e}",
            "jnz 2f",
            $($zero,)*
            "jmp 3f",
            "2:",
            $($load,)*
            "3:",
            $($each,)*
            concat!("add {a}, ", $step),
            concat!("add {b}, ", $step),
            "dec {steps}",
            "jnz 3b",
            $($store,)*
            a = inout(reg) $left => _,
            b = inout(reg) $right => _,
            c = in(reg) $sums,
            steps = inout(reg) $steps => _,
            keep = in(reg) u32::from($keep),
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
    // Sums of 32 rows and 32 columns.
    (tall $left:ident, $right:ident, $sums:ident, $steps:ident, $keep:ident, $step:literal, $($each:literal)*) => {
        kernel!(
            $left, $right, $sums, $steps, $keep, $step,
            zero: "tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3";
            load: "tileloadd tmm0, [{c} + 1*{row}]" "tileloadd tmm1, [{c} + 1*{row} + 1024]"
                "tileloadd tmm2, [{c} + 1*{row} + 2048]" "tileloadd tmm3, [{c} + 1*{row} + 3072]";
            step: $($each)*;
            store: "tilestored [{c} + 1*{row}], tmm0" "tilestored [{c} + 1*{row} + 1024], tmm1"
                "tilestored [{c} + 1*{row} + 2048], tmm2" "tilestored [{c} + 1*{row} + 3072], tmm3"
        )
    };
    // Sums of 16 rows and 32 columns.
    (flat $left:ident, $right:ident, $sums:ident, $steps:ident, $keep:ident, $step:literal, $($each:literal)*) => {
        kernel!(
            $left, $right, $sums, $steps, $keep, $step,
            zero: "tilezero tmm0" "tilezero tmm1";
            load: "tileloadd tmm0, [{c} + 1*{row}]" "tileloadd tmm1, [{c} + 1*{row} + 1024]";
            step: $($each)*;
            store: "tilestored [{c} + 1*{row}], tmm0" "tilestored [{c} + 1*{row} + 1024], tmm1"
        )
    };
}

/// As [`super::multiply`].
///
/// # Panics
/// When there are too few sums, or inputs do not have the same steps.
///
/// # Safety
/// Within the life of a [`Configured`] of this thread.
pub(super) unsafe fn multiply(
    grade: Grade,
    tall: bool,
    left: &[u32],
    right: &[u32],
    sums: &mut [f32],
    keep: bool,
) {
    let steps = left.len() / step_words(grade);
    assert!(
        steps > 0 && left.len() == right.len() && sums.len() >= SUMS,
        "a kernel reads and writes whole steps"
    );
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
    // A step in the order of `Grade::order`.
    // SAFETY: the caller's promise, and all memory that is touched is inside the slices, as just asserted.
    unsafe {
        match (grade, tall) {
            (Grade::Six, true) => kernel!(
                tall left, right, sums, steps, keep, "6144",
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm6, [{b} + 1*{row} + 4096]"
                "tileloadd tmm7, [{b} + 1*{row} + 5120]"
                "tileloadd tmm5, [{a} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm6, [{b} + 1*{row} + 2048]"
                "tileloadd tmm7, [{b} + 1*{row} + 3072]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm4, [{a} + 1*{row} + 2048]"
                "tileloadd tmm5, [{a} + 1*{row} + 3072]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm6, [{b} + 1*{row}]"
                "tileloadd tmm7, [{b} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm4, [{a} + 1*{row} + 4096]"
                "tileloadd tmm5, [{a} + 1*{row} + 5120]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm5, [{a} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
            ),
            (Grade::Six, false) => kernel!(
                flat left, right, sums, steps, keep, "6144",
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm6, [{b} + 1*{row} + 4096]"
                "tileloadd tmm7, [{b} + 1*{row} + 5120]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm6, [{b} + 1*{row} + 2048]"
                "tileloadd tmm7, [{b} + 1*{row} + 3072]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm5, [{a} + 1*{row} + 2048]"
                "tdpbf16ps tmm0, tmm5, tmm6"
                "tdpbf16ps tmm1, tmm5, tmm7"
                "tileloadd tmm6, [{b} + 1*{row}]"
                "tileloadd tmm7, [{b} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm5, tmm6"
                "tdpbf16ps tmm1, tmm5, tmm7"
                "tileloadd tmm5, [{a} + 1*{row} + 4096]"
                "tdpbf16ps tmm0, tmm5, tmm6"
                "tdpbf16ps tmm1, tmm5, tmm7"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
            ),
            (Grade::Split, true) => kernel!(
                tall left, right, sums, steps, keep, "4096",
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm6, [{b} + 1*{row} + 2048]"
                "tileloadd tmm7, [{b} + 1*{row} + 3072]"
                "tileloadd tmm5, [{a} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm6, [{b} + 1*{row}]"
                "tileloadd tmm7, [{b} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
                "tileloadd tmm4, [{a} + 1*{row} + 2048]"
                "tileloadd tmm5, [{a} + 1*{row} + 3072]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
            ),
            (Grade::Split, false) => kernel!(
                flat left, right, sums, steps, keep, "4096",
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm6, [{b} + 1*{row} + 2048]"
                "tileloadd tmm7, [{b} + 1*{row} + 3072]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm6, [{b} + 1*{row}]"
                "tileloadd tmm7, [{b} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tileloadd tmm5, [{a} + 1*{row} + 2048]"
                "tdpbf16ps tmm0, tmm5, tmm6"
                "tdpbf16ps tmm1, tmm5, tmm7"
            ),
            (Grade::Rounded, true) => kernel!(
                tall left, right, sums, steps, keep, "2048",
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm6, [{b} + 1*{row}]"
                "tileloadd tmm7, [{b} + 1*{row} + 1024]"
                "tileloadd tmm5, [{a} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
                "tdpbf16ps tmm2, tmm5, tmm6"
                "tdpbf16ps tmm3, tmm5, tmm7"
            ),
            (Grade::Rounded, false) => kernel!(
                flat left, right, sums, steps, keep, "2048",
                "tileloadd tmm4, [{a} + 1*{row}]"
                "tileloadd tmm6, [{b} + 1*{row}]"
                "tileloadd tmm7, [{b} + 1*{row} + 1024]"
                "tdpbf16ps tmm0, tmm4, tmm6"
                "tdpbf16ps tmm1, tmm4, tmm7"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_not_there_or_forbidden_is_not_used() {
        let never = || -> bool { panic!("asked for without need") };
        assert_eq!(lack(false, never, never, never), Some(Lack::Processor));
        assert_eq!(lack(true, || false, never, never), Some(Lack::System));
        assert_eq!(lack(true, || true, || false, never), Some(Lack::Permission));
        assert_eq!(lack(true, || true, || true, || false), Some(Lack::Bits));
        assert_eq!(lack(true, || true, || true, || true), None);
    }

    #[test]
    fn asking_for_the_unit_harms_nobody() {
        // Whatever the answer: on a machine without the unit, the system refuses.
        let (kept, may) = (keeps_tiles(), may_use_tiles());
        eprintln!("tiles kept: {kept}, permitted: {may}");
    }
}
