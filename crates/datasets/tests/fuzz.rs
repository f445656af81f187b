//! Mangled picture files: a picture or an error, never a panic, a hang or memory beyond the stated limit.
//!
//! A few seconds by default; `PROPTEST_CASES=200000 cargo test --release -p datasets --test fuzz` for minutes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use datasets::decode::MAX_PIXELS;
use datasets::{DecodeError, decode};
use proptest::prelude::*;

fn seeds() -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let folder = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/pillow"
        ));
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    })
}

/// Decodes, and checks what must hold of any outcome.
fn survives(bytes: &[u8]) {
    let start = Instant::now();
    if let Ok(picture) = decode(bytes) {
        assert_eq!(picture.data.len(), picture.width * picture.height * 3);
        assert!(
            picture.width * picture.height <= MAX_PIXELS && picture.width > 0 && picture.height > 0
        );
    }
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?} for {} bytes",
        start.elapsed(),
        bytes.len()
    );
}

proptest! {
    #[test]
    fn flipped_bytes(which in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = which.get(seeds()).clone();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn flipped_headers(which in any::<prop::sample::Index>(), flips in prop::collection::vec((0usize..64, any::<u8>()), 1..4)) {
        let mut bytes = which.get(seeds()).clone();
        for (place, value) in flips {
            let place = place % bytes.len();
            bytes[place] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn cut_and_spliced(which in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), from in any::<prop::sample::Index>()) {
        let (head, tail) = (which.get(seeds()), other.get(seeds()));
        let bytes = [&head[..at.index(head.len())], &tail[from.index(tail.len())..]].concat();
        survives(&bytes);
    }

    #[test]
    fn any_bytes_behind_a_known_start(start in prop::sample::select(vec![&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8L", b"GIF89a", b"BM"]), rest in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&[start, &rest].concat());
    }
}

#[test]
fn bombs_are_refused_by_the_stated_limit() {
    // A PNG header of 60,000 x 60,000 pixels.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend([0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60, 8, 2, 0, 0, 0]);
    png.extend(crc32(&png[12..29]).to_be_bytes());
    png.extend(b"\0\0\0\x08IDAT\x78\x9c\x03\0\0\0\0\x01");
    png.extend(crc32(b"IDAT\x78\x9c\x03\0\0\0\0\x01").to_be_bytes());
    assert_eq!(
        decode(&png),
        Err(DecodeError::TooLarge {
            width: 60_000,
            height: 60_000
        })
    );
    // A JPEG that claims 65,000 x 65,000.
    let mut jpeg = include_bytes!("fixtures/pillow/grey.jpg").to_vec();
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xfd, 0xe8, 0xfd, 0xe8]);
    assert_eq!(
        decode(&jpeg),
        Err(DecodeError::TooLarge {
            width: 65_000,
            height: 65_000
        })
    );
    // One that is just below the limit and has no more data than before.
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x33, 0x00, 0x33, 0x00]);
    let start = Instant::now();
    survives(&jpeg);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    // A progressive JPEG with a scan repeated a thousand times.
    let progressive = include_bytes!("fixtures/pillow/progressive.jpg");
    let scan = progressive
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .unwrap();
    let next = scan
        + 2
        + progressive[scan + 2..]
            .windows(2)
            .position(|pair| pair[0] == 0xff && pair[1] != 0)
            .unwrap();
    let mut scans = progressive[..scan].to_vec();
    (0..1000).for_each(|_| scans.extend(&progressive[scan..next]));
    scans.extend(&progressive[next..]);
    assert!(matches!(
        decode(&scans),
        Err(DecodeError::TooManyScans {
            scans: 1000..,
            pixels: 0
        })
    ));
    // A GIF of 65,535 x 65,535.
    let mut gif = include_bytes!("fixtures/pillow/grey.gif").to_vec();
    gif[6..10].fill(0xff);
    assert_eq!(
        decode(&gif),
        Err(DecodeError::TooLarge {
            width: 65_535,
            height: 65_535
        })
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}
