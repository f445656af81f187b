//! Many pictures, decoded and transformed on all cores, in order, with bounded memory.

use std::sync::mpsc::sync_channel;
use std::thread;

use rayon::prelude::*;

use crate::stream::Stream;
use crate::transform::{normalise, test_view, train_view};
use crate::{Error, Item, Pictures, Rgb};

/// Decodes and transforms a list at once; the result is in the order of the list.
///
/// `transform` gets the place in the list and the picture. Only transformed pictures are kept.
///
/// # Errors
/// The error of the first item, in list order, that failed; it carries the path.
pub fn all<T: Send>(
    pictures: &dyn Pictures,
    items: &[Item],
    transform: impl Fn(usize, Rgb) -> T + Sync,
) -> Result<Vec<T>, Error> {
    let results: Vec<Result<T, Error>> = items
        .par_iter()
        .enumerate()
        .map(|(place, item)| pictures.rgb(item).map(|rgb| transform(place, rgb)))
        .collect();
    results.into_iter().collect()
}

/// Decodes and transforms a list in batches while `consume` works on the batch before.
///
/// `transform` gets the place in the whole list. `consume` runs on the calling thread and gets the place of its first
/// item and the batch, in list order. At most three batches exist at any time.
///
/// # Errors
/// The error of the first item, in list order, that failed, or the first error of `consume`; both end the work.
pub fn batches<T: Send, E: From<Error>>(
    pictures: &dyn Pictures,
    items: &[Item],
    batch: usize,
    transform: impl Fn(usize, Rgb) -> T + Sync,
    mut consume: impl FnMut(usize, Vec<T>) -> Result<(), E>,
) -> Result<(), E> {
    let batch = batch.max(1);
    let (sender, receiver) = sync_channel::<Result<Vec<T>, Error>>(1);
    thread::scope(|scope| {
        let transform = &transform;
        scope.spawn(move || {
            for (number, chunk) in items.chunks(batch).enumerate() {
                let made = all(pictures, chunk, |place, rgb| {
                    transform(number * batch + place, rgb)
                });
                let failed = made.is_err();
                // A closed channel means that `consume` failed and nobody wants the rest.
                if sender.send(made).is_err() || failed {
                    return;
                }
            }
        });
        let mut first = 0;
        let mut outcome = Ok(());
        for made in &receiver {
            let step = made.map_err(E::from).and_then(|made| {
                let place = first;
                first += made.len();
                consume(place, made)
            });
            if step.is_err() {
                outcome = step;
                break;
            }
        }
        // Lets the other thread end before the scope waits for it.
        drop(receiver);
        outcome
    })
}

/// [`batches`] of what a model sees at test time: `consume` gets the place of the first item, the number of items
/// and their pixels, `[items, 3, size, size]`, normalised.
///
/// # Errors
/// As [`batches`].
pub fn test_batches<E: From<Error>>(
    pictures: &dyn Pictures,
    items: &[Item],
    batch: usize,
    size: usize,
    mut consume: impl FnMut(usize, usize, Vec<f32>) -> Result<(), E>,
) -> Result<(), E> {
    let view = |_: usize, rgb: Rgb| test_view(&rgb, size);
    batches(pictures, items, batch, view, |first, views| {
        consume(first, views.len(), packed(&views, size))
    })
}

/// One training batch of fresh views, `[items, 3, size, size]`, normalised. The i-th picture's view is drawn from
/// `Stream::named(seed, "views", first + i)`, whatever the number of cores.
///
/// # Errors
/// As [`all`].
pub fn train_batch(
    pictures: &dyn Pictures,
    items: &[Item],
    size: usize,
    seed: u64,
    first: u64,
) -> Result<Vec<f32>, Error> {
    let views = all(pictures, items, |place, rgb| {
        train_view(
            &rgb,
            size,
            &mut Stream::named(seed, "views", first + place as u64),
        )
    })?;
    Ok(packed(&views, size))
}

/// Views of one size, normalised into one `[views, 3, size, size]`.
pub fn packed(views: &[Rgb], size: usize) -> Vec<f32> {
    let length = 3 * size * size;
    let mut pixels = vec![0.0; views.len() * length];
    pixels
        .par_chunks_mut(length)
        .zip(views)
        .for_each(|(out, view)| normalise(view, out));
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::DecodeError;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Pictures of one colour, counted while they are alive; the picture `broken` fails.
    struct Numbered {
        broken: Option<usize>,
        decoded: AtomicUsize,
    }

    impl Pictures for Numbered {
        fn rgb(&self, item: &Item) -> Result<Rgb, Error> {
            let number: usize = item.path.to_string_lossy().parse().unwrap();
            self.decoded.fetch_add(1, Ordering::SeqCst);
            if self.broken == Some(number) {
                return Err(Error::Picture {
                    path: item.path.clone(),
                    source: DecodeError::Empty,
                });
            }
            Ok(Rgb::from_raw(8, 9, vec![number as u8; 8 * 9 * 3]))
        }

        fn content_key(&self, item: &Item) -> Result<String, Error> {
            Ok(item.path.display().to_string())
        }
    }

    fn items(count: usize) -> Vec<Item> {
        (0..count)
            .map(|number| Item {
                path: PathBuf::from(number.to_string()),
                label: 0,
                class_name: String::new(),
            })
            .collect()
    }

    fn pictures(broken: Option<usize>) -> Numbered {
        Numbered {
            broken,
            decoded: AtomicUsize::new(0),
        }
    }

    #[test]
    fn batches_keep_the_order_of_the_list() {
        let mut seen = Vec::new();
        batches(
            &pictures(None),
            &items(103),
            10,
            |place, rgb| (place, rgb.data[0]),
            |first, made| {
                assert_eq!(first, seen.len());
                seen.extend(made);
                Ok::<(), Error>(())
            },
        )
        .unwrap();
        assert_eq!(seen, (0..103).map(|n| (n, n as u8)).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_than_three_batches_are_ever_held() {
        let source = pictures(None);
        let mut consumed = 0;
        batches(
            &source,
            &items(200),
            10,
            |_, rgb| rgb,
            |_, made| {
                thread::sleep(std::time::Duration::from_millis(3));
                let ahead = source.decoded.load(Ordering::SeqCst) - consumed;
                assert!(ahead <= 30, "{ahead} pictures were decoded ahead");
                consumed += made.len();
                Ok::<(), Error>(())
            },
        )
        .unwrap();
        assert_eq!(consumed, 200);
    }

    #[test]
    fn the_first_broken_picture_ends_the_work_with_its_path() {
        let source = pictures(Some(25));
        let mut consumed = 0;
        let error = batches(
            &source,
            &items(1000),
            10,
            |_, rgb| rgb,
            |_, made| {
                consumed += made.len();
                Ok::<(), Error>(())
            },
        );
        assert_eq!(error.unwrap_err().to_string(), "25: the file is empty");
        assert_eq!(consumed, 20);
        assert!(source.decoded.load(Ordering::SeqCst) <= 30);
    }

    #[test]
    fn an_error_of_the_consumer_ends_the_work() {
        let source = pictures(None);
        let stop = || Error::Picture {
            path: "stop".into(),
            source: DecodeError::Empty,
        };
        let outcome = batches(
            &source,
            &items(1000),
            10,
            |_, rgb| rgb,
            |_, _| Err::<(), _>(stop()),
        );
        assert!(outcome.unwrap_err().to_string().starts_with("stop"));
        assert!(source.decoded.load(Ordering::SeqCst) <= 40);
    }

    #[test]
    fn training_views_depend_on_seed_and_place_only() {
        let source = pictures(None);
        let batch = train_batch(&source, &items(6), 5, 1, 100).unwrap();
        assert_eq!(batch.len(), 6 * 3 * 25);
        let later = train_batch(&source, &items(6)[2..], 5, 1, 102).unwrap();
        assert_eq!(batch[2 * 75..], later);
    }

    #[test]
    fn test_batches_are_normalised_test_views() {
        let source = pictures(None);
        let mut pixels = Vec::new();
        test_batches(&source, &items(5), 2, 4, |_, count, batch| {
            assert_eq!(batch.len(), count * 48);
            pixels.extend(batch);
            Ok::<(), Error>(())
        })
        .unwrap();
        let expected = crate::transform::normalised(&Rgb::from_raw(4, 4, vec![3; 48]));
        assert_eq!(pixels[3 * 48..4 * 48], expected);
    }
}
