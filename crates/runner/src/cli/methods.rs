//! `promptbed methods`: every method with its settings.

use anyhow::{Result, bail};
use methods::{METHODS, Settings, settings::nearest};

use super::Done;

/// List the methods with their settings, defaults and papers.
///
/// Example: promptbed methods coop
#[derive(clap::Args)]
pub struct Methods {
    /// Only this one.
    name: Option<String>,
}

impl Methods {
    pub fn run(self) -> Result<Done> {
        if let Some(name) = &self.name
            && methods::find(name).is_none()
        {
            let near = nearest(name, METHODS.iter().map(|m| m.name));
            bail!(
                "there is no method {name:?}{}",
                near.map_or(String::new(), |n| format!("; did you mean `{n}`?"))
            );
        }
        for entry in METHODS
            .iter()
            .filter(|m| self.name.as_deref().is_none_or(|n| n == m.name))
        {
            crate::out!("{} ({}, {})", entry.name, entry.title, entry.source);
            for d in entry.read(toml::Table::new()).declared {
                crate::out!(
                    "  config.{:<18} {:<22} {} ({})",
                    d.name,
                    d.default,
                    d.help,
                    d.range
                );
            }
            match &entry.training {
                None => crate::out!("  nothing is trained before testing"),
                Some(training) => {
                    let mut settings = Settings::default();
                    training.read(&mut settings, 0);
                    for d in settings.finish().declared {
                        crate::out!(
                            "  {:<25} {:<22} {} ({})",
                            d.name,
                            d.default,
                            d.help,
                            d.range
                        );
                    }
                }
            }
            crate::out!("");
        }
        Ok(Done::All)
    }
}
