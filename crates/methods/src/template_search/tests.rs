use super::*;
use crate::tests::{base, batch, clip, logits, pixels};
use crate::{Images, find};

fn given() -> Shots {
    let labelled = |seed| Labelled {
        passes: vec![Images::Pixels(pixels(12, seed))],
        labels: (0..12).map(|i| i / 4).collect(),
    };
    Shots {
        train: labelled(5),
        validation: Some(labelled(6)),
        test: None,
        seed: 1,
    }
}

fn run(config: &str, rounds: u64) -> (Box<dyn Method>, Vec<f64>) {
    let reading = find("template-search")
        .unwrap()
        .read(config.parse().unwrap());
    assert_eq!(reading.problems, []);
    let on = clip().into();
    let mut method = reading
        .config
        .build(&on, &base(), &mut Init::seeded(1))
        .unwrap();
    let losses = (0..rounds).map(|n| method.search(&given(), n).unwrap().loss);
    let losses = losses.collect();
    (method, losses)
}

fn told(method: &dyn Method, name: &str) -> Value {
    let found = method.found().into_iter();
    found
        .filter(|(n, _)| *n == name)
        .map(|(_, v)| v)
        .next()
        .unwrap()
}

#[test]
fn what_is_found_is_no_worse_than_any_candidate_and_scores_as_zero_shot_with_it() {
    for (by, name) in [
        ("accuracy", "accuracy on the shots"),
        ("loss", "loss on the shots"),
    ] {
        let config = format!("budget = 50\nper_round = 10\nstart = 20\nby = \"{by}\"");
        let (mut method, losses) = run(&config, 5);
        assert!(losses.is_sorted_by(|a, b| a >= b), "{losses:?}");
        // Four pictures a class leave accuracy few steps; the loss has all.
        let better = losses[4] < losses[if by == "loss" { 1 } else { 0 }];
        assert!(better, "proposals find better ones: {losses:?}");
        method.finish().unwrap();
        assert_eq!(told(method.as_ref(), "candidates scored"), 50);
        let best = told(method.as_ref(), name).as_f64().unwrap();
        let want = if by == "loss" {
            losses[4]
        } else {
            100.0 * (1.0 - losses[4])
        };
        assert!((best - want).abs() < 1e-9, "{best} {want}");
        // Zero-shot with that template, on shots and on what was held out.
        let template = told(method.as_ref(), "template");
        let classes = Classes {
            template: template.as_str().unwrap().to_owned(),
            ..base()
        };
        let zero_shot = find("zero-shot").unwrap().default_config();
        let plain = zero_shot
            .build(&clip().into(), &classes, &mut Init::seeded(1))
            .unwrap();
        let images = batch().images;
        let scores = [method.as_ref(), plain.as_ref()].map(|m| logits(m, &images));
        let gap = scores[0].iter().zip(&scores[1]).map(|(a, b)| (a - b).abs());
        assert!(gap.fold(0.0, f32::max) < 1e-5, "{scores:?}");
        let given = given();
        let accuracy = |of: &Labelled| {
            let scores = plain.predictor().unwrap().logits(&of.passes[0]).unwrap();
            percent(shots::hits(&scores, &of.labels).unwrap(), 12)
        };
        assert_eq!(
            told(method.as_ref(), "accuracy on the shots"),
            accuracy(&given.train)
        );
        let held_out = told(method.as_ref(), "accuracy held out");
        assert_eq!(held_out, accuracy(given.validation.as_ref().unwrap()));
    }
}

#[test]
fn hand_written_ones_come_first_and_a_budget_is_kept() {
    let (method, _) = run("budget = 7\nper_round = 5\nheld_out = false", 2);
    assert_eq!(told(method.as_ref(), "candidates scored"), 7);
    let state: BTreeMap<String, Tensor> = method.state().into_iter().collect();
    let pool = text_of(POOL, &state[POOL]).unwrap();
    let mut lines = pool.lines();
    assert_eq!(lines.next(), Some(base().template.as_str()));
    assert_eq!(lines.next(), Some(templates::PHOTO));
    assert_eq!(method.found().len(), 4);
}

#[test]
fn a_proposer_is_shown_the_best_and_the_worst_and_told_what_is_no_template() {
    let config = "budget = 8\nper_round = 4\nstart = 4\nkeep = 2\nproposer = [\"ask\", \"me\"]";
    let (mut method, _) = run(config, 1);
    let question = method.asks().unwrap();
    assert_eq!(question.command, ["ask", "me"]);
    let of = |name: &str| question.request[name].clone();
    assert_eq!((of("round"), of("want")), (1.into(), 4.into()));
    assert_eq!(of("best").as_array().unwrap().len(), 2);
    assert_eq!(of("classes")[1], "sea lake");
    let (best, worst) = (&of("best")[0], &of("worst")[0]);
    assert!(best["accuracy"].as_f64() >= worst["accuracy"].as_f64());
    let lines = [
        "{\"template\": \"a large photo of a {}.\"}",
        "no JSON",
        "{\"text\": \"{}\"}",
        "{\"template\": \"nowhere\"}",
        "{\"template\": \"a quokka of a {}\"}",
        "{\"template\": \"a large photo of a {}.\"}",
    ];
    let wrong = method.answered(&lines.map(str::to_owned)).unwrap();
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    assert!(wrong[0].starts_with("line 2 is no JSON") && wrong[3].contains("quokka"));
    let round = method.search(&given(), 1).unwrap();
    assert_eq!(round.scored, 1);
    assert_eq!(told(method.as_ref(), "lines refused"), 4);
}
