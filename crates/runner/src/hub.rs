//! Backbones that can be called by name: what they are, and how they get into the Hugging Face hub's cache.
//!
//! The cache is the one every tool of that hub shares: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
//! `~/.cache/huggingface/hub`. `HF_ENDPOINT` names another server, `HF_HUB_OFFLINE` forbids asking any.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clip::weights::Activation;
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo, Metadata};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const TABLE: &str = include_str!("../assets/backbones.toml");
/// Where files come from unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// A transfer that broke off goes on where it was this many times, as long as each brought something.
const ATTEMPTS: usize = 5;

/// A backbone of the hub.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What it is, and whose.
    pub about: String,
    /// Repository.
    pub repo: String,
    /// File that holds both towers.
    pub weights: String,
    /// Configuration beside it; weights without one say what they are by `activation`.
    pub config: Option<String>,
    /// What else the weights cannot be read without: the files of a tokenizer.
    #[serde(default)]
    pub beside: Vec<String>,
    /// Non-linearity of weights without a configuration.
    pub activation: Option<Activation>,
    /// Other names it goes by: OpenAI's own.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Numbers in both towers.
    pub parameters: u64,
}

/// A file that is in the cache, checked.
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Its SHA-256, where the hub told one to compare with.
    pub sha256: Option<String>,
    /// Whether it was there before.
    pub was_there: bool,
}

/// Every backbone that can be fetched, by name.
pub fn known() -> BTreeMap<String, Known> {
    toml::from_str(TABLE).expect("the table ships with the program and is tested")
}

/// The backbone of this name, alias or repository with its own name; case and what parts words do not matter, as nobody
/// remembers whether it is `ViT-B/16`, `ViT-B-16` or `vit_b16`.
pub fn find(name: &str) -> Option<(String, Known)> {
    let wanted = plain(name);
    known()
        .into_iter()
        .find(|(own, k)| k.names(own).any(|n| plain(n) == wanted))
}

/// Every name, alias and repository there is.
pub fn names() -> Vec<String> {
    let known = known();
    let names = known.iter().flat_map(|(own, k)| k.names(own));
    names.map(str::to_owned).collect()
}

/// A name without what people write differently.
fn plain(name: &str) -> String {
    let name = ["https://huggingface.co/", "hf-hub:"]
        .iter()
        .find_map(|start| name.strip_prefix(start))
        .unwrap_or(name);
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

fn cache() -> Cache {
    // As the hub's own client does, `~` in these is the home folder.
    let folder = |name: &str| {
        let path = std::env::var_os(name).filter(|v| !v.is_empty())?;
        let path = PathBuf::from(path);
        Some(crate::cli::at_home(&path).unwrap_or(path))
    };
    match (folder("HF_HUB_CACHE"), folder("HF_HOME")) {
        (Some(path), _) => Cache::new(path),
        (None, Some(home)) => Cache::new(home.join("hub")),
        (None, None) => Cache::from_env(),
    }
}

/// The files of a repository's folder in the hub's cache (`models--openai--clip-vit-base-patch32`), at the commit its
/// `main` was last fetched at; nothing for any other folder.
///
/// # Errors
/// Such a folder with no files, or with those of several commits of which none is `main`.
pub fn snapshot(folder: &Path) -> Result<Option<PathBuf>> {
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(None);
    }
    if let Ok(commit) = std::fs::read_to_string(folder.join("refs/main")) {
        let files = snapshots.join(commit.trim());
        if is_hash(commit.trim(), &[40]) && files.is_dir() {
            return Ok(Some(files));
        }
    }
    let entries = std::fs::read_dir(&snapshots)
        .with_context(|| format!("{}: cannot be read", snapshots.display()))?;
    let mut all: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir())
        .collect();
    all.sort();
    match all.as_slice() {
        [only] => Ok(Some(only.clone())),
        [] => bail!("{}: holds no commit's files", snapshots.display()),
        several => bail!(
            "{}: holds {} commits, none of which is called main; name one of them",
            snapshots.display(),
            several.len()
        ),
    }
}

/// The files of the repository `owner/name` in the cache, if it was ever fetched, by whatever program.
///
/// # Errors
/// As [`snapshot`].
pub fn snapshot_of(repo: &str) -> Result<Option<PathBuf>> {
    let repo = repo.strip_prefix("hf-hub:").unwrap_or(repo);
    let is_part = |part: &str| {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(fit)
    };
    match repo.split_once('/') {
        Some((owner, name)) if is_part(owner) && is_part(name) => {
            snapshot(&cache().path().join(format!("models--{owner}--{name}")))
        }
        _ => Ok(None),
    }
}

/// Whether `HF_HUB_OFFLINE` says yes, in the words the hub's own client takes for it.
pub fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()))
}

impl Known {
    /// Its name, its aliases, and its repository, unless that may hold several (of bare weights).
    fn names<'a>(&'a self, own: &'a str) -> impl Iterator<Item = &'a str> {
        let others = self.aliases.iter().map(String::as_str);
        let repo = self.config.is_some().then_some(self.repo.as_str());
        [own].into_iter().chain(repo).chain(others)
    }

    /// All that it is made of, the weights last.
    fn files(&self) -> impl Iterator<Item = &String> {
        self.config
            .iter()
            .chain(&self.beside)
            .chain([&self.weights])
    }

    fn repo(&self) -> Repo {
        Repo::new(self.repo.clone(), RepoType::Model)
    }

    /// The weight file in the cache, if it and what belongs to it are there.
    pub fn cached(&self) -> Option<PathBuf> {
        let cached = cache().repo(self.repo());
        let found: Option<Vec<PathBuf>> = self.files().map(|file| cached.get(file)).collect();
        found?.pop()
    }

    /// Brings weights and what belongs to them into the cache, or finds them there, and compares them with the hub's
    /// checksums.
    ///
    /// # Errors
    /// No connection, an answer that makes no sense, a checksum that differs.
    pub fn fetch(&self) -> Result<Vec<Fetched>> {
        let cache = cache();
        if is_offline() {
            return self.found_offline(&cache.repo(self.repo()));
        }
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let endpoint = match endpoint.trim_end_matches('/') {
            "" => ENDPOINT,
            given => given,
        };
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.to_owned())
            .with_progress(false)
            .build()
            .with_context(|| format!("{endpoint}: cannot be asked"))?;
        let download = Download {
            remote: api.repo(self.repo()),
            api,
            cached: cache.repo(self.repo()),
        };
        self.files().map(|file| download.file(file)).collect()
    }

    fn found_offline(&self, cached: &CacheRepo) -> Result<Vec<Fetched>> {
        let find = |file: &String| {
            let Some(path) = cached.get(file) else {
                bail!(
                    "{}/{file}: is not in {}, and HF_HUB_OFFLINE forbids fetching it",
                    self.repo,
                    cache().path().display()
                );
            };
            let bytes = std::fs::metadata(&path)
                .with_context(|| format!("{}", path.display()))?
                .len();
            Ok(Fetched {
                path,
                bytes,
                sha256: None,
                was_there: true,
            })
        };
        self.files().map(find).collect()
    }
}

/// One repository, there and here.
struct Download {
    api: Api,
    remote: ApiRepo,
    cached: CacheRepo,
}

/// Lower-case hexadecimal digits, as file names in the cache are made of: nothing else becomes part of a path.
fn is_hash(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Download {
    fn file(&self, file: &str) -> Result<Fetched> {
        let url = self.remote.url(file);
        let told = self
            .api
            .metadata(&url)
            .with_context(|| format!("{url}: cannot be asked for"))?;
        // Git's hash of a small file, SHA-256 of a large one.
        if !is_hash(told.etag(), &[40, 64]) || !is_hash(told.commit_hash(), &[40]) {
            bail!(
                "{url}: has the entity tag {:?} of commit {:?}; the hub's are hashes, so this is not the hub",
                told.etag(),
                told.commit_hash()
            );
        }
        let blob = self.cached.blob_path(told.etag());
        let was_there = blob.is_file();
        if was_there {
            self.link(file, &blob, &told)
                .with_context(|| format!("{}: cannot be linked", blob.display()))?;
        } else {
            self.download(file, &url, &blob, &told)?;
        }
        let path = self.cached.pointer_path(told.commit_hash()).join(file);
        let sha256 = checked(&blob, &told).inspect_err(|_| {
            // A damaged file under the name of its hash would be taken for the right one by every tool.
            let _ = std::fs::remove_file(&blob);
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Fetched {
            path,
            bytes: told.size() as u64,
            sha256,
            was_there,
        })
    }

    /// Downloads, going on where an earlier transfer ended.
    fn download(&self, file: &str, url: &str, blob: &Path, told: &Metadata) -> Result<()> {
        let part = blob.with_extension("part");
        let held = || std::fs::metadata(&part).map_or(0, |m| m.len());
        let mut attempt = 0;
        loop {
            let before = held();
            // Complete but not renamed: the last byte again, as a server has no answer to a request for none.
            if before > 0 && before >= told.size() as u64 {
                let file = File::options().write(true).open(&part);
                file.and_then(|f| f.set_len(told.size().saturating_sub(1) as u64))
                    .with_context(|| format!("{}: cannot be shortened", part.display()))?;
            }
            let Err(error) = self.remote.download_with_progress(file, Bar::new(file)) else {
                return Ok(());
            };
            attempt += 1;
            if attempt >= ATTEMPTS || held() <= before {
                return Err(error).with_context(|| {
                    format!(
                        "{url}: {} of {} bytes are here; the same command goes on from there",
                        held(),
                        told.size()
                    )
                });
            }
        }
    }

    /// What a download leaves beside the file itself.
    fn link(&self, file: &str, blob: &Path, told: &Metadata) -> std::io::Result<()> {
        let folder = self.cached.pointer_path(told.commit_hash());
        let pointer = folder.join(file);
        if !pointer.exists() {
            std::fs::create_dir_all(&folder)?;
            #[cfg(unix)]
            std::os::unix::fs::symlink(Path::new("../../blobs").join(told.etag()), &pointer)?;
            #[cfg(not(unix))]
            std::fs::hard_link(blob, &pointer)?;
        }
        let _ = blob;
        self.cached.create_ref(told.commit_hash())
    }
}

/// The file's SHA-256, compared with the hub's where that is one; its size in any case.
fn checked(path: &Path, told: &Metadata) -> Result<Option<String>> {
    let fail = || format!("{}: cannot be read", path.display());
    let mut file = File::open(path).with_context(fail)?;
    let size = file.metadata().with_context(fail)?.len();
    if size != told.size() as u64 {
        bail!(
            "{}: came as {size} bytes, the hub has {}; it is removed, so run the same command again",
            path.display(),
            told.size()
        );
    }
    if !is_hash(told.etag(), &[64]) {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    let mut piece = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut piece).with_context(fail)?;
        if n == 0 {
            break;
        }
        hash.update(&piece[..n]);
    }
    let found = crate::hash::written(&hash.finalize());
    if found != told.etag() {
        bail!(
            "{}: has the SHA-256 {found}, the hub's has {}; it is removed, so run the same command again",
            path.display(),
            told.etag()
        );
    }
    Ok(Some(found))
}

/// Progress of one file: a bar on a terminal, else a line at its start.
struct Bar {
    bar: ProgressBar,
    file: String,
}

impl Bar {
    fn new(file: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(
            ProgressStyle::with_template(
                "{msg} {bar:30.cyan} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left",
            )
            .expect("the template is valid"),
        );
        Self {
            bar,
            file: file.to_owned(),
        }
    }
}

impl hf_hub::api::Progress for Bar {
    fn init(&mut self, size: usize, _file: &str) {
        // Told twice by the client, before and after the first answer.
        if self.bar.length() == Some(0) && !std::io::stderr().is_terminal() {
            crate::say!("fetching {} ({:.1} MB)", self.file, size as f64 / 1e6);
        }
        self.bar.set_message(self.file.clone());
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_names_are_fit_for_suites_and_file_systems() {
        let known = known();
        assert!(known.len() >= 9, "{}", known.len());
        for (name, k) in &known {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
            assert!(k.repo.split('/').count() == 2, "{name}: {}", k.repo);
            assert!(k.parameters > 50_000_000 && !k.about.is_empty(), "{name}");
            for file in k.files() {
                assert!(!file.contains(['/', '\\']), "{name}: {file}");
            }
            // Either says what the tensors do not.
            assert!(k.config.is_some() != k.activation.is_some(), "{name}");
        }
    }

    #[test]
    fn backbones_are_found_by_the_names_people_know() {
        for (name, own) in [
            ("clip-vit-b16", "clip-vit-b16"),
            ("ViT-B/16", "clip-vit-b16"),
            ("ViT-B-16", "clip-vit-b16"),
            ("vit_b16", "clip-vit-b16"),
            ("ViT-L/14@336px", "clip-vit-l14-336"),
            ("RN50", "clip-rn50"),
            ("openai/clip-vit-base-patch32", "clip-vit-b32"),
            (
                "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                "open-clip-vit-b32-laion2b",
            ),
        ] {
            assert_eq!(
                find(name).map(|(own, _)| own).as_deref(),
                Some(own),
                "{name}"
            );
        }
        assert!(find("ViT-B/17").is_none() && find("").is_none());
        assert_eq!(
            crate::backbone::nearest("ViT-B/17"),
            "; did you mean `clip-vit-b16`?"
        );
        assert_eq!(crate::backbone::nearest("something else"), "");
        // No name stands for two.
        let mut seen = BTreeMap::new();
        for (own, k) in known() {
            for name in k.names(&own) {
                let other = seen.insert(plain(name), own.clone());
                assert!(other.is_none_or(|o| o == own), "{name}");
            }
        }
    }

    #[test]
    fn only_hashes_become_file_names() {
        assert!(is_hash(&"0a".repeat(20), &[40, 64]) && is_hash(&"f".repeat(64), &[40, 64]));
        for wrong in [
            "",
            "../../x",
            &"A".repeat(40),
            &"g".repeat(64),
            &"0".repeat(41),
        ] {
            assert!(!is_hash(wrong, &[40, 64]), "{wrong}");
        }
    }
}
