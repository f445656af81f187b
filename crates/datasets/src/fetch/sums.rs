//! Is a file the published one?

use std::fs::File;
use std::io::Read;
use std::path::Path;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::{Event, FetchError};
use crate::catalogue::Sum;
use crate::split::hex;

/// Compares length and sums; reads the file once, whatever the number of sums.
pub(super) fn check(
    path: &Path,
    bytes: Option<u64>,
    sums: &[Sum],
    tell: &dyn Fn(Event),
) -> Result<(), FetchError> {
    let wrong = |kind, found: String, published: String| FetchError::Sum {
        path: path.to_owned(),
        kind,
        found,
        published,
        removed: false,
    };
    let mut file = File::open(path).map_err(FetchError::io(path))?;
    let all = file.metadata().map_err(FetchError::io(path))?.len();
    if let Some(bytes) = bytes.filter(|&bytes| bytes != all) {
        return Err(wrong("length", all.to_string(), bytes.to_string()));
    }
    if sums.is_empty() {
        return Ok(());
    }
    let wants = |which: fn(&Sum) -> bool| sums.iter().any(which);
    let mut md5 = wants(|sum| matches!(sum, Sum::Md5(_))).then(Md5::new);
    let mut sha256 = wants(|sum| matches!(sum, Sum::Sha256(_))).then(Sha256::new);
    let mut block = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = file.read(&mut block).map_err(FetchError::io(path))?;
        if read == 0 {
            break;
        }
        if let Some(md5) = &mut md5 {
            md5.update(&block[..read]);
        }
        if let Some(sha256) = &mut sha256 {
            sha256.update(&block[..read]);
        }
        done += read as u64;
        tell(Event::Verifying { done, all });
    }
    let md5 = md5.map(|hasher| hex(&hasher.finalize()));
    let sha256 = sha256.map(|hasher| hex(&hasher.finalize()));
    for sum in sums {
        let (kind, found, published) = match sum {
            Sum::Md5(published) => ("MD5", &md5, published),
            Sum::Sha256(published) => ("SHA-256", &sha256, published),
        };
        let found = found
            .as_ref()
            .expect("every kind that is asked for is computed");
        if found != published {
            return Err(wrong(kind, found.clone(), published.clone()));
        }
    }
    Ok(())
}
