//! The matrix unit on processors that have none, for tests: what the very instructions of [`super::machine`] do.
//!
//! A processor answers an instruction that it does not know with an exception, of which Linux makes the signal SIGILL. The
//! handler here reads the instruction, does to eight tiles of the thread what the manual says, and goes on behind it.
//! What it does not know, or the manual forbids, ends the process as it does without a handler. Slow: a signal an
//! instruction.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use super::emulated::tests::by_the_manual;
use super::{TILE, Unit};

/// Where instructions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum By {
    /// The processor.
    Processor,
    /// The handler.
    Handler,
}

static BY: OnceLock<By> = OnceLock::new();

/// Makes the instructions work, once a process, and says who carries them out.
pub(in super::super) fn install() -> By {
    *BY.get_or_init(|| {
        if Unit::is_there() {
            return By::Processor;
        }
        // SAFETY: the handler touches nothing but its thread's tiles and what instructions name; all of `action` is set.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigemptyset(&mut action.sa_mask);
            assert_eq!(
                libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()),
                0
            );
        }
        By::Handler
    })
}

/// Whether they work.
pub(super) fn are_installed() -> bool {
    BY.get().is_some()
}

thread_local! {
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::NONE) };
}

extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a context; code is readable where the processor just read it (an instruction that is known
    // has at most 10 bytes, and an unknown one is not read beyond what tells it); nothing else uses this thread's tiles.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let code = registers[libc::REG_RIP as usize] as *const u8;
        let read = |i: usize| code.add(i).read();
        let general = |number: u8| registers[GENERAL[number as usize] as usize] as u64;
        let done = decode(read, general).and_then(|(instruction, length)| {
            TILES.with(|tiles| (*tiles.get()).carry_out(instruction))?;
            Some(length)
        });
        match done {
            Some(length) => registers[libc::REG_RIP as usize] += length as i64,
            // It is met again, and now ends the process.
            None => {
                libc::signal(libc::SIGILL, libc::SIG_DFL);
            }
        }
    }
}

/// General registers as instructions number them.
const GENERAL: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// An instruction with the addresses it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    Configure { from: u64 },
    Release,
    Zero { tile: u8 },
    Load { tile: u8, from: u64, stride: u64 },
    Store { tile: u8, to: u64, stride: u64 },
    Multiply { sums: u8, left: u8, right: u8 },
}

/// The instruction whose bytes `read` gives, and its length; `None` for all but the matrix unit's.
fn decode(read: impl Fn(usize) -> u8, general: impl Fn(u8) -> u64) -> Option<(Instruction, usize)> {
    // The prefix of three bytes: extensions of register numbers (inverted) and the table of opcodes, 0F38; then W,
    // another register (inverted), the vectors' length and what used to be a prefix of its own.
    if read(0) != 0xc4 || read(1) & 0x1f != 2 {
        return None;
    }
    let (extension, rest) = (!read(1) >> 5, read(2));
    let (wide, third, long, prefix) = (rest >> 7, !rest >> 3 & 15, rest >> 2 & 1, rest & 3);
    if wide != 0 || long != 0 {
        return None;
    }
    let (opcode, form) = (read(3), read(4));
    let (mode, first, second) = (form >> 6, form >> 3 & 7, form & 7);
    // There are tiles 0 to 7; no extension may name another.
    let (beyond, index_beyond, base_beyond) =
        (extension >> 2 & 1, extension >> 1 & 1, extension & 1);
    if beyond != 0 {
        return None;
    }
    let in_registers = mode == 3 && base_beyond == 0;
    match (opcode, prefix) {
        (0x49, 0) if in_registers && third == 0 && form == 0xc0 => Some((Instruction::Release, 5)),
        (0x49, 3) if in_registers && third == 0 && second == 0 => {
            Some((Instruction::Zero { tile: first }, 5))
        }
        (0x5c, 2) if in_registers && third < 8 => {
            let (sums, left, right) = (first, second, third);
            Some((Instruction::Multiply { sums, left, right }, 5))
        }
        (0x49, 0) if mode != 3 && third == 0 && first == 0 => {
            // A plain address: no scaled index, not relative to the code.
            if second == 4 || (mode == 0 && second == 5) {
                return None;
            }
            let (offset, bytes) = displacement(mode, 5, &read);
            let from = general(second | base_beyond << 3).wrapping_add(offset);
            Some((Instruction::Configure { from }, 5 + bytes))
        }
        (0x4b, 2 | 3) if mode != 3 && third == 0 && second == 4 => {
            let address = read(5);
            let (scale, index, base) = (address >> 6, address >> 3 & 7, address & 7);
            if mode == 0 && base == 5 {
                return None;
            }
            let (offset, bytes) = displacement(mode, 6, &read);
            let at = general(base | base_beyond << 3).wrapping_add(offset);
            let stride = match index | index_beyond << 3 {
                4 => 0,
                index => general(index) << scale,
            };
            let instruction = match prefix {
                3 => Instruction::Load {
                    tile: first,
                    from: at,
                    stride,
                },
                _ => Instruction::Store {
                    tile: first,
                    to: at,
                    stride,
                },
            };
            Some((instruction, 6 + bytes))
        }
        _ => None,
    }
}

/// The number that is added to an address, of 0, 1 or 4 bytes.
fn displacement(mode: u8, at: usize, read: impl Fn(usize) -> u8) -> (u64, usize) {
    match mode {
        1 => (read(at) as i8 as u64, 1),
        2 => (
            i32::from_le_bytes([0, 1, 2, 3].map(|i| read(at + i))) as u64,
            4,
        ),
        _ => (0, 0),
    }
}

/// What a thread has.
struct Tiles {
    words: [[u32; TILE]; 8],
    rows: [u8; 8],
    bytes: [u16; 8],
    are_configured: bool,
}

impl Tiles {
    const NONE: Self = Self {
        words: [[0; TILE]; 8],
        rows: [0; 8],
        bytes: [0; 8],
        are_configured: false,
    };

    /// `None` where the manual has an exception.
    fn carry_out(&mut self, instruction: Instruction) -> Option<()> {
        match instruction {
            Instruction::Configure { from } => {
                // SAFETY: as safe as the instruction itself would be.
                let image = unsafe { (from as *const [u8; 64]).read_unaligned() };
                self.configure(&image)?;
            }
            Instruction::Release => *self = Self::NONE,
            Instruction::Zero { tile } => {
                self.size(tile)?;
                self.words[tile as usize].fill(0);
            }
            Instruction::Load { tile, from, stride } => {
                let (rows, words) = self.size(tile)?;
                let tile = &mut self.words[tile as usize];
                tile.fill(0);
                for (row, to) in tile.chunks_exact_mut(16).take(rows).enumerate() {
                    let from = from.wrapping_add(stride.wrapping_mul(row as u64)) as *const u32;
                    for (i, to) in to.iter_mut().take(words).enumerate() {
                        // SAFETY: as safe as the instruction itself would be.
                        *to = unsafe { from.add(i).read_unaligned() };
                    }
                }
            }
            Instruction::Store { tile, to, stride } => {
                let (rows, words) = self.size(tile)?;
                let tile = &self.words[tile as usize];
                for (row, from) in tile.chunks_exact(16).take(rows).enumerate() {
                    let to = to.wrapping_add(stride.wrapping_mul(row as u64)) as *mut u32;
                    for (i, from) in from.iter().take(words).enumerate() {
                        // SAFETY: as safe as the instruction itself would be.
                        unsafe { to.add(i).write_unaligned(*from) };
                    }
                }
            }
            Instruction::Multiply { sums, left, right } => {
                let sizes = [sums, left, right].map(|tile| self.size(tile));
                let [sums_size, left_size, right_size] = [sizes[0]?, sizes[1]?, sizes[2]?];
                let fits = left_size.0 == sums_size.0
                    && right_size.1 == sums_size.1
                    && right_size.0 == left_size.1;
                // The kernels' tiles are full; others would need another way through the manual's loops.
                let full = [sums_size, left_size, right_size] == [(16, 16); 3];
                if !fits || !full || sums == left || sums == right || left == right {
                    return None;
                }
                let mut values = self.words[sums as usize].map(f32::from_bits);
                let (left, right) = (&self.words[left as usize], &self.words[right as usize]);
                by_the_manual(left, right, &mut values);
                self.words[sums as usize] = values.map(f32::to_bits);
            }
        }
        Some(())
    }

    /// After 64 bytes in memory.
    fn configure(&mut self, image: &[u8; 64]) -> Option<()> {
        let mut new = Self::NONE;
        if image[0] == 0 {
            *self = new;
            return Some(());
        }
        new.are_configured = true;
        for tile in 0..8 {
            new.bytes[tile] = u16::from_le_bytes([image[16 + 2 * tile], image[17 + 2 * tile]]);
            new.rows[tile] = image[48 + tile];
            let none = new.bytes[tile] == 0 && new.rows[tile] == 0;
            let some = (1..=64).contains(&new.bytes[tile]) && (1..=16).contains(&new.rows[tile]);
            // Multiples of a word are all that the rest here knows.
            if !(none || some) || new.bytes[tile] % 4 != 0 {
                return None;
            }
        }
        let nothing = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        // Palette 1, from the first row on, and nothing where nothing may be.
        if image[0] != 1
            || !nothing(&image[1..16])
            || !nothing(&image[32..48])
            || !nothing(&image[56..])
        {
            return None;
        }
        *self = new;
        Some(())
    }

    /// Rows, and words of each.
    fn size(&self, tile: u8) -> Option<(usize, usize)> {
        let tile = tile as usize;
        let there = self.are_configured && self.rows[tile] > 0;
        there.then(|| (self.rows[tile] as usize, self.bytes[tile] as usize / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Option<(Instruction, usize)> {
        decode(|i| bytes[i], |register| 1000 * u64::from(register) + 7)
    }

    // Bytes as GNU's assembler writes them.
    #[test]
    fn instructions_of_the_unit_are_read() {
        // ldtilecfg [rax]; ldtilecfg [r9 + 0x40]
        let from = Instruction::Configure { from: 7 };
        assert_eq!(decoded(&[0xc4, 0xe2, 0x78, 0x49, 0x00]), Some((from, 5)));
        let from = Instruction::Configure { from: 9007 + 0x40 };
        assert_eq!(
            decoded(&[0xc4, 0xc2, 0x78, 0x49, 0x41, 0x40]),
            Some((from, 6))
        );
        // tilerelease
        assert_eq!(
            decoded(&[0xc4, 0xe2, 0x78, 0x49, 0xc0]),
            Some((Instruction::Release, 5))
        );
        // tilezero tmm3
        let zero = Instruction::Zero { tile: 3 };
        assert_eq!(decoded(&[0xc4, 0xe2, 0x7b, 0x49, 0xd8]), Some((zero, 5)));
        // tileloadd tmm5, [rdi + rcx*1]
        let load = Instruction::Load {
            tile: 5,
            from: 7007,
            stride: 1007,
        };
        assert_eq!(
            decoded(&[0xc4, 0xe2, 0x7b, 0x4b, 0x2c, 0x0f]),
            Some((load, 6))
        );
        // tileloadd tmm1, [r8 + r10*2 + 0x400]
        let load = Instruction::Load {
            tile: 1,
            from: 8007 + 0x400,
            stride: 20_014,
        };
        let bytes = [0xc4, 0x82, 0x7b, 0x4b, 0x8c, 0x50, 0x00, 0x04, 0x00, 0x00];
        assert_eq!(decoded(&bytes), Some((load, 10)));
        // tilestored [rsi + rax*1 - 0x10], tmm2
        let store = Instruction::Store {
            tile: 2,
            to: 6007 - 0x10,
            stride: 7,
        };
        assert_eq!(
            decoded(&[0xc4, 0xe2, 0x7a, 0x4b, 0x54, 0x06, 0xf0]),
            Some((store, 7))
        );
        // tdpbf16ps tmm0, tmm4, tmm7
        let multiply = Instruction::Multiply {
            sums: 0,
            left: 4,
            right: 7,
        };
        assert_eq!(
            decoded(&[0xc4, 0xe2, 0x42, 0x5c, 0xc4]),
            Some((multiply, 5))
        );
    }

    #[test]
    fn what_is_not_the_units_is_refused() {
        for bytes in [
            // ud2
            vec![0x0f, 0x0b],
            // vaddps xmm0, xmm1, xmm2
            vec![0xc5, 0xf0, 0x58, 0xc2],
            // tdpbssd tmm0, tmm4, tmm7, of another extension
            vec![0xc4, 0xe2, 0x43, 0x5e, 0xc4],
            // tdpfp16ps tmm0, tmm4, tmm7
            vec![0xc4, 0xe2, 0x43, 0x5c, 0xc4],
            // sttilecfg [rax]
            vec![0xc4, 0xe2, 0x79, 0x49, 0x00],
            // tileloaddt1 tmm5, [rdi + rcx*1]
            vec![0xc4, 0xe2, 0x79, 0x4b, 0x2c, 0x0f],
            // As tdpbf16ps, with W, with a length of 256 bits, and with a ninth tile.
            vec![0xc4, 0xe2, 0xc2, 0x5c, 0xc4],
            vec![0xc4, 0xe2, 0x46, 0x5c, 0xc4],
            vec![0xc4, 0x62, 0x42, 0x5c, 0xc4],
            vec![0xc4, 0xe2, 0x02, 0x5c, 0xc4],
            // As tileloadd without the byte of base and index, and as ldtilecfg relative to the code.
            vec![0xc4, 0xe2, 0x7b, 0x4b, 0x2f],
            vec![0xc4, 0xe2, 0x78, 0x49, 0x05, 0, 0, 0, 0],
        ] {
            assert_eq!(decoded(&bytes), None, "{bytes:02x?}");
        }
    }

    fn full() -> [u8; 64] {
        let mut image = [0; 64];
        image[0] = 1;
        for tile in 0..8 {
            image[16 + 2 * tile] = 64;
            image[48 + tile] = 16;
        }
        image
    }

    #[test]
    fn configurations_that_the_manual_forbids_are_refused() {
        let mut tiles = Tiles::NONE;
        assert!(
            tiles.carry_out(Instruction::Zero { tile: 0 }).is_none(),
            "not configured"
        );
        tiles.configure(&full()).unwrap();
        assert_eq!(tiles.size(7), Some((16, 16)));
        // Another palette, a first row, bytes kept for later, 17 rows, 68 bytes, rows without bytes.
        for (at, byte) in [
            (0, 2),
            (1, 1),
            (5, 1),
            (33, 1),
            (60, 1),
            (48, 17),
            (16, 68),
            (16, 0),
        ] {
            let mut image = full();
            image[at] = byte;
            assert!(tiles.configure(&image).is_none(), "byte {at} is {byte}");
        }
        tiles.configure(&[0; 64]).unwrap();
        assert_eq!(tiles.size(0), None);
    }

    #[test]
    fn products_of_tiles_that_do_not_fit_are_refused() {
        let mut image = full();
        image[48 + 1] = 8;
        let mut tiles = Tiles::NONE;
        tiles.configure(&image).unwrap();
        let mut multiply =
            |sums, left, right| tiles.carry_out(Instruction::Multiply { sums, left, right });
        assert!(multiply(0, 2, 3).is_some());
        assert!(multiply(0, 1, 3).is_none());
        assert!(multiply(0, 0, 3).is_none());
        assert!(multiply(0, 3, 3).is_none());
    }

    #[test]
    fn strides_and_small_tiles_are_followed() {
        let mut image = full();
        image[48] = 2;
        image[16] = 8;
        let mut tiles = Tiles::NONE;
        tiles.configure(&image).unwrap();
        let from: Vec<u32> = (0..40).collect();
        let load = Instruction::Load {
            tile: 0,
            from: from.as_ptr() as u64,
            stride: 40,
        };
        tiles.carry_out(load).unwrap();
        assert_eq!(tiles.words[0][..3], [0, 1, 0]);
        assert_eq!(tiles.words[0][16..19], [10, 11, 0]);
        assert!(tiles.words[0][32..].iter().all(|word| *word == 0));
        let mut to = vec![99u32; 9];
        let store = Instruction::Store {
            tile: 0,
            to: to.as_mut_ptr() as u64,
            stride: 12,
        };
        tiles.carry_out(store).unwrap();
        assert_eq!(to, [0, 1, 99, 10, 11, 99, 99, 99, 99]);
    }
}
