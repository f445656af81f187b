use super::*;
use crate::protocols::{
    base_to_novel, class_incremental, cross_dataset, domain_generalization, few_shot, multi_task,
    task_incremental, test_time,
};
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

const TRIED: [&str; 3] = ["zero-shot", "coop", "kgcoop"];

#[test]
fn what_is_forgotten_least_is_best() {
    let loaded = sample::sweep(
        &class_incremental::PROTOCOL,
        &TRIED,
        &["dtd", "eurosat"],
        &[4],
    );
    let table = named(&loaded, "class-incremental-measures");
    assert_eq!(table.columns, ["Average", "Last", "Forgetting", "BWT"]);
    let labels: Vec<&str> = table.groups.iter().map(|g| g.label.as_str()).collect();
    assert_eq!(labels, ["Average", "dtd", "eurosat"]);
    for (g, group) in table.groups.iter().enumerate() {
        for (column, is_falling) in [(0, false), (2, true)] {
            let mean = |r: usize| group.rows[r].entries[column].figure().unwrap().mean;
            let order = |a: &usize, b: &usize| mean(*a).total_cmp(&mean(*b));
            let best = if is_falling {
                (0..3).min_by(order)
            } else {
                (0..3).max_by(order)
            };
            assert_eq!(table.rank(g, best.unwrap(), column), Rank::Best);
        }
    }
    let sessions = named(&loaded, "class-incremental-by-session");
    assert_eq!(sessions.columns, ["1", "2", "3", "4", "5"]);
    // The average of datasets is that of their figures.
    let mean = |g: usize| sessions.groups[g].rows[1].entries[4].figure().unwrap().mean;
    assert!((mean(0) - f64::midpoint(mean(1), mean(2))).abs() < 1e-9);
    assert!(terminal(&loaded).contains("BWT"));
}

#[test]
fn what_is_learned_at_once_stands_over_what_is_learned_alone() {
    let datasets = ["dtd", "eurosat", "food101", "ucf101"];
    let mut loaded = sample::sweep(&multi_task::PROTOCOL, &TRIED, &datasets, &[4]);
    let alone = sample::sweep(&few_shot::PROTOCOL, &TRIED[..2], &datasets, &[4]);
    let by_itself = |loaded: &Loaded| named(loaded, "multi-task-average").groups.len();
    assert_eq!(by_itself(&loaded), 1);
    loaded.records.extend(alone.records);
    loaded.planned.extend(alone.planned);
    assert_eq!(by_itself(&loaded), 2);
    let table = named(&loaded, "multi-task-by-dataset-4-shots");
    let columns = ["dtd", "eurosat", "food101", "Average", "ucf101 (unseen)"];
    assert_eq!(table.columns, columns);
    let [together, apart] = &table.groups[..] else {
        panic!("{:?}", table.groups);
    };
    assert_eq!((together.rows.len(), apart.rows.len()), (3, 1));
    let mean = |row: &Row, c: usize| row.entries[c].figure().map(|f| f.mean);
    for row in together.rows.iter().chain(&apart.rows) {
        let three: Vec<f64> = (0..3).map(|c| mean(row, c).unwrap()).collect();
        let average = three.iter().sum::<f64>() / 3.0;
        assert!((mean(row, 3).unwrap() - average).abs() < 1e-9, "{row:?}");
    }
    // Nobody asks a prompt of one dataset about another.
    assert_eq!(apart.rows[0].entries[4], Entry::Blank);
    let few = named(&loaded, "few-shot-by-dataset");
    assert_eq!(mean(&few.groups[0].rows[1], 0), mean(&apart.rows[0], 0));

    let section = &Summary::new(&loaded).sections;
    let section = section
        .iter()
        .find(|s| s.protocol == &multi_task::PROTOCOL)
        .unwrap();
    let costs: Vec<_> = section.task_costs().iter().map(|c| c.row()).collect();
    assert_eq!(
        costs.len(),
        3,
        "two at once, one alone; zero-shot learns nothing"
    );
    // 2048 (1 + 4) numbers and 200 steps a training.
    let of = |row: &[String; 8]| {
        row[4..]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect::<Vec<f64>>()
    };
    assert_eq!(of(&costs[0]), [10240.0, 3413.0, 200.0, 67.0]);
    assert_eq!(of(&costs[2]), [30720.0, 10240.0, 600.0, 200.0]);
}

#[test]
fn datasets_in_a_row_have_zscls_measures() {
    let datasets = ["eurosat", "dtd", "food101"];
    let loaded = sample::sweep(&task_incremental::PROTOCOL, &TRIED, &datasets, &[4, 16]);
    let table = named(&loaded, "task-incremental-measures");
    assert_eq!(table.columns, ["Transfer", "Average", "Last", "Forgetting"]);
    let table = named(&loaded, "task-incremental-by-dataset-16-shots");
    assert_eq!(table.columns, ["eurosat", "dtd", "food101", "Average"]);
    let transfer = &table.groups[0].rows[1].entries;
    assert_eq!(transfer[0], Entry::Blank, "nothing is before the first");
    let mean = |c: usize| transfer[c].figure().unwrap().mean;
    assert!((mean(3) - f64::midpoint(mean(1), mean(2))).abs() < 1e-9);
    let zero_shot: Vec<_> = table
        .groups
        .iter()
        .map(|g| g.rows[0].entries[1].figure())
        .collect();
    assert!(zero_shot.iter().all(Option::is_some));
    let steps = named(&loaded, "task-incremental-by-step");
    assert_eq!(
        steps.columns,
        ["after eurosat", "after dtd", "after food101"]
    );
    let folder = tempfile::tempdir().unwrap();
    render_all(&loaded, folder.path()).unwrap();
    let matrix = folder.path().join("tables/task-incremental-matrix.csv");
    let matrix = std::fs::read_to_string(matrix).unwrap();
    // Nine places of zero-shot once and of two methods at two numbers of shots with three seeds.
    assert_eq!(matrix.lines().count(), 1 + 9 * (1 + 2 * 2 * 3));
    assert!(
        matrix.contains("\"coop\",eurosat+dtd+food101,4,1,eurosat,dtd,"),
        "{matrix}"
    );
}
