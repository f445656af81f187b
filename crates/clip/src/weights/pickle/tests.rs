//! Checkpoints of torch, ours, and damaged ones.

use super::*;
use candle_core::{DType, Device, Tensor};

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn fixture(name: &str) -> Option<std::path::PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    path.exists().then_some(path)
}

#[test]
fn what_is_written_is_read_back() {
    let half = Tensor::from_vec(vec![1.0f32, -2.5, 0.125, 7.0], (2, 2), &Device::Cpu).unwrap();
    let state = vec![
        ("ctx".to_owned(), half.clone()),
        (
            "half".to_owned(),
            half.to_dtype(DType::F16).unwrap().t().unwrap(),
        ),
        ("brain".to_owned(), half.to_dtype(DType::BF16).unwrap()),
        (
            "ids".to_owned(),
            Tensor::new(&[3i64, 1 << 40], &Device::Cpu).unwrap(),
        ),
        (
            "scalar".to_owned(),
            Tensor::new(4.5f32, &Device::Cpu).unwrap(),
        ),
    ];
    let value = Value::Dict(vec![
        ("state_dict".to_owned(), Value::State(state)),
        ("epoch".to_owned(), Value::Int(50)),
        ("big".to_owned(), Value::Int(-(1 << 40))),
        ("val_result".to_owned(), Value::Nothing),
        ("lr".to_owned(), Value::Float(0.002)),
        ("is_best".to_owned(), Value::Bool(true)),
        (
            "names".to_owned(),
            Value::List(vec![Value::Text("é".to_owned())]),
        ),
    ]);
    let out = file(b"");
    write(out.path(), &value).unwrap();
    let tree = read(out.path()).unwrap();
    assert_eq!(tree.get("epoch").unwrap().integer(), Some(50));
    assert_eq!(tree.get("big").unwrap().integer(), Some(-(1 << 40)));
    assert_eq!(tree.get("lr").unwrap().number(), Some(0.002));
    assert_eq!(tree.get("is_best").unwrap().truth(), Some(true));
    assert_eq!(tree.get("names").unwrap().items()[0].text(), Some("é"));
    assert!(tree.get("val_result").unwrap().is_nothing() && tree.get("absent").is_none());
    let tensors = tree.tensors().unwrap();
    assert_eq!(tensors.len(), 5);
    let load = |name: &str| tensors[name].load(name).unwrap();
    let rows = |name| load(name).to_vec2::<f32>().unwrap();
    assert_eq!(rows("state_dict.ctx"), [[1.0, -2.5], [0.125, 7.0]]);
    assert_eq!(rows("state_dict.half"), [[1.0, 0.125], [-2.5, 7.0]]);
    assert_eq!(tensors["state_dict.half"].kind(), Kind::F16);
    assert_eq!(rows("state_dict.brain"), rows("state_dict.ctx"));
    assert_eq!(
        tensors["state_dict.ids"].integers("ids").unwrap(),
        Some(vec![3, 1 << 40])
    );
    assert_eq!(load("state_dict.scalar").to_scalar::<f32>().unwrap(), 4.5);
}

#[test]
fn a_dassl_checkpoint_of_torch_is_read_in_both_layouts() {
    let mut compared = 0;
    for name in ["dassl-zip.pth.tar", "dassl-legacy.pth.tar"] {
        let tree = read(&fixture(name).expect("ships with the crate")).unwrap();
        assert_eq!(tree.get("epoch").unwrap().integer(), Some(50));
        assert_eq!(tree.get("val_result").unwrap().number(), Some(81.25));
        let state = tree.get("state_dict").unwrap();
        let ctx = state
            .get("ctx")
            .unwrap()
            .tensor("ctx")
            .unwrap()
            .expect("a tensor");
        assert_eq!((ctx.shape(), ctx.kind()), ([2, 3].as_slice(), Kind::F16));
        let ctx = ctx.load("ctx").unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(ctx, [[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]]);
        // A column of a larger storage: offset and stride.
        let view = state
            .get("view")
            .unwrap()
            .tensor("view")
            .unwrap()
            .expect("a tensor");
        assert_eq!(
            view.load("view").unwrap().to_vec1::<f32>().unwrap(),
            [1.0, 4.0]
        );
        let momentum = tree.get("optimizer").unwrap().tensors().unwrap();
        assert!(
            momentum.keys().any(|k| k.ends_with("momentum_buffer")),
            "{:?}",
            momentum.keys()
        );
        let successor = tree.get("scheduler").unwrap().get("successor").unwrap();
        assert_eq!(
            successor.class(),
            Some("torch.optim.lr_scheduler.CosineAnnealingLR")
        );
        assert_eq!(successor.get("T_max").unwrap().integer(), Some(50));
        compared += 1;
    }
    assert_eq!(compared, 2);
}

#[test]
fn every_shorter_checkpoint_is_an_error() {
    for name in ["dassl-zip.pth.tar", "dassl-legacy.pth.tar"] {
        let bytes = std::fs::read(fixture(name).expect("ships with the crate")).unwrap();
        for length in (0..bytes.len()).step_by(7) {
            let error = read(file(&bytes[..length]).path())
                .expect_err("cut short")
                .to_string();
            assert!(!error.is_empty());
        }
    }
}

#[test]
fn a_tree_that_repeats_itself_is_refused() {
    // d = {}; 40 times d = {"a": d, "b": d}
    let mut bytes = b"\x80\x02}q\x00".to_vec();
    for _ in 0..40 {
        bytes.extend(b"0}(U\x01ah\x00U\x01bh\x00uq\x00");
    }
    bytes.push(b'.');
    let out = file(b"");
    let mut writer =
        super::super::zip::ArchiveWriter::new(std::fs::File::create(out.path()).unwrap());
    writer.record("archive/data.pkl", &bytes).unwrap();
    writer.finish().unwrap();
    assert!(
        read(out.path())
            .unwrap()
            .tensors()
            .unwrap_err()
            .to_string()
            .contains("objects")
    );
}

#[test]
fn other_files_are_called_what_they_are_not() {
    assert!(
        read(file(b"hello").path())
            .unwrap_err()
            .to_string()
            .contains("torch.save")
    );
    let out = file(b"");
    let mut writer =
        super::super::zip::ArchiveWriter::new(std::fs::File::create(out.path()).unwrap());
    writer.record("word/document.xml", b"").unwrap();
    writer.finish().unwrap();
    assert!(
        read(out.path())
            .unwrap_err()
            .to_string()
            .contains("word/document.xml")
    );
}
