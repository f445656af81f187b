//! The command line: one file a verb.

use clap::error::Error;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

mod bench;
mod cache;
mod cancel;
mod compare;
mod data;
mod dry;
mod encode;
mod eval;
mod export;
mod merge;
mod methods;
mod model;
mod paths;
mod pictures;
mod plot;
mod predict;
mod pretrain;
mod report;
mod run;
mod setup;
mod status;
mod stop;
mod submit;
mod table;
mod verify;
mod words;
mod worker;
mod working;

pub(crate) use paths::typed as at_home;

/// Benchmarks and reproduces prompt tuning of vision-language models.
#[derive(Parser)]
#[command(name = "promptbed", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Run),
    Worker(worker::Worker),
    Status(status::Status),
    Merge(merge::Merge),
    Submit(submit::Submit),
    Cancel(cancel::Cancel),
    Table(table::Table),
    Plot(plot::Plot),
    Report(report::Report),
    Compare(compare::Compare),
    Methods(methods::Methods),
    Data(data::Data),
    Model(model::Model),
    Encode(encode::Encode),
    Eval(eval::Eval),
    Predict(predict::Predict),
    Words(words::Words),
    Export(export::Export),
    Verify(verify::Verify),
    Pretrain(pretrain::Pretrain),
    Bench(bench::Bench),
    Cache(cache::Cache),
}

/// How a verb ended: whether all it was asked for was done.
pub enum Done {
    /// Yes.
    All,
    /// No, as it has said; exit code 1.
    NotAll,
    /// The user stopped it; exit code 130.
    Interrupted,
    /// A time limit or a signal stopped it; exit code 75, as `EX_TEMPFAIL` of `sysexits.h`: come again.
    Stopped,
}

impl Cli {
    /// What was asked for on the command line. A leading `~/` of every path is the home folder: shells expand it only
    /// where it stands at the start of a word.
    ///
    /// # Errors
    /// What is wrong with it; help and version, which are to be printed.
    pub fn read() -> Result<Self, Error> {
        let command = paths::of_homes(Self::command());
        Self::from_arg_matches(&command.try_get_matches()?)
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// One message for the user: where, what, and what would be right.
    pub fn run(self) -> anyhow::Result<Done> {
        match self.verb {
            Verb::Run(verb) => verb.run(),
            Verb::Worker(verb) => verb.run(),
            Verb::Status(verb) => verb.run(),
            Verb::Merge(verb) => verb.run(),
            Verb::Submit(verb) => verb.run(),
            Verb::Cancel(verb) => verb.run(),
            Verb::Table(verb) => verb.run(),
            Verb::Plot(verb) => verb.run(),
            Verb::Report(verb) => verb.run(),
            Verb::Compare(verb) => verb.run(),
            Verb::Methods(verb) => verb.run(),
            Verb::Data(verb) => verb.run(),
            Verb::Model(verb) => verb.run(),
            Verb::Encode(verb) => verb.run(),
            Verb::Eval(verb) => verb.run(),
            Verb::Predict(verb) => verb.run(),
            Verb::Words(verb) => verb.run(),
            Verb::Export(verb) => verb.run(),
            Verb::Verify(verb) => verb.run(),
            Verb::Pretrain(verb) => verb.run(),
            Verb::Bench(verb) => verb.run(),
            Verb::Cache(verb) => verb.run(),
        }
    }
}
