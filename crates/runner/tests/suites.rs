//! The suites that ship.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panic and skip aloud"
)]

use std::path::{Path, PathBuf};

use datasets::Catalogue;
use promptbed::pretrain::Recipe;
use promptbed::run::feed;
use promptbed::run::suite::Suite;

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../suites")
        .join(folder);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|e| e.expect("the folder can be listed").path());
    let mut found: Vec<PathBuf> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    found.sort();
    found
}

fn known() -> Vec<String> {
    feed::known(&Catalogue::built_in())
}

#[test]
fn every_suite_reads_against_the_built_in_catalogue() {
    let papers = toml_files("papers");
    let is_recipe = |p: &PathBuf| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("pretrain-"))
    };
    let (recipes, mut suites): (Vec<PathBuf>, Vec<PathBuf>) =
        toml_files("").into_iter().partition(is_recipe);
    assert!(!papers.is_empty() && !suites.is_empty() && !recipes.is_empty());
    suites.extend(papers);
    let wrong: Vec<String> = suites
        .iter()
        .filter_map(|p| Suite::read(p, &known()).err())
        .map(|e| format!("{e:#}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for recipe in recipes {
        if let Err(e) = Recipe::read(&recipe) {
            panic!("{e:#}");
        }
    }
}

/// Papers print the harmonic mean of their rounded averages; another mean would be further off than two digits' rounding.
#[test]
fn every_harmonic_mean_of_a_paper_is_that_of_its_base_and_novel() {
    let mut checked = 0;
    for path in toml_files("papers").iter().chain(&toml_files("")) {
        let Ok(suite) = Suite::read(path, &known()) else {
            continue;
        }; // the test above says why
        for line in &suite.methods {
            let figure = |name: &str| line.paper.get(name).copied();
            let (Some(base), Some(novel), Some(harmonic)) =
                (figure("base"), figure("novel"), figure("harmonic"))
            else {
                continue;
            };
            let expected = 2.0 * base * novel / (base + novel);
            let gap = (harmonic - expected).abs();
            assert!(
                gap <= 0.02,
                "{}: {}: {harmonic} is not {expected:.2}",
                path.display(),
                line.label
            );
            checked += 1;
        }
    }
    assert!(
        checked >= 5,
        "only {checked} lines of the suites hold base, novel and harmonic"
    );
}
