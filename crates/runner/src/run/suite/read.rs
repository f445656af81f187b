//! The keys of a suite file, other than its methods.

use std::path::Path;

use anyhow::{Context, Result};
use clip::ops::Arithmetic;
use datasets::{Order, Sessions};
use toml_edit::{Document, Item, TableLike};

use super::reader::Reader;
use super::{Line, PicksFrom, Precision, Suite, VERSION, Views, bytes, expand, unknown_dataset};
use crate::device::arithmetic::named;
use crate::protocols::{self, Protocol};

impl Suite {
    /// Reads and checks `path`. `known` tells whether a dataset id exists.
    ///
    /// # Errors
    /// Every mistake of the file, one a line: file, line, field, what is wrong and what would be right.
    pub fn read(path: &Path, known: &[String]) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot be read", path.display()))?;
        Self::of_text(text, path, known)
    }

    /// As [`Suite::read`], of the text that `path` held once: its name, and where the paths in it start, are still those of
    /// `path`.
    ///
    /// # Errors
    /// Those of [`Suite::read`].
    pub fn of_text(text: String, path: &Path, known: &[String]) -> Result<Self> {
        let document = Document::parse(text.as_str()).map_err(|e| {
            let line = 1 + text[..e.span().map_or(0, |s| s.start.min(text.len()))]
                .matches('\n')
                .count();
            anyhow::anyhow!("{}:{line}: {}", path.display(), e.message())
        })?;
        let mut r = Reader {
            path,
            text: &text,
            problems: Vec::new(),
        };
        let root = document.as_table();
        let keys = [
            "version",
            "protocol",
            "backbone",
            "datasets",
            "source",
            "variants",
            "unseen",
            "sessions",
            "shots",
            "seeds",
            "views",
            "picks",
            "memory",
            "precision",
            "arithmetic",
            "method",
        ];
        r.only(root, "", &keys);
        match root.get("version").map(|i| (i.as_integer(), i)) {
            Some((Some(VERSION), _)) => {}
            Some((_, item)) => r.at(Some(item), "version", format!("must be {VERSION}")),
            None => r.on(
                1,
                "version",
                format!("is missing; write `version = {VERSION}`"),
            ),
        }
        let protocols = r.protocols(root, "", "protocol").unwrap_or_else(|| {
            if root.get("protocol").is_none() {
                let known = protocols::names(|_| true, ", ");
                r.on(1, "protocol", format!("is missing; one or more of {known}"));
            }
            Vec::new()
        });
        let backbone = r
            .string(root, "", "backbone")
            .unwrap_or_else(|| "drawn".to_owned());
        let datasets = Self::datasets(&mut r, root, "datasets", known);
        if datasets.is_empty() && root.get("datasets").is_none() {
            r.on(
                1,
                "datasets",
                "is missing; for example `datasets = \"drawn-11\"`",
            );
        }
        let variants = root
            .get("variants")
            .map(|_| Self::datasets(&mut r, root, "variants", known));
        let unseen = Self::unseen(&mut r, root, &datasets, known);
        let sessions = Self::sessions(&mut r, root.get("sessions"));
        for field in ["variants", "unseen", "sessions"] {
            let reads = |p: &Protocol| p.fields.contains(&field);
            if root.get(field).is_some() && !protocols.iter().any(|p| reads(p)) {
                let message = format!("belongs to {} only", protocols::names(reads, " and "));
                r.at(root.get(field), field, message);
            }
        }
        let in_sessions = |p: &&Protocol| p.fields.contains(&"sessions");
        if let (None, Some(protocol)) = (
            root.get("sessions"),
            protocols.iter().find(|p| in_sessions(p)),
        ) {
            let message = format!(
                "is missing: {protocol} learns classes in sessions; for example `sessions = 10`"
            );
            r.on(1, "sessions", message);
        }
        let transfer = protocols.iter().any(|p| p.has_source());
        let source = r.string(root, "", "source");
        match (&source, transfer) {
            (None, true) => r.on(
                1,
                "source",
                "is missing: this protocol trains on one dataset",
            ),
            (Some(_), false) => {
                let those = protocols::names(|p| p.has_source(), " and ");
                let message = format!("belongs to {those} only");
                r.at(root.get("source"), "source", message);
            }
            (Some(id), true) if !known.contains(id) => {
                r.at(root.get("source"), "source", unknown_dataset(id, known))
            }
            _ => {}
        }
        let mut shots: Vec<usize> = r
            .numbers(root, "", "shots", 1)
            .unwrap_or_default()
            .into_iter()
            .map(|n| n as usize)
            .collect();
        shots.sort_unstable();
        if shots.is_empty()
            && root.get("shots").is_none()
            && protocols.iter().any(|p| p.has_training)
        {
            r.on(1, "shots", "is missing; for example `shots = [16]`");
        }
        let seeds: Vec<u64> = match r.numbers(root, "", "seeds", 0) {
            Some(seeds) => seeds.into_iter().map(|n| n as u64).collect(),
            None => vec![1, 2, 3],
        };
        let views = Self::views(&mut r, root.get("views"));
        let picks = Self::picks(&mut r, root.get("picks"));
        if let PicksFrom::File(_) = &picks {
            let trained_on = if transfer && protocols.iter().all(|p| p.has_source()) {
                source.iter().count()
            } else {
                datasets.len()
            };
            if trained_on > 1 || shots.len() > 1 || seeds.len() > 1 {
                r.at(
                    root.get("picks"),
                    "picks",
                    "one file is for one dataset, one number of shots and one seed; write { folder = \"...\" }",
                );
            }
        }
        let memory = r.string(root, "", "memory").and_then(|text| {
            let read = bytes(&text);
            if let Err(message) = &read {
                r.at(root.get("memory"), "memory", message);
            }
            read.ok()
        });
        let precision = Self::precision(&mut r, root.get("precision"));
        let arithmetic = Self::arithmetic(&mut r, root.get("arithmetic"));
        let line = |key| {
            let span = root.get(key).and_then(Item::span);
            span.map_or(1, |s| r.line(s.start))
        };
        let (precision_line, arithmetic_line) = (line("precision"), line("arithmetic"));
        let mut methods: Vec<(usize, Line)> = Vec::new();
        match root.get("method").and_then(Item::as_array_of_tables) {
            None => r.at(
                root.get("method"),
                "method",
                "is missing; write at least one `[[method]]`",
            ),
            Some(tables) => {
                for (i, table) in tables.iter().enumerate() {
                    let line = Self::method(&mut r, table, &format!("method[{i}]."), known);
                    let Some(line) = line else { continue };
                    if line.learns()
                        && !protocols.is_empty()
                        && protocols.iter().all(|p| !p.has_training)
                    {
                        let those: Vec<&str> = protocols.iter().map(|p| p.name).collect();
                        let has = if those.len() == 1 { "has" } else { "have" };
                        let message = format!(
                            "{} needs a training set, {} {has} none",
                            line.entry.name,
                            those.join(" and ")
                        );
                        r.at(table.get("name"), &format!("method[{i}].name"), message);
                    }
                    if methods.iter().any(|(_, m)| m.label == line.label) {
                        let message = format!("{:?} is taken; give this one a `label`", line.label);
                        r.at(table.get("name"), &format!("method[{i}].label"), message);
                    }
                    methods.push((i, line));
                }
            }
        }
        for (i, line) in &methods {
            let mut seen = Vec::new();
            for protocol in &protocols {
                let wanted = protocols::Wanted {
                    datasets: &datasets,
                    source: source.as_deref(),
                    variants: variants.as_deref(),
                    unseen: unseen.as_deref(),
                    sessions,
                };
                for dataset in protocol.starts(&wanted) {
                    for shots in shots.iter().copied().chain(shots.is_empty().then_some(0)) {
                        for (number, message) in
                            line.problems(protocol, &dataset, shots, &format!("method[{i}]."))
                        {
                            if !seen.contains(&message) {
                                seen.push(message.clone());
                                let number = number.max(1);
                                r.problems.push((
                                    number,
                                    format!("{}:{number}: {message}", path.display()),
                                ));
                            }
                        }
                    }
                }
            }
        }
        r.problems.sort();
        r.problems.dedup();
        if !r.problems.is_empty() {
            let all: Vec<String> = r.problems.into_iter().map(|(_, p)| p).collect();
            anyhow::bail!(all.join("\n"));
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let hash = crate::hash::hex(text.as_bytes());
        drop(document);
        let methods = methods.into_iter().map(|(_, line)| line).collect();
        Ok(Self {
            name,
            hash,
            protocols,
            backbone,
            datasets,
            source,
            variants,
            unseen,
            sessions,
            shots,
            seeds,
            views,
            picks,
            memory,
            precision,
            precision_line,
            arithmetic,
            arithmetic_line,
            methods,
            text,
        })
    }

    fn datasets(r: &mut Reader, root: &dyn TableLike, key: &str, known: &[String]) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for name in r.names(root, "", key).unwrap_or_default() {
            let ids = expand(&name).unwrap_or_else(|| vec![name.clone()]);
            for id in ids {
                if !known.contains(&id) {
                    r.at(root.get(key), key, unknown_dataset(&id, known));
                } else if out.contains(&id) {
                    r.at(root.get(key), key, format!("{id} is listed twice"));
                } else {
                    out.push(id);
                }
            }
        }
        out
    }

    /// Datasets to test on that are not among those learned.
    fn unseen(
        r: &mut Reader,
        root: &dyn TableLike,
        datasets: &[String],
        known: &[String],
    ) -> Option<Vec<String>> {
        let item = root.get("unseen")?;
        let unseen = Self::datasets(r, root, "unseen", known);
        for id in unseen.iter().filter(|id| datasets.contains(id)) {
            let message = format!("{id} is one of `datasets`, which are trained on");
            r.at(Some(item), "unseen", message);
        }
        Some(unseen)
    }

    /// How many, or `{ count = 10, first = 50, order = 1993 }`.
    fn sessions(r: &mut Reader, item: Option<&Item>) -> Option<Sessions> {
        let item = item?;
        let usual = Sessions {
            count: 0,
            first: None,
            order: Order::Shuffled(1993),
        };
        let number = |item: &Item| usize::try_from(item.as_integer()?).ok();
        let (read, mut is_right) = match (number(item), item.as_table_like()) {
            (Some(count), _) => (Sessions { count, ..usual }, true),
            (None, Some(table)) => {
                r.only(table, "sessions.", &["count", "first", "order"]);
                let count = table.get("count").and_then(number);
                let first = table.get("first").map(number);
                let order = match table.get("order") {
                    None => Some(usual.order),
                    Some(item) => match (item.as_str(), item.as_integer()) {
                        (Some("labels"), _) => Some(Order::Labels),
                        (Some("icarl"), _) => Some(Order::Icarl),
                        (None, Some(seed)) => u32::try_from(seed).ok().map(Order::Shuffled),
                        _ => None,
                    },
                };
                let is_right = count.is_some() && order.is_some() && first != Some(None);
                let read = Sessions {
                    count: count.unwrap_or_default(),
                    first: first.flatten(),
                    order: order.unwrap_or(usual.order),
                };
                (read, is_right)
            }
            _ => (usual, false),
        };
        is_right &= read.count > 1 && read.first != Some(0);
        if !is_right {
            let message = "must be a number of 2 or more, or { count = 10, first = 50, order = 1993 }: `first` classes in \
                           the first session where it has more, `order` a seed of numpy's permutation (1993 where not \
                           given), \"labels\" or \"icarl\"";
            r.at(Some(item), "sessions", message);
        }
        Some(read)
    }

    fn views(r: &mut Reader, item: Option<&Item>) -> Views {
        let Some(item) = item else {
            return Views::Fresh;
        };
        match item.as_str() {
            Some("fresh") => return Views::Fresh,
            Some("none") => return Views::None,
            _ => {}
        }
        let cached = item
            .as_inline_table()
            .filter(|t| t.len() == 1)
            .and_then(|t| t.get("cached")?.as_integer());
        match cached {
            Some(n) if n > 0 => Views::Cached(n as usize),
            _ => {
                r.at(
                    Some(item),
                    "views",
                    "must be \"fresh\", \"none\" or { cached = K } with K of 1 or more",
                );
                Views::Fresh
            }
        }
    }

    /// `"drawn"`, `{ file = "..." }` or `{ folder = "..." }`; paths start at the suite's folder.
    fn picks(r: &mut Reader, item: Option<&Item>) -> PicksFrom {
        let Some(item) = item else {
            return PicksFrom::Drawn;
        };
        if item.as_str() == Some("drawn") {
            return PicksFrom::Drawn;
        }
        let named = |key: &str| {
            let table = item.as_inline_table().filter(|t| t.len() == 1)?;
            let path = table.get(key)?.as_str()?;
            let folder = r.path.parent().unwrap_or(Path::new(""));
            (!path.is_empty()).then(|| folder.join(path))
        };
        match (named("file"), named("folder")) {
            (Some(file), _) => PicksFrom::File(file),
            (None, Some(folder)) => PicksFrom::Folder(folder),
            (None, None) => {
                r.at(
                    Some(item),
                    "picks",
                    "must be \"drawn\", { file = \"...\" } or { folder = \"...\" }",
                );
                PicksFrom::Drawn
            }
        }
    }

    fn precision(r: &mut Reader, item: Option<&Item>) -> Precision {
        match item.map(|i| i.as_str()) {
            None | Some(Some("float32")) => Precision::Float32,
            Some(Some("bfloat16")) => Precision::Bfloat16,
            Some(Some("bfloat16x3")) => Precision::Bfloat16x3,
            Some(Some("tf32")) => Precision::Tf32,
            Some(Some("half")) => Precision::Half,
            _ => {
                let message = "must be \"float32\" or, on a processor with AVX512-BF16, \"bfloat16\", on a matrix unit \
                               \"bfloat16x3\"; on a GPU \"float32\", \"tf32\" or \"half\"";
                r.at(item, "precision", message);
                Precision::Float32
            }
        }
    }

    /// Whether a machine has it is that machine's to say.
    fn arithmetic(r: &mut Reader, item: Option<&Item>) -> Option<Arithmetic> {
        let item = item?;
        let read = item.as_str().and_then(named);
        if read.is_none() {
            let message = "must be \"portable\", \"amx\" or \"emulated\"; without it, the processor does \"portable\"";
            r.at(Some(item), "arithmetic", message);
        }
        read
    }
}
