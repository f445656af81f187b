//! Paths as people type them.

use std::any::TypeId;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::{PathBufValueParser, TypedValueParser};

/// The command with every path argument of it and of its verbs read by [`typed`].
pub(super) fn of_homes(mut command: Command) -> Command {
    let all: Vec<(clap::Id, bool)> = command
        .get_arguments()
        .map(|a| {
            let is_path = a.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            (a.get_id().clone(), is_path)
        })
        .collect();
    // All of them, for one that is changed moves behind the others.
    for (id, is_path) in all {
        command = command.mut_arg(id, |a| {
            if is_path {
                a.value_parser(PathBufValueParser::new().try_map(|p| typed(&p)))
            } else {
                a
            }
        });
    }
    let verbs: Vec<String> = command
        .get_subcommands()
        .map(|v| v.get_name().to_owned())
        .collect();
    for verb in verbs {
        command = command.mut_subcommand(verb, of_homes);
    }
    command
}

/// A path with its leading `~` replaced by the home folder.
///
/// # Errors
/// Nobody says where home is; `~name`, another user's, unless a file or folder is called so.
pub(crate) fn typed(path: &Path) -> Result<PathBuf, String> {
    let first = path.components().next();
    let first = first.map_or(OsStr::new(""), |c| c.as_os_str());
    let Some(name) = first.to_str().and_then(|f| f.strip_prefix('~')) else {
        return Ok(path.to_owned());
    };
    // `./~x` is a way to call a file that is called so; `~x` only if it is there already.
    if path.exists() || (!name.is_empty() && Path::new(first).exists()) {
        return Ok(path.to_owned());
    }
    if !name.is_empty() {
        return Err(format!(
            "~{name} is another user's home, which only a shell knows; write the whole path (or ./~{name} for a file \
             called so)"
        ));
    }
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty());
    let home = home.ok_or("~ is the home folder, and HOME does not say where that is")?;
    let below: PathBuf = path.components().skip(1).collect();
    Ok(PathBuf::from(home).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_tilde_is_home_and_no_other_is() {
        let home = PathBuf::from(std::env::var_os("HOME").expect("tests run in a home"));
        for (given, meant) in [
            ("~/results", home.join("results")),
            ("~", home.clone()),
            ("./~/x", PathBuf::from("./~/x")),
            ("a/~/x", PathBuf::from("a/~/x")),
            ("a~", PathBuf::from("a~")),
            ("x", PathBuf::from("x")),
            ("/x", PathBuf::from("/x")),
        ] {
            assert_eq!(typed(Path::new(given)).unwrap(), meant, "{given}");
        }
        let error = typed(Path::new("~somebody/x")).unwrap_err();
        assert!(error.contains("another user"), "{error}");
    }
}
