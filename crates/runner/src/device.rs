//! Where towers run: on the processor, or on one card that all of a process shares.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use clip::Clip;
use clip::ops::Arithmetic;
use gpu::Gpu;

use crate::run::suite::Precision;

pub mod arithmetic;
pub mod ran;

use arithmetic::{InArithmetic, Said};
use ran::Ran;

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

/// What a command line says of the device and of what the processor multiplies by.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OnMachine {
    #[command(flatten)]
    on: OnDevice,
    #[command(flatten)]
    by: InArithmetic,
}

impl OnMachine {
    /// What it says of the device; see [`OnDevice::said`].
    ///
    /// # Errors
    /// As [`OnDevice::said`].
    pub fn device(&self) -> Result<Option<Wanted>> {
        self.on.said()
    }

    /// What it and the environment say of the arithmetic.
    ///
    /// # Errors
    /// As [`InArithmetic::said`].
    pub fn arithmetic(&self) -> Result<Said> {
        self.by.said()
    }

    /// Opens what was asked for.
    ///
    /// # Errors
    /// Those of [`OnDevice::said`], [`InArithmetic::said`] and [`Device::open`].
    pub fn open(&self) -> Result<Device> {
        let said = self.arithmetic()?;
        let device = Device::open(self.device()?.unwrap_or_default())?;
        Ok(Device { said, ..device })
    }

    /// The processor of machines that are not this one, which is not asked what it can do.
    ///
    /// # Errors
    /// As [`InArithmetic::said`].
    pub fn elsewhere(&self) -> Result<Device> {
        Ok(Device {
            said: self.arithmetic()?,
            is_elsewhere: true,
            ..Device::default()
        })
    }
}

/// What a command line says of the machine and, where no suite says it, of the precision there.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct InPrecision {
    #[command(flatten)]
    on: OnMachine,
    /// Numbers that are multiplied: float32; on a GPU tf32 (inputs rounded to 11 bits) or half (weights and inputs in half
    /// precision); by amx or emulated bfloat16x3 (inputs as two halves). Sums are float32.
    #[arg(long, value_name = "NAME", default_value = "float32", value_parser = precision)]
    precision: Precision,
}

fn precision(text: &str) -> Result<Precision, String> {
    let all = [
        Precision::Float32,
        Precision::Tf32,
        Precision::Half,
        Precision::Bfloat16x3,
    ];
    let found = all.into_iter().find(|p| p.name() == text);
    found.ok_or_else(|| "must be float32, tf32, half or bfloat16x3".to_owned())
}

impl InPrecision {
    /// Opens what was asked for.
    ///
    /// # Errors
    /// Those of [`OnMachine::open`]; a precision or an arithmetic that the device has not.
    pub fn open(&self) -> Result<Place> {
        self.on.open()?.with((self.precision, "--precision"), None)
    }
}

/// The processor, or a card that is open.
#[derive(Clone, Debug, Default)]
pub struct Device {
    card: Option<Gpu>,
    /// What the processor multiplies by, as far as it was said beside a suite.
    said: Said,
    /// Whether it stands for other machines, whose processors can what they can.
    is_elsewhere: bool,
}

impl Device {
    /// Opens what a user wants. Which it was is said where that was left open.
    ///
    /// # Errors
    /// A card that was asked for and cannot be used, and what it lacks.
    pub fn open(wanted: Wanted) -> Result<Self> {
        let on = |card| Self {
            card,
            ..Self::default()
        };
        match wanted {
            Wanted::Processor => Ok(on(None)),
            Wanted::Card(n) => {
                let opened = Gpu::open(n).with_context(|| format!("--device {wanted}"));
                opened.map(|gpu| on(Some(gpu)))
            }
            Wanted::Auto => Ok(match Gpu::open(0) {
                Ok(gpu) => {
                    let device = on(Some(gpu));
                    crate::say!("device: {device}");
                    device
                }
                Err(why) => {
                    crate::say!("device: {PROCESSOR}; {why}");
                    on(None)
                }
            }),
        }
    }

    /// The same with products in a precision and, where a suite says so, in its arithmetic: each with where it is said, as
    /// an error begins.
    ///
    /// # Errors
    /// Each of both that is not there or contradicts the command line, and what would be right.
    pub fn with(
        &self,
        (precision, at): (Precision, &str),
        arithmetic: Option<(Arithmetic, &str)>,
    ) -> Result<Place> {
        let (multiplies, mut wrong) = match self.multiplies(arithmetic) {
            Ok(multiplies) => (Some(multiplies), Vec::new()),
            Err(told) => (None, vec![told]),
        };
        let card = match self.in_precision(precision, multiplies) {
            Ok(card) => card,
            Err(told) => {
                wrong.push(format!("{at}: {told}"));
                None
            }
        };
        if !wrong.is_empty() {
            bail!(wrong.join("\n"));
        }
        Ok(Place {
            card,
            arithmetic: multiplies.unwrap_or_default(),
            precision,
            is_elsewhere: self.is_elsewhere,
            said: Arc::default(),
        })
    }

    /// What the processor is to multiply by; of a card's the part that stays on the processor.
    fn multiplies(&self, suite: Option<(Arithmetic, &str)>) -> Result<Arithmetic, String> {
        let asked = self.said.over(suite)?;
        match (&self.card, asked) {
            (Some(_), Some(asked)) if !asked.by_environment => Err(format!(
                "{}: {:?} is of the processor; on a GPU leave it away",
                asked.at,
                asked.arithmetic.name()
            )),
            (Some(_), _) => Ok(Arithmetic::Portable),
            (None, None) => Ok(self.said.left_open()),
            (None, Some(asked)) => match arithmetic::lacking(asked.arithmetic) {
                Some(why) if !self.is_elsewhere => Err(format!("{}: {why}", asked.at)),
                _ => Ok(asked.arithmetic),
            },
        }
    }

    /// The card with the precision there; nothing on the processor, which multiplies by `multiplies` where that is known.
    fn in_precision(
        &self,
        precision: Precision,
        multiplies: Option<Arithmetic>,
    ) -> Result<Option<(Gpu, gpu::Precision)>, String> {
        let on_card = match precision {
            Precision::Float32 => Some(gpu::Precision::Float32),
            Precision::Tf32 => Some(gpu::Precision::Tf32),
            Precision::Half => Some(gpu::Precision::Half),
            Precision::Bfloat16 | Precision::Bfloat16x3 => None,
        };
        let name = precision.name();
        match (&self.card, on_card) {
            (None, Some(gpu::Precision::Float32)) => Ok(None),
            (None, None) if precision == Precision::Bfloat16x3 => match multiplies {
                Some(Arithmetic::Portable) => Err(format!(
                    "{name:?} is of the matrix unit: say arithmetic \"amx\" or, for the same bits slowly, \"emulated\"; \
                     or write \"float32\""
                )),
                _ => Ok(None),
            },
            (None, None) => {
                let can = |arithmetic: Arithmetic| arithmetic.is_supported_in_bfloat16();
                if !self.is_elsewhere && !multiplies.is_none_or(can) {
                    return Err(format!(
                        "{name:?} needs a processor with AVX512-BF16, which this one has not; write \"float32\""
                    ));
                }
                Ok(None)
            }
            (None, Some(_)) => Err(format!(
                "{name:?} needs a GPU (--device cuda); on the processor write \"float32\""
            )),
            (Some(_), None) => Err(format!(
                "{name:?} is of the processor; on a GPU write \"half\", \"tf32\" or \"float32\""
            )),
            (Some(gpu), Some(precision)) => Ok(Some((gpu.clone(), precision))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.card {
            None => f.write_str(PROCESSOR),
            Some(gpu) => write!(f, "cuda:{} {}", gpu.ordinal(), gpu.name()),
        }
    }
}

/// Where towers run, and in what numbers.
#[derive(Clone, Debug, Default)]
pub struct Place {
    card: Option<(Gpu, gpu::Precision)>,
    /// Of the processor.
    arithmetic: Arithmetic,
    precision: Precision,
    is_elsewhere: bool,
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

    /// What the processor multiplies by; nothing on a card.
    pub fn arithmetic(&self) -> Option<Arithmetic> {
        (!self.is_card()).then_some(self.arithmetic)
    }

    /// Whether it is of other machines, so that nothing is to be computed.
    pub fn is_elsewhere(&self) -> bool {
        self.is_elsewhere
    }

    /// As records write it: `cpu`, or the card's number and name, `cuda:0 NVIDIA H100 80GB HBM3`.
    pub fn device(&self) -> String {
        let card = self.card.as_ref().map(|(gpu, _)| gpu.clone());
        let device = Device {
            card,
            ..Device::default()
        };
        device.to_string()
    }

    /// As records tell of a trial that runs there.
    pub fn ran(&self) -> Ran {
        match self.arithmetic() {
            Some(arithmetic) => Ran::on_processor(arithmetic),
            None => Ran::on_card(self.device()),
        }
    }

    /// Device, precision and arithmetic in a few words: `cpu, float32, amx` or `cuda:0 NVIDIA H100 80GB HBM3, half`.
    pub fn in_words(&self) -> String {
        let words = [self.device(), self.precision.name().to_owned()];
        let arithmetic = self.arithmetic().map(|a| a.name().to_owned());
        let words: Vec<String> = words.into_iter().chain(arithmetic).collect();
        words.join(", ")
    }

    /// Brings a CLIP there, or has it multiply by the arithmetic of the processor. What of it stays beside a card is said.
    ///
    /// # Errors
    /// When the card's memory is used up.
    pub fn take(&self, clip: &mut Clip) -> Result<()> {
        let Some((gpu, precision)) = &self.card else {
            // Other machines' processors may have what this one has not, and nothing is multiplied here.
            if !self.is_elsewhere {
                clip.use_arithmetic(self.arithmetic)?;
                if self.precision == Precision::Bfloat16x3 {
                    clip.use_bfloat16x3()?;
                }
            }
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

    fn refused(device: &Device, precision: Precision, arithmetic: Option<Arithmetic>) -> String {
        let arithmetic = arithmetic.map(|a| (a, "suite.toml:4: arithmetic"));
        let place = device.with((precision, "suite.toml:3: precision"), arithmetic);
        place.unwrap_err().to_string()
    }

    #[test]
    fn the_processor_has_float32_and_refuses_what_cards_have() {
        let processor = Device::default();
        let place = processor.with((Precision::Float32, ""), None).unwrap();
        assert!(!place.is_card());
        assert_eq!(place.arithmetic(), Some(Arithmetic::Portable));
        for precision in [Precision::Tf32, Precision::Half] {
            let told = refused(&processor, precision, None);
            assert!(told.contains("needs a GPU"), "{told}");
        }
    }

    #[test]
    fn bfloat16_is_there_where_pairs_or_tiles_of_it_are_multiplied() {
        let there = |arithmetic| {
            let asked = Some((arithmetic, "suite.toml:4: arithmetic"));
            Device::default()
                .with((Precision::Bfloat16, ""), asked)
                .is_ok()
        };
        let has_pairs = clip::ops::bfloat::is_supported();
        assert_eq!(there(Arithmetic::Portable), has_pairs);
        assert_eq!(there(Arithmetic::Amx), Arithmetic::Amx.is_supported());
        assert!(there(Arithmetic::Emulated));
    }

    #[test]
    fn two_halves_are_the_matrix_units_and_its_emulations() {
        let with = |arithmetic| {
            let asked = Some((arithmetic, "suite.toml:4: arithmetic"));
            let precision = (Precision::Bfloat16x3, "suite.toml:3: precision");
            Device::default().with(precision, asked)
        };
        let told = with(Arithmetic::Portable).unwrap_err().to_string();
        let wanted =
            "suite.toml:3: precision: \"bfloat16x3\" is of the matrix unit: say arithmetic \"amx\"";
        assert!(told.starts_with(wanted), "{told}");
        let place = with(Arithmetic::Emulated).unwrap();
        let mut clip = (*crate::backbone::shipped().unwrap()).clone();
        place.take(&mut clip).unwrap();
        assert!(clip.is_bfloat16x3() && place.in_words() == "cpu, bfloat16x3, emulated");
    }

    #[test]
    fn all_that_a_suite_asks_of_a_device_that_has_it_not_is_told_at_once() {
        if Arithmetic::Amx.is_supported() {
            eprintln!("SKIPPED: this machine has the matrix unit");
            return;
        }
        let told = refused(&Device::default(), Precision::Half, Some(Arithmetic::Amx));
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        let wanted = "suite.toml:4: arithmetic: \"amx\" cannot be had: ";
        assert!(lines[0].starts_with(wanted), "{told}");
        assert!(
            lines[1].starts_with("suite.toml:3: precision: \"half\" needs a GPU"),
            "{told}"
        );
        // Of machines that are not this one nobody knows.
        let device = Device {
            is_elsewhere: true,
            ..Device::default()
        };
        let asked = Some((Arithmetic::Amx, ""));
        assert!(device.with((Precision::Bfloat16, ""), asked).is_ok());
    }
}
