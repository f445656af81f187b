use super::*;
use crate::protocols::{base_to_novel, cross_dataset, domain_generalization, few_shot, test_time};

fn shipped() -> Published {
    Published::built_in().unwrap()
}

fn problems(name: &str, text: &str) -> Vec<String> {
    match Published::parse(vec![(PathBuf::from(name), text.to_owned())]) {
        Err(Error::Invalid(problems)) => problems.iter().map(Problem::to_string).collect(),
        Err(other) => panic!("{other}"),
        Ok(_) => Vec::new(),
    }
}

/// A small file that holds; tests break it one way at a time.
const GOOD: &str = r#"
[source]
id       = "x"
kind     = "paper"
title    = "A paper"
arxiv    = "0000.00000"
file     = "table 1"
ran_by   = "its authors"
evidence = "read"
checked  = "all of it"

[[table]]
protocol = "base-to-novel"
backbone = "clip-vit-b16"
shots    = 16
metric   = "top-1"
datasets = ["imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r", "average"]
averages = { average = "shifted-4" }

[[table.row]]
method   = "coop"
base     = [60.0, 70.0, 80.0, 90.0, 75.0]
novel    = [60.0, 50.0, 40.0, 30.0, 45.0]
harmonic = [60.0, 58.33, 53.33, 45.0, 56.25]
"#;

#[test]
fn a_file_that_holds_is_read() {
    assert_eq!(problems("x.toml", GOOD), Vec::<String>::new());
}

#[test]
fn shipped_files_hold_and_are_all_embedded() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../results/published");
    let mut on_disk: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".toml"))
        .collect();
    on_disk.sort();
    let embedded: Vec<&str> = FILES.iter().map(|f| f.0).collect();
    assert_eq!(embedded, on_disk);
    let (shipped, loaded) = (shipped(), Published::load(Path::new(dir)).unwrap());
    assert_eq!(shipped.sources().count(), on_disk.len());
    assert_eq!(format!("{shipped:?}"), format!("{loaded:?}"));
}

/// Recomputed here without the reader's own check, over every row of every shipped file.
#[test]
fn every_printed_h_is_that_of_its_row_but_the_listed_ones() {
    let mut off = Vec::new();
    let mut seen = 0;
    for file in &shipped().files {
        for table in &file.tables {
            for row in &table.rows {
                let (Some(b), Some(n), Some(h)) = (&row.base, &row.novel, &row.harmonic) else {
                    continue;
                };
                for i in 0..h.len() {
                    seen += 1;
                    if (h[i] - 2.0 * b[i] * n[i] / (b[i] + n[i])).abs() > 0.02 {
                        let shots = row.shots.or(table.shots).unwrap();
                        off.push(format!(
                            "{} {} {shots} {}",
                            file.source.id, row.method, table.datasets[i]
                        ));
                    }
                }
            }
        }
    }
    assert!(seen > 300, "{seen}");
    let mut expected = vec![
        "awesome-prompt-learning-readme hpt 16 average",
        "awesome-prompt-learning-readme rpo 16 average",
        "dept-figure-base-to-novel maple 16 fgvc-aircraft",
        "dept-figure-base-to-novel promptsrc+dept 16 ucf101",
        "dept-figure-by-shots coop 4 average",
        "dept-figure-by-shots coop 8 average",
        "dept-figure-by-shots coop+dept 4 average",
        "dept-figure-by-shots coop+dept 8 average",
        "promptsrc-readme-base-to-novel proda 16 average",
        "clip-svd-readme gda 16 average",
        "evoprompt-notes-base-to-novel evoprompt 16 average",
        "hpt-readme-base-to-novel hpt 16 average",
        "promptkd-figure-base-to-novel promptkd 16 stanford-cars",
        "promptkd-figure-base-to-novel promptkd 16 ucf101",
        "rmadapter-paper-base-to-novel mma 16 ucf101",
        "rmadapter-paper-base-to-novel rmadapter 16 average",
        "vacsr-paper-base-to-novel mma 16 ucf101",
        "vacsr-paper-base-to-novel mmrl 16 dtd",
    ];
    for (source, methods) in [
        (
            "biomedcoop-readme",
            &[
                "zero-shot 0",
                "coop 16",
                "cocoop 16",
                "kgcoop 16",
                "prograd 16",
            ][..],
        ),
        (
            "clip-svd-readme-biomedical",
            &[
                "zero-shot 0",
                "coop 16",
                "cocoop 16",
                "kgcoop 16",
                "prograd 16",
                "maple 16",
                "biomedcoop 16",
            ],
        ),
    ] {
        expected.extend(
            methods
                .iter()
                .map(|m| &*format!("{source} {m} average").leak()),
        );
    }
    expected.extend(["dept-tests-head-weight coop+dept 16 average"; 6]);
    off.sort();
    expected.sort();
    assert_eq!(off, expected);
}

#[test]
fn a_wrong_h_is_refused_until_it_is_listed() {
    let wrong = GOOD.replace("58.33", "58.36");
    let found = problems("x.toml", &wrong);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .starts_with("x.toml: table[0].row[0].harmonic[1]: 58.36 for imagenet-sketch of coop"),
        "{found:?}"
    );
    let listed = "\n[[table.exception]]\nmethod = \"coop\"\ndataset = \"imagenet-sketch\"\nmeasure = \"harmonic\"\n";
    assert_eq!(
        problems("x.toml", &format!("{wrong}{listed}reason = \"a slip\"")),
        Vec::<String>::new()
    );
    // An empty reason excuses nothing, and an exception nothing needs is an error.
    assert_eq!(
        problems("x.toml", &format!("{wrong}{listed}reason = \" \"")).len(),
        1
    );
    let idle = problems("x.toml", &format!("{GOOD}{listed}reason = \"a slip\""));
    assert!(
        idle[0].starts_with("x.toml: table[0].exception[0]: not needed"),
        "{idle:?}"
    );
}

#[test]
fn what_a_value_is_instead_is_computed_too() {
    let exception = |measure: &str, is: &str| {
        format!(
            "\n[[table.exception]]\nmethod = \"coop\"\ndataset = \"average\"\nmeasure = \"{measure}\"\n\
             reason = \"a slip\"\nis = \"{is}\"\n"
        )
    };
    // 60, 58.33, 53.33 and 45 are 54.165 in the mean; the H of the averages is 56.25.
    let of_h = GOOD.replace("56.25", "54.17") + &exception("harmonic", "mean-of-harmonics");
    assert_eq!(problems("x.toml", &of_h), Vec::<String>::new());
    let other = problems("x.toml", &of_h.replace("54.17", "54.30"));
    assert!(
        other[0].ends_with("exception[0].is: 54.3 is not that mean either, 54.16"),
        "{other:?}"
    );
    let transfer = GOOD
        .replace("base-to-novel", "domain-generalization")
        .replace("shots    = 16", "shots    = 16\ntrained_on = \"imagenet\"")
        .replace("[\"imagenet-v2\"", "[\"imagenet\", \"imagenet-v2\"");
    let rows = transfer.split("base  ").next().unwrap().to_owned();
    let row = "all = [80.0, 60.0, 70.0, 80.0, 90.0, 76.0]\n";
    let with_source = rows + row + &exception("all", "mean-with-source");
    assert_eq!(problems("x.toml", &with_source), Vec::<String>::new());
    let other = problems("x.toml", &with_source.replace("76.0]", "77.0]"));
    assert!(
        other[0].ends_with("exception[0].is: 77 is not that mean either, 76.00"),
        "{other:?}"
    );
}

#[test]
fn a_table_of_one_decimal_is_held_to_that() {
    let rounded = GOOD.replace("58.33", "58.4");
    assert_eq!(problems("x.toml", &rounded).len(), 1);
    let said = rounded.replace("metric ", "decimals = 1\nmetric ");
    assert_eq!(problems("x.toml", &said), Vec::<String>::new());
    assert_eq!(problems("x.toml", &said.replace("58.4", "58.6")).len(), 1);
}

#[test]
fn averages_that_count_the_source_are_listed_as_such() {
    let published = shipped();
    let found: Vec<(String, f64)> = published
        .files
        .iter()
        .flat_map(|f| &f.tables)
        .flat_map(|t| t.exceptions.iter().map(move |e| (t, e)))
        .filter(|(_, e)| e.is == Some(Instead::MeanWithSource))
        .map(|(t, e)| {
            let row = t.rows.iter().find(|r| r.method == e.method).unwrap();
            let targets = &row.all.as_ref().unwrap()[1..11];
            (e.method.clone(), targets.iter().sum::<f64>() / 10.0)
        })
        .collect();
    // Over the ten targets the printed 67.56 and 66.59 are these.
    for (method, mean) in [("rmadapter", 67.178), ("cocoop+atprompt", 66.121)] {
        let one = found.iter().find(|f| f.0 == method).unwrap();
        assert!((one.1 - mean).abs() < 1e-9, "{one:?}");
    }
    assert_eq!(found.len(), 2);
}

#[test]
fn a_wrong_average_is_refused() {
    // Of the novel column, with an H that still fits its row.
    let wrong = GOOD
        .replace("30.0, 45.0]", "30.0, 46.0]")
        .replace("45.0, 56.25]", "45.0, 57.02]");
    let found = problems("x.toml", &wrong);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains(
            "row[0].novel[4]: 46 for average of coop is not the mean of its columns, 45.00"
        )
    );
}

#[test]
fn every_problem_of_every_file_is_reported_at_once() {
    let bad = GOOD
        .replace("\"x\"", "\"y\"")
        .replace("arxiv    = \"0000.00000\"\n", "")
        .replace("imagenet-a", "imagenet-b")
        .replace("30.0, 45.0]", "30.0]")
        .replace("60.0, 70.0, 80.0", "160.0, 70.0, 80.0")
        .replace("shots    = 16\n", "");
    let found = problems("x.toml", &bad);
    for start in [
        "x.toml: source.id: \"y\" is not the file's name",
        "x.toml: source.arxiv: missing",
        "x.toml: table[0].datasets[2]: \"imagenet-b\" is none of imagenet,",
        "x.toml: table[0].row[0].shots: missing",
        "x.toml: table[0].row[0].novel: 4 values for 5 columns",
        "x.toml: table[0].row[0].base[0]: 160 is outside 0..=100",
    ] {
        assert!(
            found.iter().any(|p| p.starts_with(start)),
            "{start}\n{found:#?}"
        );
    }
    assert_eq!(found.len(), 6, "{found:#?}");
    let two = vec![
        ("x.toml".into(), GOOD.replace("58.33", "1.0")),
        ("z.toml".into(), "source = 1".to_owned()),
    ];
    let Err(Error::Invalid(found)) = Published::parse(two) else {
        panic!("both files are wrong")
    };
    assert_eq!(
        found
            .iter()
            .map(|p| p.file.to_str().unwrap())
            .collect::<Vec<_>>(),
        ["x.toml", "z.toml"]
    );
}

#[test]
fn a_misspelt_key_is_named_with_its_line() {
    let found = problems("x.toml", &GOOD.replace("ran_by", "run_by"));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("x.toml:8: unknown field `run_by`, expected one of `id`"),
        "{found:?}"
    );
}

#[test]
fn rows_of_the_wrong_kind_are_refused() {
    let all = GOOD.replace("base     =", "all      =");
    assert!(
        problems("x.toml", &all)
            .iter()
            .any(|p| p.contains("row[0].all: this table's rows hold base, novel"))
    );
    let untrained = GOOD.replace("\"coop\"", "\"zero-shot\"");
    assert!(
        problems("x.toml", &untrained)[0].contains("row[0].shots: 16: zero-shot trains on none")
    );
    let elsewhere = GOOD.replace("shots    = 16", "shots    = 16\ntrained_on = \"imagenet\"");
    assert!(problems("x.toml", &elsewhere)[0].contains("table[0].trained_on: has no place"));
    let row = GOOD.split("[[table.row]]").nth(1).unwrap();
    let twice = problems("x.toml", &format!("{GOOD}\n[[table.row]]{row}"));
    assert_eq!(twice.len(), 15, "{twice:?}");
    assert!(twice[0].contains("row[1].base: imagenet-v2 is given twice for coop: name a variant"));
}

#[test]
fn an_unreadable_folder_is_named() {
    let error = Published::load(Path::new("no/such/folder"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("no/such/folder: cannot be read: "),
        "{error}"
    );
}

/// Values typed here from the papers' tables, not from the files.
#[test]
fn known_cells_are_found() {
    let published = shipped();
    let value = |protocol, method, dataset, backbone, shots, measure, source: &str| {
        let found = published.lookup(protocol, method, dataset, backbone, shots, measure);
        let one: Vec<f64> = found
            .iter()
            .filter(|n| n.source.id == source)
            .map(|n| n.value)
            .collect();
        assert_eq!(one.len(), 1, "{method} {dataset} {source}: {one:?}");
        one[0]
    };
    use Measure::{All, Base, Harmonic, Novel};
    let b16 = "clip-vit-b16";
    assert_eq!(
        value(
            &base_to_novel::PROTOCOL,
            "maple",
            "eurosat",
            b16,
            16,
            Base,
            "maple-paper-base-to-novel"
        ),
        94.07
    );
    assert_eq!(
        value(
            &base_to_novel::PROTOCOL,
            "coop",
            "dtd",
            b16,
            16,
            Novel,
            "cocoop-paper-base-to-novel"
        ),
        41.18
    );
    assert_eq!(
        value(
            &base_to_novel::PROTOCOL,
            "promptsrc",
            "average",
            b16,
            16,
            Harmonic,
            "promptsrc-paper-base-to-novel"
        ),
        79.97
    );
    assert_eq!(
        value(
            &base_to_novel::PROTOCOL,
            "kgcoop",
            "sun397",
            b16,
            16,
            Base,
            "kgcoop-paper-base-to-novel"
        ),
        80.29
    );
    assert_eq!(
        value(
            &cross_dataset::PROTOCOL,
            "maple",
            "fgvc-aircraft",
            b16,
            16,
            All,
            "maple-paper-cross-dataset"
        ),
        24.74
    );
    assert_eq!(
        value(
            &cross_dataset::PROTOCOL,
            "cocoop",
            "imagenet",
            b16,
            16,
            All,
            "dept-figure-cross-dataset"
        ),
        71.17
    );
    let dg = "promptsrc-paper-domain-generalization";
    assert_eq!(
        value(
            &domain_generalization::PROTOCOL,
            "promptsrc",
            "imagenet-r",
            b16,
            16,
            All,
            dg
        ),
        77.80
    );
    assert_eq!(
        value(
            &test_time::PROTOCOL,
            "tpt",
            "imagenet-a",
            b16,
            0,
            All,
            "tpt-paper-vit-b16"
        ),
        54.77
    );
    assert_eq!(
        value(
            &test_time::PROTOCOL,
            "tpt+coop",
            "average-shifted",
            "clip-rn50",
            16,
            All,
            "tpt-readme-rn50"
        ),
        45.75
    );
    assert_eq!(
        value(
            &few_shot::PROTOCOL,
            "coop",
            "eurosat",
            "clip-rn50",
            8,
            All,
            "coop-few-shot-rn50"
        ),
        76.73
    );
    let tip = "tip-adapter-log-few-shot-rn50";
    assert_eq!(
        value(
            &few_shot::PROTOCOL,
            "tip-adapter-f",
            "stanford-cars",
            "clip-rn50",
            16,
            All,
            tip
        ),
        75.74
    );
    assert_eq!(
        value(
            &few_shot::PROTOCOL,
            "plotpp",
            "ucf101",
            b16,
            4,
            All,
            "plot-readme-few-shot"
        ),
        79.76
    );
}

#[test]
fn sources_that_disagree_stay_apart_papers_first() {
    let published = shipped();
    let found = published.lookup(
        &base_to_novel::PROTOCOL,
        "coop",
        "average",
        "clip-vit-b16",
        16,
        Measure::Base,
    );
    let of = |id: &str| found.iter().find(|n| n.source.id == id).map(|n| n.value);
    assert_eq!(of("cocoop-paper-base-to-novel"), Some(82.69));
    assert_eq!(of("kgcoop-readme-base-to-novel"), Some(82.63));
    assert_eq!(of("dept-figure-base-to-novel"), Some(81.50));
    assert!(
        found
            .windows(2)
            .all(|w| w[0].source.kind <= w[1].source.kind)
    );
    assert_eq!(found[0].source.kind, Kind::Paper);
    let dept = found
        .iter()
        .find(|n| n.source.id == "dept-figure-base-to-novel")
        .unwrap();
    assert_eq!(
        dept.exception,
        Some("printed 81.50, the columns give 81.59")
    );
    assert!(dept.ran_by.starts_with("DePT's authors"));
}

#[test]
fn what_was_computed_here_says_so() {
    let published = shipped();
    let plot = |d| {
        published.lookup(
            &few_shot::PROTOCOL,
            "plotpp",
            d,
            "clip-vit-b16",
            16,
            Measure::All,
        )[0]
        .derived
    };
    assert!(plot("average") && !plot("dtd"));
}

#[test]
fn zero_shot_is_one_cell_under_every_protocol_but_an_average_is_not() {
    let published = shipped();
    let count = |p, d| {
        published
            .lookup(p, "zero-shot", d, "clip-rn50", 16, Measure::All)
            .len()
    };
    assert_eq!(count(&cross_dataset::PROTOCOL, "eurosat"), 1);
    assert_eq!(
        count(&test_time::PROTOCOL, "imagenet"),
        count(&few_shot::PROTOCOL, "imagenet")
    );
    assert!(count(&test_time::PROTOCOL, "average") > 0);
    assert_eq!(count(&few_shot::PROTOCOL, "average"), 0);
}

#[test]
fn times_are_no_accuracies_and_unknown_cells_are_empty() {
    let published = shipped();
    let look = |m, d, s| {
        published.lookup(
            &base_to_novel::PROTOCOL,
            m,
            d,
            "clip-vit-b16",
            s,
            Measure::All,
        )
    };
    assert!(look("cocoop", "average", 16).is_empty());
    assert!(look("coop", "drawn-cars", 16).is_empty());
    let b = published.lookup(
        &base_to_novel::PROTOCOL,
        "maple",
        "dtd",
        "clip-vit-b16",
        2,
        Measure::Base,
    );
    assert!(b.is_empty());
}

#[test]
fn measures_are_named_as_in_the_files() {
    for measure in Measure::ALL {
        assert_eq!(Measure::named(measure.name()), Some(measure));
    }
    assert_eq!(Measure::named("old"), None);
}
