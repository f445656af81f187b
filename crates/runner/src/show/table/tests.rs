use super::*;
use crate::protocols::{base_to_novel, cross_dataset, domain_generalization, few_shot, test_time};
use crate::show::summary::sample::{self, failed, trial};

fn small() -> Loaded {
    let records = vec![
        trial("zero-shot", "dtd", 0, 1, &[("base", 50.0), ("novel", 60.0)]),
        trial(
            "zero-shot",
            "eurosat",
            0,
            1,
            &[("base", 40.0), ("novel", 30.0)],
        ),
        trial("coop", "dtd", 16, 1, &[("base", 80.0), ("novel", 50.0)]),
        trial("coop", "dtd", 16, 2, &[("base", 84.0), ("novel", 40.0)]),
        trial("coop", "eurosat", 16, 1, &[("base", 90.0), ("novel", 60.0)]),
        trial("coop", "eurosat", 16, 2, &[("base", 92.0), ("novel", 52.0)]),
    ];
    Loaded {
        records,
        ..Loaded::default()
    }
}

fn named(loaded: &Loaded, slug: &str) -> Table {
    let all = tables(&Summary::new(loaded));
    let slugs: Vec<_> = all.iter().map(|t| t.slug.clone()).collect();
    all.into_iter()
        .find(|t| t.slug == slug)
        .unwrap_or_else(|| panic!("{slug} is not among {slugs:?}"))
}

#[test]
fn markdown_shows_means_deviations_and_ranks() {
    let text = markdown::render(&named(&small(), "base-to-novel-average"));
    // Base 86.5 ± 2.12, novel 50.5, H 63.77 for coop; 45 and 45 for zero-shot.
    assert!(text.contains("**86.50** ± 2.12"), "{text}");
    assert!(text.contains("**63.77**"), "{text}");
    assert!(text.contains("<ins>45.00</ins>"), "{text}");
    assert!(text.contains("not an average of H"), "{text}");
}

#[test]
fn latex_is_booktabs_with_the_same_figures() {
    let text = latex::render(&named(&small(), "base-to-novel-16-shots"));
    for part in [
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "\\multicolumn{4}{l}{\\textit{dtd}}",
        "\\textbf{82.00} {\\scriptsize$\\pm$ 2.83}",
        "\\underline{50.00}",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let opened = text.matches('{').count() - text.matches("\\{").count();
    let closed = text.matches('}').count() - text.matches("\\}").count();
    assert_eq!(opened, closed);
}

#[test]
fn csv_has_unrounded_figures_and_seeds() {
    let text = csv::render(&named(&small(), "base-to-novel-16-shots"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "dataset,method,Base,Base sd,Base seeds,Novel,Novel sd,Novel seeds,H,H sd,H seeds"
    );
    assert!(
        lines.contains(&"dtd,CoOp,82.0000,2.8284,2,45.0000,7.0711,2,58.1102,,2"),
        "{text}"
    );
    assert!(
        lines.contains(&"eurosat,Zero-shot CLIP,40.0000,,1,30.0000,,1,34.2857,,1"),
        "{text}"
    );
}

#[test]
fn gaps_are_dashes_with_a_footnote_and_no_average() {
    let mut loaded = small();
    loaded.records[3] = failed("coop", "dtd", 16, 2, "the loss became NaN");
    let table = named(&loaded, "base-to-novel-16-shots");
    assert_eq!(
        table.notes,
        ["CoOp, dtd, 16 shots: 1 of 2 seeds (1 failed)"]
    );
    assert_eq!(table.groups[0].label, "Average");
    assert!(
        table.groups[0].rows[1]
            .entries
            .iter()
            .all(|e| *e == Entry::Gap)
    );
    let text = markdown::render(&table);
    assert!(
        text.contains("| CoOp           |                - |"),
        "{text}"
    );
    assert!(text.contains("1 of 2 seeds (1 failed)"), "{text}");
    let text = csv::render(&table);
    assert!(text.contains("dtd,CoOp,,,,,,,,,\n"), "{text}");
    let text = terminal(&loaded);
    assert!(text.contains("the loss became NaN"), "{text}");
}

#[test]
fn ties_as_printed_share_their_rank() {
    let mut loaded = small();
    loaded.records[0].tests[0] = sample::test("dtd", "base", 82.0);
    let table = named(&loaded, "base-to-novel-16-shots");
    assert_eq!(
        (table.rank(1, 0, 0), table.rank(1, 1, 0)),
        (Rank::Best, Rank::Best)
    );
    assert_eq!(
        (table.rank(1, 0, 1), table.rank(1, 1, 1)),
        (Rank::Best, Rank::Second)
    );
}

#[test]
fn untrained_methods_stand_once_against_shots() {
    let loaded = sample::sweep(
        &few_shot::PROTOCOL,
        &["zero-shot", "coop"],
        &["dtd", "eurosat"],
        &[1, 16],
    );
    let table = named(&loaded, "few-shot-by-shots");
    assert_eq!(table.columns, ["0 shots", "1 shot", "16 shots"]);
    let kinds = |r: usize| {
        table.groups[0].rows[r]
            .entries
            .iter()
            .map(|e| e.figure().is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(0), [true, false, false]);
    assert_eq!(kinds(1), [false, true, true]);
    assert!(table.notes.is_empty(), "{:?}", table.notes);
}

#[test]
fn the_terminal_fits_a_hundred_columns_with_ten_methods() {
    for protocol in [
        &base_to_novel::PROTOCOL,
        &few_shot::PROTOCOL,
        &cross_dataset::PROTOCOL,
    ] {
        let loaded = sample::sweep(
            protocol,
            &sample::METHODS,
            &sample::DATASETS,
            &[1, 2, 4, 8, 16],
        );
        let text = terminal(&loaded);
        let widest = text.lines().map(|l| l.chars().count()).max().unwrap();
        assert!(widest <= 100, "{widest} columns:\n{text}");
        for dataset in sample::DATASETS {
            assert!(text.contains(dataset), "{dataset} is not in {text}");
        }
        if std::env::var_os("PROMPTBED_LOOK").is_some() {
            eprintln!("{text}");
        }
    }
}

#[test]
fn every_protocol_writes_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let mut loaded = Loaded::default();
    for protocol in [
        &base_to_novel::PROTOCOL,
        &few_shot::PROTOCOL,
        &cross_dataset::PROTOCOL,
        &domain_generalization::PROTOCOL,
        &test_time::PROTOCOL,
    ] {
        let one = sample::sweep(
            protocol,
            &["zero-shot", "coop"],
            &["dtd", "eurosat", "ucf101"],
            &[1, 16],
        );
        loaded.records.extend(one.records);
    }
    let files = render_all(&loaded, dir.path()).unwrap();
    assert!(files.len() >= 8 * 3, "{files:?}");
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!text.contains("NaN"), "{}: {text}", file.display());
    }
    // The same records give the same bytes.
    let again = tempfile::tempdir().unwrap();
    for (a, b) in files.iter().zip(render_all(&loaded, again.path()).unwrap()) {
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }
}

#[test]
fn hostile_names_do_not_break_a_table() {
    let mut loaded = small();
    for record in &mut loaded.records {
        if record.method == "coop" {
            record.method = "a|b_c & 100%".to_owned();
        }
    }
    let table = named(&loaded, "base-to-novel-average");
    assert!(markdown::render(&table).contains("a\\|b\\_c & 100%"));
    assert!(latex::render(&table).contains("a|b\\_c \\& 100\\%"));
}

#[test]
fn an_empty_folder_says_so() {
    assert_eq!(terminal(&Loaded::default()), "No trial here yet.\n");
}

#[test]
fn tables_as_published_say_so_and_overwrite_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let files = render_all_as(&small(), dir.path(), Spread::AsPublished).unwrap();
    for file in &files {
        assert!(
            file.file_stem()
                .unwrap()
                .to_string_lossy()
                .ends_with("-as-published")
        );
    }
    let text = std::fs::read_to_string(&files[0]).unwrap();
    assert!(text.contains("population standard deviation"), "{text}");
    assert!(terminal_as(&small(), Spread::AsPublished).starts_with("As the published scripts"));
}
