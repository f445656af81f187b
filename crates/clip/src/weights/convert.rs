//! Little-endian bytes of any kind of number to numbers.

use super::stored::Kind;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Little-endian numbers of `N` bytes.
pub(super) fn each<const N: usize, T>(
    bytes: &[u8],
    read: fn([u8; N]) -> T,
) -> impl Iterator<Item = T> {
    bytes
        .chunks_exact(N)
        .map(move |b| read(b.try_into().expect("a chunk has N bytes")))
}

/// Little-endian bytes to float32; the bytes need no alignment.
pub(super) fn convert(kind: Kind, bytes: &[u8], target: &mut [f32]) {
    fn fill<const N: usize, T>(
        bytes: &[u8],
        target: &mut [f32],
        read: fn([u8; N]) -> T,
        cast: fn(T) -> f32,
    ) {
        for (value, number) in target.iter_mut().zip(each(bytes, read)) {
            *value = cast(number);
        }
    }
    match kind {
        Kind::F16 => in_blocks(
            bytes,
            target,
            f16::from_le_bytes,
            <[f16]>::convert_to_f32_slice,
        ),
        Kind::BF16 => in_blocks(
            bytes,
            target,
            bf16::from_le_bytes,
            <[bf16]>::convert_to_f32_slice,
        ),
        Kind::F32 => fill(bytes, target, f32::from_le_bytes, |x| x),
        Kind::F64 => fill(bytes, target, f64::from_le_bytes, |x| x as f32),
        Kind::I64 => fill(bytes, target, i64::from_le_bytes, |x| x as f32),
        Kind::I32 => fill(bytes, target, i32::from_le_bytes, |x| x as f32),
        Kind::I16 => fill(bytes, target, i16::from_le_bytes, f32::from),
        Kind::I8 => fill(bytes, target, i8::from_le_bytes, f32::from),
        Kind::U8 | Kind::Bool => fill(bytes, target, u8::from_le_bytes, f32::from),
    }
}

/// Half precision through an aligned block, which is what the processor's conversion instructions want.
fn in_blocks<T: Copy + Default>(
    bytes: &[u8],
    target: &mut [f32],
    read: fn([u8; 2]) -> T,
    convert: fn(&[T], &mut [f32]),
) {
    const BLOCK: usize = 2048;
    let mut block = [T::default(); BLOCK];
    for (bytes, target) in bytes.chunks(2 * BLOCK).zip(target.chunks_mut(BLOCK)) {
        for (value, number) in block.iter_mut().zip(each(bytes, read)) {
            *value = number;
        }
        convert(&block[..target.len()], target);
    }
}
