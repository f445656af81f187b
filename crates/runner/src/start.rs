//! What a trial starts from, as plans, records and files call it: the id of a dataset, or the ids of several that one trial
//! learns from, joined by `+` in the suite's order. Ids hold no `+`.

/// Between the ids of several datasets.
const BETWEEN: char = '+';

/// Most datasets that names of files and headings spell out.
const SPELT_OUT: usize = 2;

/// What a trial starts from that learns from all of `datasets`.
pub fn of(datasets: &[String]) -> String {
    datasets.join("+")
}

/// Its datasets.
pub fn datasets(start: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    start.split(BETWEEN)
}

/// How many datasets it has.
pub fn count(start: &str) -> usize {
    datasets(start).count()
}

/// Its name in names of files: ids as far as they are few, else their number. That the ids are these and no others is told
/// by the hash behind.
pub fn short(start: &str) -> String {
    match count(start) {
        n if n > SPELT_OUT => format!("{n}-datasets"),
        _ => start.to_owned(),
    }
}

/// Its name for a reader: each dataset as `title` calls it as far as they are few, else their number.
pub fn called<'a>(start: &'a str, title: impl Fn(&'a str) -> &'a str) -> String {
    match count(start) {
        n if n > SPELT_OUT => format!("{n} datasets"),
        _ => datasets(start).map(title).collect::<Vec<_>>().join(" + "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dataset_is_its_id_and_many_are_their_number() {
        let ids = |n| ["dtd", "eurosat", "oxford-pets"][..n].iter();
        let start = |n| of(&ids(n).map(|id| (*id).to_owned()).collect::<Vec<_>>());
        let told = |n| {
            let start = start(n);
            let title = |id| if id == "dtd" { "DTD" } else { id };
            (short(&start), called(&start, title))
        };
        assert_eq!(told(1), ("dtd".to_owned(), "DTD".to_owned()));
        let two = ("dtd+eurosat".to_owned(), "DTD + eurosat".to_owned());
        assert_eq!(told(2), two);
        let three = ("3-datasets".to_owned(), "3 datasets".to_owned());
        assert_eq!(told(3), three);
        let joined = start(3);
        assert!(datasets(&joined).eq(ids(3).copied()));
        assert_eq!(count("dtd"), 1);
    }
}
