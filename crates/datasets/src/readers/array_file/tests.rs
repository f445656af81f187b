use super::*;
use crate::{Catalogue, Dataset};
use std::io::Write;
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// An array as NumPy writes it.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(data);
    bytes
}

fn write(root: &Path, arrays: &[(&str, Vec<u8>)], method: CompressionMethod) {
    let mut zip = ZipWriter::new(File::create(root.join("a.npz")).unwrap());
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in arrays {
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// Four grey 3 x 2 pictures to train on, labels 1 0 1 0; two of colour to test on.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "train_images",
            npy("|u1", "(4, 3, 2)", &(0..24).collect::<Vec<u8>>()),
        ),
        ("train_labels", npy("|u1", "(4, 1)", &[1, 0, 1, 0])),
        (
            "test_images",
            npy("|u1", "(2, 1, 2, 3)", &(100..112).collect::<Vec<u8>>()),
        ),
        (
            "test_labels",
            npy(
                "<i8",
                "(2,)",
                &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
        ),
    ]
}

/// The dataset, and the folder that must live as long.
fn open(
    arrays: &[(&str, Vec<u8>)],
    method: CompressionMethod,
) -> Result<(Dataset, TempDir), String> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), arrays, method);
    let opened = open_at(folder.path());
    let clean = |text: String| text.replace(&folder.path().display().to_string(), "DATA");
    let dataset = opened.map_err(|error| clean(error.to_string()))?;
    Ok((dataset, folder))
}

fn open_at(root: &Path) -> Result<Dataset, Error> {
    let text = "[mine]\nimages = \"a.npz\"\nreader = \"array-file\"\nlabels = [\"no\", \"yes\"]\n";
    let catalogue = Catalogue::parse(text, Path::new("my.toml")).unwrap();
    Dataset::open(catalogue.get("mine").unwrap(), root)
}

#[test]
fn pictures_and_labels_are_those_of_the_arrays_compressed_or_not() {
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let (dataset, _folder) = open(&good(), method).unwrap();
        let split = &dataset.split;
        assert_eq!(
            (split.train.len(), split.val.len(), split.test.len()),
            (4, 0, 2)
        );
        assert_eq!(dataset.class_names(), ["no", "yes"]);
        assert!(split.published());
        let third = &split.train[2];
        assert_eq!(
            (third.path.to_str(), third.label),
            (Some("train/000002"), 1)
        );
        let picture = dataset.source.rgb(third).unwrap();
        assert_eq!((picture.width, picture.height), (2, 3));
        let grey: Vec<u8> = (12..18).flat_map(|v| [v; 3]).collect();
        assert_eq!(picture.data, grey);
        let colour = dataset.source.rgb(&split.test[1]).unwrap();
        assert_eq!(colour.data, (106..112).collect::<Vec<u8>>());
        assert_ne!(
            dataset.source.content_key(third).unwrap(),
            dataset.source.content_key(&split.train[0]).unwrap()
        );
        let absent = Item {
            path: "train/000004".into(),
            ..third.clone()
        };
        let error = dataset.source.rgb(&absent).unwrap_err().to_string();
        assert!(
            error.contains("train/000004: the picture is missing"),
            "{error}"
        );
    }
}

#[test]
fn many_threads_unpack_an_array_once_and_see_the_same() {
    let (dataset, _folder) = open(&good(), CompressionMethod::Deflated).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for item in &dataset.split.train {
                    assert_eq!(dataset.source.rgb(item).unwrap().data.len(), 18);
                }
            });
        }
    });
}

#[test]
fn what_is_wrong_with_an_array_is_said_once_and_by_name() {
    let with = |name: &str, bytes: Vec<u8>| {
        let mut arrays = good();
        arrays.retain(|(known, _)| *known != name);
        if !bytes.is_empty() {
            arrays.push((Box::leak(name.to_owned().into_boxed_str()), bytes));
        }
        arrays
    };
    let fortran = String::from_utf8_lossy(&npy("|u1", "(4, 3, 2)", &[]))
        .into_owned()
        .replace("False", "True ");
    let mut fortran: Vec<u8> =
        [b"\x93".as_slice(), &fortran.as_bytes()["\u{fffd}".len()..]].concat();
    fortran.extend([0; 24]);
    for (arrays, expected) in [
        (
            with("train_labels", vec![]),
            "DATA/a.npz: train_labels: cannot be read: specified file not found in archive",
        ),
        (
            with("train_labels", npy("|u1", "(4, 14)", &[0; 56])),
            "DATA/a.npz: train_labels: holds 14 labels a picture (multi-label, as ChestMNIST is); here a picture has one",
        ),
        (
            with("train_labels", npy("|u1", "(3, 1)", &[0, 1, 0])),
            "DATA/a.npz: train_labels: holds 3 labels for 4 pictures",
        ),
        (
            with("train_labels", npy("|u1", "(4, 1)", &[0, 1, 7, 0])),
            "DATA/a.npz: train_labels[2]: label 7 has no name; there are 2 names",
        ),
        (
            with("train_labels", npy("|i1", "(4, 1)", &[0, 1, 255, 0])),
            "DATA/a.npz: train_labels: entry 2 is no label: labels count from 0",
        ),
        (
            with("train_labels", npy("<f4", "(4, 1)", &[0; 16])),
            "DATA/a.npz: train_labels: holds <f4; labels are whole numbers (|u1 or <i8)",
        ),
        (
            with("train_images", npy("<f4", "(4, 3, 2)", &[0; 96])),
            "DATA/a.npz: train_images: holds <f4; pictures are bytes (|u1)",
        ),
        (
            with("train_images", npy("|u1", "(4, 3, 2, 2)", &[0; 48])),
            "DATA/a.npz: train_images: is of shape [4, 3, 2, 2]; [N, H, W] or [N, H, W, 3] is right (volumes are no pictures)",
        ),
        (
            with("train_images", npy("|u1", "(4, 3, 2)", &[0; 23])),
            "DATA/a.npz: train_images: is 96 bytes long, its header claims 97",
        ),
        (
            with(
                "train_images",
                npy("|u1", "(4, 9999999999, 9999999999)", &[0; 23]),
            ),
            "DATA/a.npz: train_images: claims pictures of 9999999999 x 9999999999 pixels",
        ),
        (
            with(
                "train_images",
                npy("|u1", "(9999999999999999, 3, 2)", &[0; 23]),
            ),
            "DATA/a.npz: train_images: is 111 bytes long, its header claims 60000000000000082",
        ),
        (
            with("train_images", fortran),
            "DATA/a.npz: train_images: is in Fortran order; write it with numpy.ascontiguousarray",
        ),
    ] {
        let error = open(&arrays, CompressionMethod::Deflated).unwrap_err();
        assert_eq!(error, expected);
    }
}

#[test]
fn a_cut_or_damaged_file_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &good(), CompressionMethod::Stored);
    let path = folder.path().join("a.npz");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, 30, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = open_at(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("a.npz: zip: is no whole .npz file: "),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // A label that changed on the way: the zip's own sum tells.
    let mut bent = whole.clone();
    let labels = whole
        .windows(4)
        .position(|four| four == [1, 0, 1, 0])
        .unwrap();
    bent[labels] = 0;
    std::fs::write(&path, bent).unwrap();
    let error = open_at(folder.path()).unwrap_err().to_string();
    assert!(error.contains("train_labels: is damaged: "), "{error}");
}
