//! Prompt-tuning methods of CLIP: one file a method, each the published algorithm. No I/O, no clock, no loop.
//!
//! A method says what it sees of a picture, gives a loss and, once trained, a predictor. The caller owns the loop, the
//! optimizer and the order of pictures. To add a method: one file, and one line in [`METHODS`].
//!
//! Differs: float32 throughout. The authors of CoOp, CoCoOp, VPT, IVLP, MaPLe, KgCoOp, ProGrad and PromptSRC train in
//! half precision (deep prompts are float32 and rounded in the forward pass), TPT's tune under autocast.

pub mod classes;
pub mod cost;
pub mod entry;
pub mod init;
pub mod kept;
pub mod method;
pub mod needs;
pub mod optimizer;
pub mod parts;
pub mod replay;
pub mod settings;
pub mod step;
pub mod training;

mod ape;
mod atprompt;
mod attriclip;
mod biomedcoop;
mod bpt_vlm;
mod by_description;
mod clip_adapter;
mod clip_lora;
mod cocoop;
mod coop;
mod coop_distilled;
mod coprompt;
mod ctpt;
mod cupl;
mod dekg;
mod dekg_tcp;
mod dept;
mod ivlp;
mod kgcoop;
mod language_prompting;
mod lasp;
mod linear_probe;
mod lp_plus_plus;
mod maple;
mod mma;
mod mmrl;
mod mta;
mod mvlpt;
mod plot;
mod plotpp;
mod prograd;
mod promptkd;
mod promptsrc;
mod prototypes;
mod softcpt;
mod taskres;
mod tcp;
mod tda;
mod template_search;
mod tip_adapter;
mod tip_adapter_f;
mod tpt;
mod two_stage;
mod vpt;
mod zero;
mod zero_shot;

pub use classes::{Classes, Descriptions, Relation};
pub use cost::{Cost, ImageCost, TextCost};
pub use entry::{Checkpoint, Entry, Group, Reading};
pub use init::Init;
pub use kept::{kept, load_parameters, put_back};
pub use method::{
    Backbones, Batch, Config, Cosine, Images, Labelled, Loss, Method, Predict, Question, Round,
    Search, Shots,
};
pub use needs::{Needs, Sees, Support, Validation, View};
pub use optimizer::{Optimizer, Rule};
pub use replay::Replay;
pub use settings::{Problem, Settings};
pub use step::{Rate, Step, step};
pub use training::{Schedule, Training};

/// Every method there is. Order is the order of tables and charts.
pub const METHODS: &[Entry] = &[
    zero_shot::ENTRY,
    by_description::ENTRY,
    cupl::ENTRY,
    template_search::ENTRY,
    tip_adapter::ENTRY,
    ape::ENTRY,
    prototypes::ENTRY,
    linear_probe::ENTRY,
    clip_adapter::ENTRY,
    tip_adapter_f::ENTRY,
    taskres::ENTRY,
    lp_plus_plus::ENTRY,
    coop::ENTRY,
    coop_distilled::ENTRY,
    cocoop::ENTRY,
    vpt::ENTRY,
    language_prompting::ENTRY,
    ivlp::ENTRY,
    maple::ENTRY,
    lasp::ENTRY,
    coprompt::ENTRY,
    plotpp::ENTRY,
    kgcoop::ENTRY,
    biomedcoop::ENTRY,
    dekg::ENTRY,
    tcp::ENTRY,
    dekg_tcp::ENTRY,
    dept::ENTRY,
    plot::ENTRY,
    softcpt::ENTRY,
    prograd::ENTRY,
    promptsrc::ENTRY,
    promptkd::ENTRY,
    atprompt::ENTRY,
    mmrl::ENTRY,
    mmrl::PLUS_PLUS,
    mma::ENTRY,
    mvlpt::ENTRY,
    bpt_vlm::ENTRY,
    clip_lora::ENTRY,
    two_stage::ENTRY,
    attriclip::ENTRY,
    tpt::ENTRY,
    ctpt::ENTRY,
    zero::ENTRY,
    mta::ENTRY,
    tda::ENTRY,
];

/// The entry called `name`.
pub fn find(name: &str) -> Option<&'static Entry> {
    METHODS.iter().find(|e| e.name == name)
}

#[cfg(test)]
mod tests;
