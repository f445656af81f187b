//! A recorded run of AttriCLIP's sessions, replayed.

use candle_core::{DType, Result, Tensor, bail};

use super::AttriClipConfig;
use crate::optimizer::{Optimizer, Rule};
use crate::parts::shots;
use crate::replay::{Comparison, Stage};
use crate::{Images, Init, Method, load_parameters, step};

/// Sessions one after the other: steps, the bank, choices, logits and accuracies behind each.
pub(super) fn replayed(stage: &Stage, c: &mut Comparison) -> Result<()> {
    let r = stage.recording;
    let table = r.settings(&[
        ("n_ctx", "n_ctx"),
        ("num_prompt", "num_prompt"),
        ("top_k", "top_k"),
        ("key_weight", "key_weight"),
        ("orth_weight", "orthogonal_weight"),
    ])?;
    let config = stage.typed(table, AttriClipConfig::read)?;
    let Some(sessions) = r.field("sessions") else {
        bail!("sessions: must be lists of names");
    };
    let sessions: Vec<Vec<String>> =
        serde_json::from_value(sessions.clone()).map_err(candle_core::Error::wrap)?;
    let first = r.classes_of(sessions.first().map_or(&[][..], |s| s));
    let mut method = config.method(&stage.clip, &first, &mut Init::seeded(0))?;
    let mut values = r.named("init.");
    for (name, var) in method.parameters() {
        // A variable cannot be set to what it holds itself.
        let own = var.as_detached_tensor().copy()?;
        values.entry(name).or_insert(own);
    }
    load_parameters(&method, &values)?;

    let of_steps = r.numbers("sessions")?.unwrap_or_default();
    let losses = r.numbers("loss")?.unwrap_or_default();
    let parts: Vec<Vec<f64>> = r.get("loss.parts")?.to_dtype(DType::F64)?.to_vec2()?;
    let test = r.get("test_images")?;
    let labels: Vec<u32> = r.get("test_labels")?.to_dtype(DType::U32)?.to_vec1()?;
    let weights = [1.0, config.key_weight, config.orthogonal_weight];
    let mut seen: Vec<String> = Vec::new();
    let mut matrix: Vec<Vec<f64>> = Vec::new();
    for (session, names) in sessions.iter().enumerate() {
        let offset = seen.len() as u32;
        method.bind(&r.classes_of(names))?;
        method.begin()?;
        let (momentum, decay) = (r.number("momentum")?, r.number("weight_decay")?);
        let mut optimizer = Optimizer::new(Rule::Sgd, momentum, decay);
        let own = (0..of_steps.len()).filter(|number| of_steps[*number] == session as f64);
        for number in own {
            let mut batch = r.batch(number)?;
            batch.labels = batch
                .labels
                .broadcast_sub(&Tensor::new(offset, batch.labels.device())?)?;
            let images = batch.images.unit_features(&stage.clip)?;
            let name = format!("selected of step {number}");
            let selected = r.get("selected")?.get(number)?;
            c.choice(&name, method.choices(&images)?, recorded(&selected)?);
            let done = step(&mut method, &mut optimizer, &batch, r.rate(number)?)?;
            c.loss(done.value, losses[number]);
            for (((_, part), weight), want) in
                done.loss.parts.iter().zip(weights).zip(&parts[number])
            {
                c.loss_of(&(part / weight)?, *want)?;
            }
            if let (0, Some(gradients)) = (number, &done.gradients) {
                for (name, var) in method.parameters().into_iter().take(2) {
                    let Some(ours) = gradients.get(var.as_tensor()) else {
                        bail!("no gradient for {name}");
                    };
                    c.gradient(&name, ours, r.get(&format!("grad0.{name}"))?)?;
                }
            }
            c.steps += 1;
        }
        method.finish()?;
        for (name, var) in method.parameters().into_iter().take(2) {
            let want = r.get(&format!("session{session}.{name}"))?;
            c.values(&name, &var.as_detached_tensor(), want)?;
        }
        seen.extend(names.iter().cloned());
        method.bind(&r.classes_of(&seen))?;
        let logits = r.get(&format!("logits.session{session}"))?;
        let images = Images::Pixels(test.narrow(0, 0, logits.dim(0)?)?);
        let scores = method.predictor()?.logits(&images)?;
        c.logits(&scores, logits)?;
        let name = format!("selected.session{session}");
        let choices = method.choices(&images.unit_features(&stage.clip)?)?;
        c.choice(&name, choices, recorded(r.get(&name)?)?);
        let labels = &labels[..logits.dim(0)?];
        let right = shots::hits(&scores, labels)? as f64 / labels.len() as f64;
        c.chosen(
            "session_accuracy",
            right,
            r.at(&format!("/session_accuracy/{session}")),
        );
        let mut row = Vec::new();
        let mut end = 0;
        for (past, names) in sessions[..=session].iter().enumerate() {
            let classes = end as u32..(end + names.len()) as u32;
            end += names.len();
            let own: Vec<u32> = (0u32..)
                .zip(labels)
                .filter(|(_, label)| classes.contains(label))
                .map(|(row, _)| row)
                .collect();
            let of_own: Vec<u32> = own.iter().map(|row| labels[*row as usize]).collect();
            let scores = scores.index_select(&Tensor::new(&own[..], scores.device())?, 0)?;
            let right = shots::hits(&scores, &of_own)? as f64 / own.len() as f64;
            let place = format!("/accuracy_matrix/{session}/{past}");
            c.chosen(
                &format!("accuracy_matrix[{session}][{past}]"),
                right,
                r.at(&place),
            );
            row.push(right);
        }
        matrix.push(row);
    }
    for (name, var) in method.parameters().into_iter().take(2) {
        c.values(
            &name,
            &var.as_detached_tensor(),
            r.get(&format!("final.{name}"))?,
        )?;
    }
    let Some((last, before)) = matrix.split_last() else {
        bail!("sessions: there are none");
    };
    let forgotten = (0..before.len()).map(|past| {
        let best = before.iter().filter_map(|row| row.get(past));
        best.fold(f64::MIN, |a, b| a.max(*b)) - last[past]
    });
    let forgetting = forgotten.sum::<f64>() / before.len() as f64;
    c.chosen("forgetting", forgetting, r.at("/forgetting"));
    Ok(())
}

/// Recorded choices, `[B, k]`.
fn recorded(choices: &Tensor) -> Result<Vec<Vec<u32>>> {
    choices.to_dtype(DType::U32)?.to_vec2()
}
