//! A suite that has been changed since it was run into a folder: in what it differs.

use std::collections::BTreeMap;

use datasets::{ClassSet, Sessions};
use serde_json::Value;

use crate::run::plan;
use crate::run::suite::{PicksFrom, Suite};

/// In what `new` differs from `old`, a line each: lists by what came and went, values by what they were. Empty where both
/// ask for the same.
pub fn differences(old: &Suite, new: &Suite) -> Vec<String> {
    let mut lines = Vec::new();
    let protocols = |s: &Suite| s.protocols.iter().map(|p| p.name.to_owned()).collect();
    let numbers = |n: &[usize]| n.iter().map(ToString::to_string).collect();
    let seeds = |s: &Suite| s.seeds.iter().map(ToString::to_string).collect();
    let labels = |s: &Suite| s.methods.iter().map(|m| m.label.clone()).collect();
    let variants = |s: &Suite| s.variants.clone().unwrap_or_default();
    let unseen = |s: &Suite| s.unseen.clone().unwrap_or_default();
    let lists: [(&str, Vec<String>, Vec<String>); 7] = [
        ("protocol", protocols(old), protocols(new)),
        ("datasets", old.datasets.clone(), new.datasets.clone()),
        ("variants", variants(old), variants(new)),
        ("unseen", unseen(old), unseen(new)),
        ("shots", numbers(&old.shots), numbers(&new.shots)),
        ("seeds", seeds(old), seeds(new)),
        ("methods", labels(old), labels(new)),
    ];
    for (name, before, now) in lists {
        lines.extend(list(name, &before, &now));
    }
    let source = |s: &Suite| s.source.clone().unwrap_or_else(|| "none".to_owned());
    let sessions = |s: &Suite| {
        let all = |cut: Sessions| ClassSet::Sessions {
            first: 1,
            last: cut.count,
            cut,
        };
        s.sessions
            .map_or_else(|| "none".to_owned(), |cut| all(cut).name())
    };
    let precision = |s: &Suite| s.precision.name().to_owned();
    let arithmetic = |s: &Suite| {
        s.arithmetic
            .map_or("not said", clip::ops::Arithmetic::name)
            .to_owned()
    };
    let values = [
        ("backbone", old.backbone.clone(), new.backbone.clone()),
        ("source", source(old), source(new)),
        ("sessions", sessions(old), sessions(new)),
        ("views", old.views.to_string(), new.views.to_string()),
        ("precision", precision(old), precision(new)),
        ("arithmetic", arithmetic(old), arithmetic(new)),
        ("picks", picks(&old.picks), picks(&new.picks)),
    ];
    for (name, before, now) in values {
        if before != now {
            lines.push(format!("{name}: {now}, was {before}"));
        }
    }
    lines.extend(settings(old, new));
    lines
}

fn list(name: &str, before: &[String], now: &[String]) -> Option<String> {
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        these
            .iter()
            .filter(|t| !those.contains(t))
            .cloned()
            .collect()
    };
    let came = without(now, before);
    let went = without(before, now);
    let said = |what: &str, names: Vec<String>| {
        (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")))
    };
    let all: Vec<String> = [said("came", came), said("went", went)]
        .into_iter()
        .flatten()
        .collect();
    (!all.is_empty()).then(|| format!("{name}: {}", all.join("; ")))
}

fn picks(from: &PicksFrom) -> String {
    match from {
        PicksFrom::Drawn => "drawn".to_owned(),
        PicksFrom::File(path) | PicksFrom::Folder(path) => path.display().to_string(),
    }
}

/// A kind of trial: method, protocol, dataset, shots.
type Kind = (String, &'static str, String, usize);
/// A setting before and now, shown.
type Pair = (String, String);

fn kinds(suite: &Suite) -> BTreeMap<Kind, BTreeMap<String, Value>> {
    let kind = |cell: plan::Cell| {
        let mut settings = cell.method.settings.clone();
        settings.insert("algorithm".to_owned(), cell.method.name.into());
        let label = suite.methods[cell.line].label.clone();
        (
            (label, cell.protocol.name, cell.dataset, cell.shots),
            settings,
        )
    };
    plan::cells(suite).into_iter().map(kind).collect()
}

/// Settings that differ in trials of the same kind.
fn settings(old: &Suite, new: &Suite) -> Vec<String> {
    let (before, now) = (kinds(old), kinds(new));
    let mut of_method: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differ: BTreeMap<(&str, &str), Vec<(&Kind, Pair)>> = BTreeMap::new();
    for (kind, settings) in &now {
        let Some(earlier) = before.get(kind) else {
            continue;
        };
        *of_method.entry(kind.0.as_str()).or_default() += 1;
        let names = settings.keys().chain(earlier.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        for name in names {
            let shown = |value: Option<&Value>| {
                value.map_or_else(|| "not there".to_owned(), ToString::to_string)
            };
            if settings.get(name) != earlier.get(name) {
                let pair = (shown(earlier.get(name)), shown(settings.get(name)));
                let found = differ.entry((kind.0.as_str(), name.as_str())).or_default();
                found.push((kind, pair));
            }
        }
    }
    let line = |((label, name), found): ((&str, &str), Vec<(&Kind, Pair)>)| {
        let (first, (earlier, later)) = &found[0];
        let is_same_everywhere =
            found.len() == of_method[label] && found.iter().all(|(_, pair)| *pair == found[0].1);
        if is_same_everywhere {
            return format!("method {label}: {name} {later}, was {earlier}");
        }
        let (_, protocol, dataset, shots) = first;
        format!(
            "method {label}: {name} in {} of {} kinds of trials; under {protocol} on {dataset} with {shots} shots {later}, \
             was {earlier}",
            found.len(),
            of_method[label]
        )
    };
    differ.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use datasets::Catalogue;

    use super::*;
    use crate::run::feed;

    const SUITE: &str = r#"
version  = 1
protocol = "few-shot"
datasets = ["drawn-textures", "drawn-satellite"]
shots    = [1, 4]
seeds    = [1]

[[method]]
name   = "coop"
epochs = 5

[[method]]
name = "zero-shot"
"#;

    fn suite(text: &str) -> Suite {
        let known = feed::known(&Catalogue::built_in());
        Suite::of_text(text.to_owned(), Path::new("suite.toml"), &known).unwrap()
    }

    #[test]
    fn a_suite_differs_by_what_it_asks_for_and_not_by_how_it_is_written() {
        let same = suite(&format!("# Another comment.\n{SUITE}"));
        assert_eq!(differences(&suite(SUITE), &same), [""; 0]);
        let text = SUITE
            .replace("\"drawn-satellite\"", "\"drawn-food\"")
            .replace("seeds    = [1]", "seeds    = [1, 2]\nviews = \"none\"")
            .replace("epochs = 5", "epochs = 6")
            .replace("name = \"zero-shot\"", "name = \"kgcoop\"");
        assert_eq!(
            differences(&suite(SUITE), &suite(&text)),
            [
                "datasets: drawn-food came; drawn-satellite went",
                "seeds: 2 came",
                "methods: kgcoop came; zero-shot went",
                "views: none, was fresh",
                "method coop: epochs 6, was 5",
            ]
        );
    }

    #[test]
    fn a_setting_that_differs_in_places_is_told_with_one_of_them() {
        let text = SUITE.replace(
            "epochs = 5\n",
            "epochs = 5\n[[method.where]]\nshots = [4]\nlr = 0.5\n",
        );
        assert_eq!(
            differences(&suite(SUITE), &suite(&text)),
            [
                "method coop: lr in 2 of 4 kinds of trials; under few-shot on drawn-satellite with 4 shots 0.5, was 0.002"
            ]
        );
    }
}
