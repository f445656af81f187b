//! Pictures that belong together stay in one list: no driver, scene or patient is trained on and tested on.
//!
//! Who is who stands in a file beside the pictures (StateFarm's `driver_imgs_list.csv`) or in the names of the pictures
//! (DMD's `..._sub_12_...jpg`). Lists that a dataset brings are only checked; lists that would be cut here are cut by
//! group: as a published fold says (DriveCLIP's `sub_split_dmd_29.json`, `sub_split_syndd1.json`), or 50/20/30.

mod known;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Lists, SharedOut, json_error, read_named, shown};
use crate::catalogue::{Fold, Groups};
use crate::cpython::Random;
use crate::error::{Problem, ProblemKind};
use crate::split::{Origin, Part};
use crate::{Error, Item, Split};
use known::{known, plain, rules_at, scalar};

/// The seed by which groups are shared out, as that by which class folders are cut.
const SEED: u64 = 1;

/// The lists, with no group in two of them.
pub(super) fn kept_together(groups: &Groups, lists: Lists, root: &Path) -> Result<Lists, Error> {
    let of = known(&groups.by, root)?;
    let (groups_of, from) = of.of_all(&lists)?;
    match (lists.split.origin == Origin::Built, &groups.fold) {
        (true, Some(fold)) => by_fold(fold, lists, &groups_of, root),
        (true, None) => cut(lists, &groups_of),
        (false, Some(fold)) => Err(rules(
            from,
            vec![format!(
                "fold {:?} of {} would share out pictures whose lists are given already; leave `folds` out of the row",
                fold.name,
                fold.file.display()
            )],
        )),
        (false, None) => checked(lists, &groups_of, from),
    }
}

fn rules(path: PathBuf, messages: Vec<String>) -> Error {
    let problems = messages.into_iter().map(|message| Problem {
        field: "groups".to_owned(),
        kind: ProblemKind::Rule(message),
    });
    Error::Entries {
        path,
        problems: problems.collect(),
    }
}
/// Lists that are given: refused where a group is in two of them.
fn checked(
    mut lists: Lists,
    groups_of: &HashMap<PathBuf, String>,
    from: PathBuf,
) -> Result<Lists, Error> {
    let mut parts: BTreeMap<&str, BTreeMap<Part, (usize, &Path)>> = BTreeMap::new();
    for part in Part::ALL {
        for item in lists.split.part(part) {
            let in_part = parts.entry(groups_of[&item.path].as_str()).or_default();
            in_part.entry(part).or_insert((0, &item.path)).0 += 1;
        }
    }
    let shared = parts.iter().filter(|(_, parts)| parts.len() > 1);
    let messages = shared.map(|(group, parts)| {
        let places = parts.iter().map(|(part, (count, first))| {
            format!(
                "{} ({count} pictures, first {})",
                part.name(),
                first.display()
            )
        });
        let places: Vec<String> = places.collect();
        format!("group {group:?} is in {}", places.join(" and in "))
    });
    let messages: Vec<String> = messages.collect();
    if !messages.is_empty() {
        return Err(rules(from, messages));
    }
    let count = |part: Part| {
        parts
            .values()
            .filter(|parts| parts.contains_key(&part))
            .count()
    };
    lists.shared_out = Some(SharedOut {
        groups: Part::ALL.map(count),
        outside: (0, 0),
    });
    Ok(lists)
}

/// Groups shared out as class folders are: shuffled, half of them train, a fifth val.
fn cut(lists: Lists, groups_of: &HashMap<PathBuf, String>) -> Result<Lists, Error> {
    let names: BTreeSet<&str> = groups_of.values().map(String::as_str).collect();
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    if names.len() < 3 {
        let message = format!(
            "there are {} ({}); train, val and test need one each",
            names.len(),
            names.join(", ")
        );
        return Err(rules(lists.from, vec![message]));
    }
    Random::seed(SEED).shuffle(&mut names);
    let share = |share: f64| ((names.len() as f64 * share).round_ties_even() as usize).max(1);
    let (train, val) = (share(0.5), share(0.2));
    let part_of = names.iter().enumerate().map(|(place, group)| {
        let part = match place {
            _ if place < train => Part::Train,
            _ if place < train + val => Part::Val,
            _ => Part::Test,
        };
        (group.clone(), part)
    });
    shared(lists, groups_of, &part_of.collect(), Origin::Built)
}

/// Groups shared out as a published file says.
fn by_fold(
    fold: &Fold,
    lists: Lists,
    groups_of: &HashMap<PathBuf, String>,
    root: &Path,
) -> Result<Lists, Error> {
    let path = root.join(&fold.file);
    let hint = "JSON of {\"fold0\": {\"train\": [...], \"val\": [...], \"test\": [...]}}";
    let text = read_named(&path, "the file of folds", hint)?;
    let value: Value = serde_json::from_str(&text).map_err(|error| json_error(&path, &error))?;
    let Some(parts) = value.get(&fold.name) else {
        let known: Vec<&str> = value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k.as_str())
            .collect();
        let message = format!("is not there; there are {}", known.join(", "));
        return Err(rules_at(&path, &fold.name, message));
    };
    let mut part_of: HashMap<String, Part> = HashMap::new();
    let mut problems = Vec::new();
    for part in Part::ALL {
        let keys = [part.name().to_owned(), format!("{}_sub_id", part.name())];
        let Some(value) = keys.iter().find_map(|key| parts.get(key)) else {
            if part != Part::Val {
                let message = format!("has no list {:?}", part.name());
                problems.push((fold.name.clone(), message));
            }
            continue;
        };
        let field = format!("{}.{}", fold.name, part.name());
        let groups: Option<Vec<String>> = value
            .as_array()
            .and_then(|all| all.iter().map(scalar).collect());
        let Some(groups) = groups else {
            problems.push((
                field,
                format!("found {}, expected a list of groups", shown(value)),
            ));
            continue;
        };
        for group in groups.iter().map(|group| plain(group)) {
            if let Some(other) = part_of.insert(group.clone(), part)
                && other != part
            {
                let message = format!("group {group:?} is in {} too", other.name());
                problems.push((field.clone(), message));
            }
        }
    }
    if !problems.is_empty() {
        let problems = problems.into_iter().map(|(field, message)| Problem {
            field,
            kind: ProblemKind::Rule(message),
        });
        return Err(Error::Entries {
            path,
            problems: problems.collect(),
        });
    }
    shared(lists, groups_of, &part_of, Origin::Published)
}

/// The pictures of lists in the parts of their groups, class by class and sorted within a class.
///
/// # Errors
/// Every class without a picture to train or to test on.
fn shared(
    lists: Lists,
    groups_of: &HashMap<PathBuf, String>,
    part_of: &HashMap<String, Part>,
    origin: Origin,
) -> Result<Lists, Error> {
    let mut items: Vec<Item> = Part::ALL
        .iter()
        .flat_map(|&part| lists.split.part(part).iter().cloned())
        .collect();
    items.sort_by(|a, b| (a.label, &a.path).cmp(&(b.label, &b.path)));
    let mut split = Split {
        train: vec![],
        val: vec![],
        test: vec![],
        origin,
    };
    let mut classes: BTreeMap<u32, (String, BTreeSet<Part>)> = BTreeMap::new();
    let mut groups: BTreeMap<&str, Option<Part>> = BTreeMap::new();
    let mut outside = 0;
    for item in items {
        let group = &groups_of[&item.path];
        let part = part_of.get(group).copied();
        groups.insert(group, part);
        let class = classes
            .entry(item.label)
            .or_insert_with(|| (item.class_name.clone(), BTreeSet::new()));
        class.1.extend(part);
        match part {
            Some(Part::Train) => split.train.push(item),
            Some(Part::Val) => split.val.push(item),
            Some(Part::Test) => split.test.push(item),
            None => outside += 1,
        }
    }
    let names_in = |part: Part| -> Vec<&str> {
        let in_part = groups.iter().filter(|(_, p)| **p == Some(part));
        in_part.map(|(group, _)| *group).collect()
    };
    let mut messages = Vec::new();
    for (name, parts) in classes.values() {
        for part in [Part::Train, Part::Test] {
            if !parts.contains(&part) {
                messages.push(format!(
                    "class {name:?} has no {} picture: none of the groups there ({}) shows it",
                    part.name(),
                    names_in(part).join(", ")
                ));
            }
        }
    }
    if !messages.is_empty() {
        return Err(rules(lists.from, messages));
    }
    let count = |part: Part| names_in(part).len();
    let left_out = groups.values().filter(|part| part.is_none()).count();
    let shared_out = SharedOut {
        groups: Part::ALL.map(count),
        outside: (left_out, outside),
    };
    Ok(Lists {
        split,
        shared_out: Some(shared_out),
        ..lists
    })
}
