//! An error in one sentence.

/// An error followed by its causes, `: ` between them, each said once: library errors end with their cause's own words.
pub fn reason(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.ends_with(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

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
