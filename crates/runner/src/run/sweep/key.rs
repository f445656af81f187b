//! The key of a trial: what tells that it has been run before.

use std::collections::BTreeMap;

use methods::Sees;
use serde_json::Value;

use super::{RESULTS, Sweep};
use crate::protocols::Stage;
use crate::run::plan;
use crate::run::suite::{Line, Precision, Resolved};
use crate::start;
use crate::store::Planned;

impl Sweep {
    /// A readable name and a hash of everything that can change the result.
    pub(super) fn key(
        &self,
        p: &Planned,
        line: &Line,
        method: &Resolved,
        picks: &BTreeMap<String, String>,
    ) -> String {
        let own = self.start(p);
        let targets: Vec<[String; 3]> = self
            .targets(p, line)
            .iter()
            .map(|t| {
                [
                    t.feed.dataset.id.clone(),
                    t.feed.split_hash().to_owned(),
                    t.feed.dataset.template.clone(),
                ]
            })
            .collect();
        let mut all = serde_json::json!({
            "results": RESULTS,
            "algorithm": p.algorithm,
            "settings": method.settings,
            "protocol": p.protocol,
            "views": self.suite.views.to_string(),
            "backbone": self.clip.identity(),
            "split": one_or_all(own.iter().map(|f| f.split_hash())),
            "template": one_or_all(own.iter().map(|f| f.dataset.template.as_str())),
            "targets": targets,
            "picks": picks.get(&p.dataset),
            "seed": p.seed,
        });
        // Named only where a row says so, so that no other trial gets another key.
        let unmirrored = own.iter().filter(|f| !f.dataset.flip);
        let unmirrored: Vec<&str> = unmirrored.map(|f| f.dataset.id.as_str()).collect();
        if !unmirrored.is_empty() {
            all["without_flip"] = unmirrored.into();
        }
        if matches!(method.config.needs().sees, Sees::Views { augmix: true, .. }) {
            let targets = self.targets(p, line);
            let plain = targets
                .iter()
                .map(|t| &t.feed.dataset)
                .filter(|d| !d.augmix);
            let plain: Vec<&str> = plain.map(|d| d.id.as_str()).collect();
            // Named only where a row leaves AugMix out, so that no other trial gets another key.
            if !plain.is_empty() {
                all["without_augmix"] = plain.into();
            }
        }
        if self.suite.precision != Precision::default() {
            all["precision"] = self.suite.precision.name().into();
        }
        // By its bits, and only where the suite fixes it: otherwise any machine may go on with a run.
        if let Some(arithmetic) = self.suite.arithmetic {
            all["arithmetic"] = arithmetic.bits().name().into();
        }
        // As is what happens in which order, where that does not go without saying,
        let stages = plan::stages(&self.suite, p.protocol, &p.dataset);
        if stages.len() > 1 || stages.iter().any(|stage| stage.train.len() > 1) {
            let told = |stage: Stage| serde_json::json!([stage.train, stage.tests]);
            all["stages"] = stages.into_iter().map(told).collect();
        }
        // the pictures of further datasets that are learned,
        let others = picks.iter().filter(|(id, _)| **id != p.dataset);
        let others: BTreeMap<&String, &String> = others.collect();
        if !others.is_empty() {
            all["picks_of"] = serde_json::to_value(&others).expect("texts serialise");
        }
        // and what few methods need.
        if let Some(teacher) = self.teacher(line) {
            all["teacher"] = teacher.identity().into();
        }
        if let Some(taught) = self.taught(line, &p.dataset) {
            all["teacher_prompts"] = taught.hash.clone().into();
        }
        if let Some(path) = &line.descriptions {
            let read = |id: &String| self.descriptions.get(&(path.clone(), id.clone()));
            let all_read: Vec<_> = self.feeds.keys().filter_map(read).collect();
            let text = serde_json::to_string(&all_read.iter().map(|d| &***d).collect::<Vec<_>>());
            let text = text.expect("texts serialise");
            all["descriptions"] = crate::hash::hex(text.as_bytes()).into();
        }
        let hash = crate::hash::hex(all.to_string().as_bytes());
        format!(
            "{}-{}-{}shot-seed{}-{}",
            p.method,
            start::short(&p.dataset),
            p.shots,
            p.seed,
            &hash[..10]
        )
    }
}

/// A list; where it is of one thing, that alone.
fn one_or_all<'a>(mut values: impl ExactSizeIterator<Item = &'a str>) -> Value {
    match values.len() {
        1 => values.next().into(),
        _ => values.collect::<Vec<_>>().into(),
    }
}

/// The hash of one thing as it is, of several the hash over theirs; empty of none.
pub(super) fn one_hash<'a>(hashes: impl Iterator<Item = &'a str>) -> String {
    let hashes: Vec<&str> = hashes.collect();
    match hashes[..] {
        [] => String::new(),
        [one] => one.to_owned(),
        _ => crate::hash::hex(hashes.join(" ").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use datasets::Catalogue;

    use super::*;
    use crate::backbone;
    use crate::run::feed;
    use crate::run::suite::Suite;

    /// The key of the only trial of a suite with this line in it.
    fn key(line: &str) -> String {
        let text = format!(
            "version = 1\nprotocol = \"few-shot\"\ndatasets = \"drawn-textures\"\nshots = [1]\nseeds = [1]\n{line}\n\
             [[method]]\nname = \"coop\"\n"
        );
        let catalogue = Catalogue::built_in();
        let suite = Suite::of_text(text, Path::new("suite.toml"), &feed::known(&catalogue));
        let told = backbone::Told::default();
        let weights = backbone::weights(backbone::SHIPPED, None, &told).unwrap();
        let clip = backbone::shipped().unwrap();
        let sizes = weights.architecture.clone();
        let no_teachers = BTreeMap::new();
        let sweep = Sweep::new(
            suite.unwrap(),
            clip,
            sizes,
            &catalogue,
            None,
            None,
            no_teachers,
        );
        sweep.unwrap().trials[0].planned.key.clone()
    }

    #[test]
    fn an_arithmetic_is_part_of_the_key_by_its_bits_where_the_suite_fixes_it() {
        let [portable, amx, emulated] =
            clip::ops::Arithmetic::ALL.map(|a| key(&format!("arithmetic = {:?}", a.name())));
        assert_eq!(amx, emulated, "one is as good as the other");
        assert_ne!(amx, portable);
        let open = key("");
        assert!(open != amx && open != portable);
    }
}
