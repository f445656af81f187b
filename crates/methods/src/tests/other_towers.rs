//! Every method on a BiomedCLIP and on a SigLIP of drawn weights: each trains, or says before its first step why not.

use std::path::Path;

use super::*;
use crate::Sees;
use candle_core::Result;

fn clip_of(family: &str) -> Arc<Clip> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clip/tests/fixtures");
    Arc::new(Clip::load(&fixtures.join(family)).unwrap_or_else(|e| panic!("{e}")))
}

/// What a method does with its pictures: trains on a batch, and scores.
fn runs(entry: &Entry, mut method: Box<dyn Method>) -> Result<()> {
    let needs = entry.default_config().needs();
    let pictures = match needs.sees {
        Sees::Views { .. } => Images::Pixels(pixels(20, 77)),
        _ => batch().images,
    };
    if entry.training.is_some() {
        let loss = method.loss(&batch())?;
        let gradients = method.gradients(&loss)?;
        for (name, var) in method.trained_now() {
            let gradient = gradients.get(var.as_tensor());
            let gradient = gradient.unwrap_or_else(|| panic!("{}: {name}", entry.name));
            assert!(
                flat(gradient).iter().all(|g| g.is_finite()),
                "{}: {name}",
                entry.name
            );
        }
    }
    let logits = method.predictor()?.logits(&pictures)?;
    assert!(
        flat(&logits).iter().all(|l| l.is_finite()),
        "{}",
        entry.name
    );
    Ok(())
}

/// Names of the methods that run on `family`; the others say why not when they are built, in one line with `told`.
fn running(family: &str, told: &str) -> Vec<&'static str> {
    let clip = clip_of(family);
    let mut running = Vec::new();
    for entry in METHODS {
        // Whoever runs them refuses these where an image tower takes no prompts (`backbone::takes`).
        let sees = entry.default_config().needs().sees;
        if sees == Sees::Pixels && clip.transformer().is_err() {
            continue;
        }
        match build_for(entry, "", &clip, &base()) {
            Ok(method) => {
                let ran = runs(entry, method);
                assert!(
                    ran.is_ok(),
                    "{} on {family}: {}",
                    entry.name,
                    ran.unwrap_err()
                );
                running.push(entry.name);
            }
            Err(refused) => {
                let refused = refused.to_string();
                // AttriCLIP's 36 vectors are too many where the tokenizer has two tokens for a placeholder.
                assert!(
                    refused.contains(told) || refused.contains("so shorten it"),
                    "{} on {family}: {refused}",
                    entry.name
                );
            }
        }
    }
    running
}

#[test]
fn every_method_trains_on_a_bert_text_tower_or_says_why_not_before_its_first_step() {
    let running = running("biomedclip", "(BERT)");
    for name in [
        "zero-shot",
        "coop",
        "cocoop",
        "kgcoop",
        "prograd",
        "maple",
        "tip-adapter-f",
        "clip-adapter",
    ] {
        assert!(running.contains(&name), "{name}: {running:?}");
    }
}

#[test]
fn every_method_without_picture_prompts_trains_on_a_siglip() {
    for family in ["siglip", "siglip2", "siglip-transformers"] {
        let running = running(family, "(SigLIP)");
        for name in [
            "zero-shot",
            "coop",
            "cocoop",
            "kgcoop",
            "prograd",
            "tip-adapter-f",
        ] {
            assert!(running.contains(&name), "{family}: {name}: {running:?}");
        }
    }
}

#[test]
fn context_made_of_words_scores_as_these_words_do_in_every_wording() {
    for family in ["biomedclip", "siglip", "siglip2"] {
        let clip = clip_of(family);
        let images = batch().images;
        let photo = build("zero-shot", "templates = \"photo\"", &clip);
        let words = build("coop", "init = \"a photo of a\"", &clip);
        let gap = largest_gap(
            &logits(words.as_ref(), &images),
            &logits(photo.as_ref(), &images),
        );
        assert!(gap < 1e-4, "{family}: {gap}");
    }
}
