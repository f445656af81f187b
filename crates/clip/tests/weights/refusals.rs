//! Files that are no CLIP, or a damaged one: one clear error each.

use super::*;

#[test]
fn a_missing_tensor_is_named_with_what_is_there() {
    let error = refusal_of(|t| drop(t.remove("visual.transformer.resblocks.0.mlp.c_fc.bias")));
    assert!(
        error.contains("visual.transformer.resblocks.0.mlp.c_fc.bias") && error.contains("1 of 38"),
        "{error}"
    );
    let error = refusal_of(|t| drop(t.remove("visual.conv1.weight")));
    assert!(
        error.contains("visual.conv1.weight")
            && error.contains("not a CLIP")
            && error.contains("ln_final.bias"),
        "{error}"
    );
    let error =
        refusal_of(|t| *t = BTreeMap::from([("bert.embeddings".to_owned(), tensor(0, &[2]))]));
    assert!(
        error.contains("token_embedding.weight") && error.contains("bert.embeddings"),
        "{error}"
    );
    assert!(refusal_of(Tensors::clear).contains("every other tensor"));
}

#[test]
fn every_unfit_shape_is_reported_at_once() {
    let error = refusal_of(|t| {
        t.insert("visual.proj".into(), tensor(0, &[WIDTH, 31]));
        t.insert("ln_final.bias".into(), tensor(0, &[1]));
        t.insert("visual.trunk.layer".into(), tensor(0, &[1]));
    });
    for part in [
        "visual.proj",
        "[64, 31]",
        "[64, 32]",
        "ln_final.bias",
        "[1]",
        "visual.trunk.layer",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(error.lines().count(), 3, "{error}");
    for shape in [vec![], vec![0, 3, 4, 4], vec![WIDTH, 3, 4]] {
        assert!(
            refusal_of(|t| drop(t.insert("visual.conv1.weight".into(), tensor(0, &shape))))
                .contains("conv1")
        );
    }
    let error = refusal_of(|t| {
        drop(t.insert("visual.positional_embedding".into(), tensor(0, &[6, WIDTH])))
    });
    assert!(error.contains("s * s + 1"), "{error}");
}

#[test]
fn every_damaged_tensor_is_named_up_to_a_few() {
    let error = refusal_of(|t| {
        for tensor in t.values_mut().filter(|t| t.dtype() == DType::F32) {
            *tensor = (&*tensor * f64::NAN).unwrap();
        }
    });
    assert!(
        error.contains("ln_final.bias: 64 of 64 numbers are not finite")
            && error.contains("30 more tensors are damaged"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 9, "{error}");
}

#[test]
fn a_few_bytes_that_many_tensors_are_made_of_are_refused() {
    let error = refusal(&fixture("shared.pt"));
    assert!(
        error.contains("shared.pt: tensors: take") && error.contains("the same bytes"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn numbers_that_are_none_are_refused() {
    let error = refusal_of(|t| {
        let strange = Tensor::new(&[f32::NAN, f32::INFINITY], &Device::Cpu).unwrap();
        let rest = tensor(0, &[WIDTH - 2]);
        t.insert(
            "ln_final.weight".into(),
            Tensor::cat(&[strange, rest], 0).unwrap(),
        );
    });
    assert!(
        error.contains("ln_final.weight") && error.contains("2 of 64"),
        "{error}"
    );
    let whole = Tensor::zeros((WIDTH, 32), DType::I64, &Device::Cpu).unwrap();
    assert!(refusal_of(|t| drop(t.insert("visual.proj".into(), whole))).contains("floats"));
}

#[test]
fn token_rows_name_every_row_once() {
    let ids = |ids: &[i64]| {
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        refusal_of(|t| drop(t.insert("token_embedding.ids".into(), ids)))
    };
    assert!(ids(&[1, 2, 3, 4, 4]).contains("4 twice"));
    assert!(ids(&[1, 2, 3, 4, 49408]).contains("49408"));
    assert!(ids(&[1, 2, 3, 4, -1]).contains("-1"));
    assert!(ids(&[1, 2, 3]).contains("5 rows"));
    let error = refusal_of(|t| drop(t.remove("token_embedding.ids")));
    assert!(
        error.contains("5 rows") && error.contains("49408"),
        "{error}"
    );
}

#[test]
fn a_configuration_that_disagrees_names_both() {
    let folder = TempDir::new().unwrap();
    save(
        &hugging_face(&tiny()),
        &folder.path().join("model.safetensors"),
    );
    let config = HUGGING_FACE
        .replace("\"projection_dim\": 32", "\"projection_dim\": 512")
        .replace("\"patch_size\": 4", "\"patch_size\": 16")
        .replace("\"eos_token_id\": 2", "\"eos_token_id\": 3")
        .replacen("\"gelu\"", "\"relu\"", 1);
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let error = refusal(folder.path());
    for part in [
        "projection_dim: is 512, but the tensors make it 32",
        "patch_size: is 16",
        "make it 4",
        "eos_token_id: is 3",
        "relu",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(error.lines().count(), 4, "{error}");
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(refusal(folder.path()).contains("config.json"));

    let folder = TempDir::new().unwrap();
    save(&tiny(), &folder.path().join("open_clip_model.safetensors"));
    let config = OPEN_CLIP
        .replace(
            "\"layers\": 1, \"width\": 64",
            "\"layers\": 12, \"pool_type\": \"avg\"",
        )
        .replace("0.4578275", "\"half\"");
    std::fs::write(folder.path().join("open_clip_config.json"), config).unwrap();
    let error = refusal(folder.path());
    for part in [
        "vision_cfg.layers: is 12, but the tensors make it 1",
        "pool_type",
        "preprocess_cfg.mean",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_is_no_weight_file_is_said_so() {
    let folder = TempDir::new().unwrap();
    let error = refusal(folder.path());
    assert!(
        error.contains("model.safetensors") && error.contains("pytorch_model.bin"),
        "{error}"
    );
    let file = folder.path().join("x");
    for bytes in [b"".as_slice(), b"hello world", b"\x80\x02}."] {
        std::fs::write(&file, bytes).unwrap();
        assert!(refusal(&file).contains("neither"), "{}", refusal(&file));
    }
    assert!(refusal(&folder.path().join("absent")).contains("absent"));
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(
        index,
        r#"{"weight_map": {"a": "../../etc/passwd", "b": 3}}"#,
    )
    .unwrap();
    let error = refusal(folder.path());
    assert!(
        error.contains("../../etc/passwd") && error.contains("weight_map.b"),
        "{error}"
    );
}
