//! What can go wrong between an address and a folder.

use std::path::PathBuf;

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process fetches into the same data folder.
    #[error("{}: another fetch is at work in this folder", folder.display())]
    Busy {
        /// The downloads folder.
        folder: PathBuf,
    },
    /// The server cannot be reached, or cuts every connection.
    #[error(
        "{url}: {reason}; gave up after {attempts} attempts without progress. {kept} bytes are kept, the same command continues there"
    )]
    Connection {
        /// The address.
        url: String,
        /// What happened last.
        reason: String,
        /// Attempts in a row that brought nothing.
        attempts: u32,
        /// Bytes of the file that are on disk.
        kept: u64,
    },
    /// The server answers, but not with the file.
    #[error("{url}: the server answers {status} {text}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the standard calls it.
        text: String,
    },
    /// The server has a file of another length.
    #[error("{url}: the server offers {offered} bytes; the published file has {published}")]
    Length {
        /// The address.
        url: String,
        /// Bytes the server speaks of.
        offered: u64,
        /// Bytes as published.
        published: u64,
    },
    /// The server sends more than it may.
    #[error("{url}: the server sends more than {limit} bytes; it was stopped there")]
    TooLong {
        /// The address.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// A file is not the published one.
    #[error(
        "{}: {kind} is {found}, published is {published}{}",
        path.display(),
        if *removed { "; the file was removed, the same command downloads it again" } else { "; remove the file or put the right one there" }
    )]
    Sum {
        /// The file.
        path: PathBuf,
        /// `MD5`, `SHA-256` or `length`.
        kind: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        published: String,
        /// Whether the file was removed: only what was downloaded is.
        removed: bool,
    },
    /// A file that should be an archive is none.
    #[error("{}: is neither a tar (plain or gzip) nor a zip archive; it starts with {start}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        start: String,
    },
    /// An archive does not read.
    #[error("{}: the archive is damaged: {reason}", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// The reader's words.
        reason: String,
    },
    /// An entry of an archive must not be unpacked; nothing was.
    #[error("{}: entry {entry:?}: {reason}; nothing was unpacked", path.display())]
    Entry {
        /// The archive.
        path: PathBuf,
        /// The entry.
        entry: String,
        /// Why.
        reason: EntryProblem,
    },
    /// An archive lacks what it should give.
    #[error("{}: holds no {part:?}", path.display())]
    NoPart {
        /// The archive.
        path: PathBuf,
        /// The missing folder or file.
        part: String,
    },
}

impl FetchError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Why an entry of an archive must not be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// Its path leaves the folder.
    #[error("leads outside its folder; paths must be relative and without `..`")]
    Outside,
    /// A link.
    #[error("is a link; archives may hold files and folders only")]
    Link,
    /// A device, a pipe, a sparse file or the like.
    #[error("is neither a file nor a folder (type {0:?})")]
    Special(char),
    /// It needs a password.
    #[error("is encrypted")]
    Encrypted,
    /// Its name is longer than a name may be.
    #[error("its name has more than {0} bytes")]
    LongName(u64),
    /// Its length is told in two ways that differ.
    #[error("its header speaks of two lengths")]
    TwoLengths,
    /// It stands below a file.
    #[error("stands where the archive has a file and a folder of the same name")]
    Clash,
    /// One entry too many.
    #[error("more entries than the limit of {0}")]
    TooMany(u64),
    /// One byte too many.
    #[error("more bytes than the limit of {0}: 100 times the archive and 64 MiB, at most 256 GiB")]
    TooLarge(u64),
}
