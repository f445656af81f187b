//! Notes the commit the program is built from, so that every record can name it, and lists the published numbers, so
//! that the program carries them wherever it is copied.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// Beside the crates.
const PUBLISHED: &str = "../../results/published";

fn git(arguments: &[&str]) -> Option<String> {
    let out = Command::new("git").args(arguments).output().ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Writes `published.rs`: (file name, text) of every TOML file in [`PUBLISHED`], by name, as an expression.
fn list_published(out: &Path) -> io::Result<()> {
    println!("cargo::rerun-if-changed={PUBLISHED}");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let mut paths = Vec::new();
    for entry in fs::read_dir(root.join(PUBLISHED))? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    let mut list = String::from("&[\n");
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        list += &format!(
            "({name:?}, include_str!({:?})),\n",
            path.display().to_string()
        );
    }
    list += "]\n";
    fs::write(out.join("published.rs"), list)
}

fn main() -> io::Result<()> {
    list_published(Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?))?;
    println!("cargo::rerun-if-changed=../../.git/HEAD");
    println!("cargo::rerun-if-changed=../../.git/index");
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    let mark = if dirty && !commit.is_empty() {
        "-dirty"
    } else {
        ""
    };
    println!("cargo::rustc-env=PROMPTBED_COMMIT={commit}{mark}");
    Ok(())
}
