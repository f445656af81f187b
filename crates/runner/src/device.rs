//! Where towers run: on the processor, or on one card that all of a process shares.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clip::Clip;
use gpu::Gpu;

use crate::run::suite::Precision;

/// Says where towers run, where the command line does not.
const VARIABLE: &str = "PROMPTBED_DEVICE";
/// The processor, as users and records write it.
pub const PROCESSOR: &str = "cpu";

/// Where a user wants towers to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// On the processor.
    #[default]
    Processor,
    /// On the first card where one opens, else on the processor.
    Auto,
    /// On this card, from 0.
    Card(usize),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().ok().filter(|_| !n.starts_with('+'));
        let card = || match text.strip_prefix("cuda")? {
            "" => Some(0),
            rest => number(rest.strip_prefix(':')?),
        };
        match text {
            PROCESSOR => Ok(Self::Processor),
            "auto" => Ok(Self::Auto),
            _ => card().map(Self::Card).ok_or_else(|| {
                "must be auto, cpu, cuda or cuda:N with N the number of a card from 0".to_owned()
            }),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor => f.write_str(PROCESSOR),
            Self::Auto => f.write_str("auto"),
            Self::Card(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What a command line says of the device.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OnDevice {
    /// Where towers run: cpu, cuda (the first NVIDIA GPU), cuda:N, or auto (a GPU where one opens, else cpu) [default:
    /// PROMPTBED_DEVICE, else cpu: the path over GPUs has never run on a real one, and last digits differ between devices]
    #[arg(long, value_name = "DEVICE")]
    device: Option<Wanted>,
}

impl OnDevice {
    /// What the command line says, or else the environment.
    ///
    /// # Errors
    /// An environment that says something else.
    pub fn said(&self) -> Result<Option<Wanted>> {
        if self.device.is_some() {
            return Ok(self.device);
        }
        let Some(text) = std::env::var_os(VARIABLE).filter(|t| !t.is_empty()) else {
            return Ok(None);
        };
        let text = text.to_string_lossy();
        let read = text.parse().map_err(anyhow::Error::msg);
        read.map(Some).with_context(|| format!("{VARIABLE}={text}"))
    }

    /// Opens what was asked for.
    ///
    /// # Errors
    /// Those of [`OnDevice::said`] and [`Device::open`].
    pub fn open(&self) -> Result<Device> {
        Device::open(self.said()?.unwrap_or_default())
    }

    /// Refuses a card: `what` runs on the processor. An environment that names one is only told so.
    ///
    /// # Errors
    /// Where the command line names a card.
    pub fn refuse(&self, what: &str) -> Result<()> {
        match (self.device, self.said()?) {
            (Some(Wanted::Card(_)), _) => {
                bail!("--device: {what} runs on the processor only; leave --device away")
            }
            (None, Some(Wanted::Card(_) | Wanted::Auto)) | (Some(Wanted::Auto), _) => {
                crate::say!("note: device: cpu; {what} runs on the processor only");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What a command line says of the device and, where no suite says it, of the precision there.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct InPrecision {
    #[command(flatten)]
    on: OnDevice,
    /// Numbers that a GPU multiplies: float32, tf32 (inputs rounded to 11 bits) or half (weights and inputs in half
    /// precision). Sums are float32.
    #[arg(long, value_name = "NAME", default_value = "float32", value_parser = precision)]
    precision: Precision,
}

fn precision(text: &str) -> Result<Precision, String> {
    let all = [Precision::Float32, Precision::Tf32, Precision::Half];
    let found = all.into_iter().find(|p| p.name() == text);
    found.ok_or_else(|| "must be float32, tf32 or half".to_owned())
}

impl InPrecision {
    /// Opens what was asked for.
    ///
    /// # Errors
    /// Those of [`OnDevice::open`]; a precision that the processor has not.
    pub fn open(&self) -> Result<Place> {
        let place = self.on.open()?.with(self.precision);
        place.map_err(|e| anyhow::anyhow!("--precision: {e}"))
    }
}

/// The processor, or a card that is open.
#[derive(Clone, Debug, Default)]
pub struct Device(Option<Gpu>);

impl Device {
    /// Opens what a user wants. Which it was is said where that was left open.
    ///
    /// # Errors
    /// A card that was asked for and cannot be used, and what it lacks.
    pub fn open(wanted: Wanted) -> Result<Self> {
        match wanted {
            Wanted::Processor => Ok(Self(None)),
            Wanted::Card(n) => {
                let opened = Gpu::open(n).with_context(|| format!("--device {wanted}"));
                opened.map(|gpu| Self(Some(gpu)))
            }
            Wanted::Auto => Ok(match Gpu::open(0) {
                Ok(gpu) => {
                    let device = Self(Some(gpu));
                    crate::say!("device: {device}");
                    device
                }
                Err(why) => {
                    crate::say!("device: {PROCESSOR}; {why}");
                    Self(None)
                }
            }),
        }
    }

    /// The same with products in `precision`.
    ///
    /// # Errors
    /// A precision that is not there, and what would be right.
    pub fn with(&self, precision: Precision) -> Result<Place, String> {
        let on_card = match precision {
            Precision::Float32 => Some(gpu::Precision::Float32),
            Precision::Tf32 => Some(gpu::Precision::Tf32),
            Precision::Half => Some(gpu::Precision::Half),
            Precision::Bfloat16 => None,
        };
        let name = precision.name();
        let card = match (&self.0, on_card) {
            (None, Some(gpu::Precision::Float32) | None) => None,
            (None, Some(_)) => {
                return Err(format!(
                    "{name:?} needs a GPU (--device cuda); on the processor write \"float32\""
                ));
            }
            (Some(_), None) => {
                return Err(format!(
                    "{name:?} is of the processor; on a GPU write \"half\", \"tf32\" or \"float32\""
                ));
            }
            (Some(gpu), Some(precision)) => Some((gpu.clone(), precision)),
        };
        Ok(Place {
            card,
            precision,
            said: Arc::default(),
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str(PROCESSOR),
            Some(gpu) => write!(f, "cuda:{} {}", gpu.ordinal(), gpu.name()),
        }
    }
}

/// Where towers run, and in what numbers.
#[derive(Clone, Debug, Default)]
pub struct Place {
    card: Option<(Gpu, gpu::Precision)>,
    precision: Precision,
    /// Notes that were said: of several CLIPs each once.
    said: Arc<Mutex<BTreeSet<String>>>,
}

impl Place {
    /// Whether it is a card.
    pub fn is_card(&self) -> bool {
        self.card.is_some()
    }

    /// The precision of products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether inputs of products are rounded, so that what is computed has other last digits than in float32.
    pub fn is_rounded(&self) -> bool {
        self.precision != Precision::Float32
    }

    /// As records write it: `cpu`, or the card's number and name, `cuda:0 NVIDIA H100 80GB HBM3`.
    pub fn device(&self) -> String {
        Device(self.card.as_ref().map(|(gpu, _)| gpu.clone())).to_string()
    }

    /// Brings a CLIP there. What of it stays on the processor is said.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn take(&self, clip: &mut Clip) -> Result<()> {
        let Some((gpu, precision)) = &self.card else {
            return Ok(());
        };
        let notes = clip
            .use_gpu(gpu, *precision)
            .with_context(|| self.device())?;
        for note in notes {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.insert(note.clone()) {
                crate::say!("note: {}: {note}", self.device());
            }
        }
        Ok(())
    }
}

/// The devices that a trial ran on, one after the other, as records write them; nothing where all was the processor.
pub fn recorded(devices: &[String]) -> Option<String> {
    let is_elsewhere = devices.iter().any(|d| d != PROCESSOR);
    is_elsewhere.then(|| devices.join(", then "))
}

/// A recorded device for a reader who counts kinds of devices: `the processor`, or a card's name without its number.
pub fn kind(recorded: Option<&str>) -> String {
    let Some(recorded) = recorded else {
        return "the processor".to_owned();
    };
    let name = |device: &str| match device.split_once(' ') {
        Some((number, name)) if number.starts_with("cuda:") => name.to_owned(),
        _ => device.replace(PROCESSOR, "the processor"),
    };
    let mut names: Vec<String> = recorded.split(", then ").map(name).collect();
    names.dedup();
    names.join(", then ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_it_is_read_and_nothing_else_is_one() {
        for text in ["cpu", "auto", "cuda:0", "cuda:12"] {
            assert_eq!(text.parse::<Wanted>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Wanted::Card(0)));
        for wrong in [
            "", "gpu", "cuda:", "cuda0", "cuda:-1", "cuda:+1", "CUDA", "metal",
        ] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_processor_has_float32_and_bfloat16_and_refuses_what_cards_have() {
        let processor = Device::default();
        for precision in [Precision::Float32, Precision::Bfloat16] {
            assert!(!processor.with(precision).unwrap().is_card());
        }
        for precision in [Precision::Tf32, Precision::Half] {
            let told = processor.with(precision).unwrap_err();
            assert!(told.contains("needs a GPU"), "{told}");
        }
    }

    #[test]
    fn records_name_every_device_of_a_trial_and_kinds_leave_numbers_out() {
        let all = |devices: &[&str]| {
            let devices: Vec<String> = devices.iter().map(|d| (*d).to_owned()).collect();
            recorded(&devices)
        };
        assert_eq!(all(&["cpu"]), None);
        assert_eq!(all(&["cpu", "cpu"]), None);
        let card = all(&["cuda:1 NVIDIA H100"]);
        assert_eq!(card.as_deref(), Some("cuda:1 NVIDIA H100"));
        assert_eq!(kind(card.as_deref()), "NVIDIA H100");
        let moved = all(&["cpu", "cuda:0 A", "cuda:1 A"]);
        assert_eq!(moved.as_deref(), Some("cpu, then cuda:0 A, then cuda:1 A"));
        assert_eq!(kind(moved.as_deref()), "the processor, then A");
        assert_eq!(kind(None), "the processor");
    }
}
