//! An error in one sentence.

/// An error followed by its causes, `: ` between them, each said once: library errors end with their cause's own words.
pub fn reason(error: &anyhow::Error) -> String {
    let mut said = sentence(&error.to_string());
    for cause in error.chain().skip(1).map(|c| sentence(&c.to_string())) {
        if !said.ends_with(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

/// Without the backtrace that tensor errors carry in their words where `RUST_BACKTRACE` is set: lines `   0: function`.
fn sentence(words: &str) -> String {
    let is_frame = |line: &&str| line.trim_start().starts_with("0: ");
    let said: Vec<&str> = words.lines().take_while(|line| !is_frame(line)).collect();
    said.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_backtrace_is_no_reason() {
        let words = "the 5 words do not fit\n   0: candle_core::error::Error::bt\n             at ./a.rs:52:13";
        assert_eq!(sentence(words), "the 5 words do not fit");
        assert_eq!(sentence("one\ntwo"), "one\ntwo");
        let error = anyhow::anyhow!("{words}").context("while binding");
        assert_eq!(reason(&error), "while binding: the 5 words do not fit");
    }

    #[test]
    fn causes_are_said_once() {
        let error = clip::Clip::load(std::path::Path::new("no/such/file"))
            .expect_err("there is no such file");
        let system = "No such file or directory (os error 2)";
        let told = reason(&anyhow::Error::from(error).context("while loading"));
        assert_eq!(told, format!("while loading: no/such/file: {system}"));
    }

    #[test]
    fn causes_that_were_not_said_are() {
        let inner: Result<(), _> = Err(std::io::Error::other("the disk is full"));
        let error = inner
            .context("a.json: cannot be written")
            .context("trial 41")
            .expect_err("it is one");
        assert_eq!(
            reason(&error),
            "trial 41: a.json: cannot be written: the disk is full"
        );
    }
}
