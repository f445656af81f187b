//! Where and by what trials ran, as records tell it.

use clip::ops::Arithmetic;
use serde::{Deserialize, Serialize};

use super::PROCESSOR;
use super::arithmetic::named;

/// What stands between one and the next of a trial that went on elsewhere.
const THEN: &str = ", then ";

/// Where the towers of a trial, or of a part of one, ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// `cpu`, or a card's number and name.
    pub device: String,
    /// What the processor multiplied by; nothing on a card.
    pub arithmetic: Option<String>,
}

impl Default for Ran {
    fn default() -> Self {
        Self::on_processor(Arithmetic::default())
    }
}

impl Ran {
    /// On the processor.
    pub fn on_processor(arithmetic: Arithmetic) -> Self {
        Self {
            device: PROCESSOR.to_owned(),
            arithmetic: Some(arithmetic.name().to_owned()),
        }
    }

    /// On a card, by its number and name.
    pub fn on_card(device: String) -> Self {
        Self {
            device,
            arithmetic: None,
        }
    }
}

/// The devices that a trial ran on, one after the other, as records write them; nothing where all was the processor.
pub fn devices(ran: &[Ran]) -> Option<String> {
    let is_elsewhere = ran.iter().any(|r| r.device != PROCESSOR);
    is_elsewhere.then(|| joined(ran.iter().map(|r| r.device.as_str())))
}

/// What the processor multiplied by, one after the other, as records write it; nothing where all was on cards.
pub fn arithmetics(ran: &[Ran]) -> Option<String> {
    let mut all = ran
        .iter()
        .filter_map(|r| r.arithmetic.as_deref())
        .peekable();
    all.peek()?;
    Some(joined(all))
}

/// Names one after the other, those that follow themselves once.
fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    names.join(THEN)
}

/// A recorded device and arithmetic for a reader who counts what differs in last digits: `the processor`, `the processor
/// (amx)`, which the emulation has the bits of, or a card's name without its number. Records that tell no arithmetic are
/// older than any but the portable one.
pub fn kind(device: Option<&str>, arithmetic: Option<&str>) -> String {
    let name = |arithmetic: &str| match named(arithmetic).map(Arithmetic::bits) {
        None | Some(Arithmetic::Portable) => "the processor".to_owned(),
        Some(other) => format!("the processor ({})", other.name()),
    };
    let all = |names: &mut dyn Iterator<Item = String>| {
        let mut names: Vec<String> = names.collect();
        names.dedup();
        names.join(THEN)
    };
    let arithmetic = arithmetic.unwrap_or(Arithmetic::Portable.name());
    let processor = all(&mut arithmetic.split(THEN).map(name));
    let Some(device) = device else {
        return processor;
    };
    let name = |device: &str| match device.split_once(' ') {
        Some((number, name)) if number.starts_with("cuda:") => name.to_owned(),
        _ => device.replace(PROCESSOR, &processor),
    };
    all(&mut device.split(THEN).map(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(places: &[&str]) -> Vec<Ran> {
        let one = |place: &&str| match named(place) {
            Some(arithmetic) => Ran::on_processor(arithmetic),
            None => Ran::on_card((*place).to_owned()),
        };
        places.iter().map(one).collect()
    }

    fn told(places: &[&str]) -> (Option<String>, Option<String>, String) {
        let ran = ran(places);
        let (device, arithmetic) = (devices(&ran), arithmetics(&ran));
        let kind = kind(device.as_deref(), arithmetic.as_deref());
        (device, arithmetic, kind)
    }

    #[test]
    fn records_name_every_device_of_a_trial_and_kinds_leave_numbers_out() {
        let said = |places: &[&str], device: Option<&str>, arithmetic: Option<&str>, kind: &str| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let wanted = (owned(device), owned(arithmetic), kind.to_owned());
            assert_eq!(told(places), wanted, "{places:?}");
        };
        said(&["portable"], None, Some("portable"), "the processor");
        said(&["portable"; 2], None, Some("portable"), "the processor");
        let card = "cuda:1 NVIDIA H100";
        said(&[card], Some(card), None, "NVIDIA H100");
        said(
            &["portable", "cuda:0 A", "cuda:1 A"],
            Some("cpu, then cuda:0 A, then cuda:1 A"),
            Some("portable"),
            "the processor, then A",
        );
        said(
            &["amx", "cuda:0 A", "amx"],
            Some("cpu, then cuda:0 A, then cpu"),
            Some("amx"),
            "the processor (amx), then A, then the processor (amx)",
        );
        assert_eq!(kind(None, None), "the processor", "an older record");
    }

    #[test]
    fn the_emulation_is_recorded_as_such_and_is_of_the_units_kind() {
        let (_, arithmetic, kind) = told(&["emulated"]);
        assert_eq!(arithmetic.as_deref(), Some("emulated"));
        assert_eq!(kind, told(&["amx"]).2);
        let (_, arithmetic, kind) = told(&["amx", "emulated", "portable"]);
        let wanted = "amx, then emulated, then portable";
        assert_eq!(arithmetic.as_deref(), Some(wanted));
        assert_eq!(kind, "the processor (amx), then the processor");
    }
}
