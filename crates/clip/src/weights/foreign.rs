//! What a file is that is no CLIP, in words: pointers, web pages, archives of other things, other models.

/// Longest head of a text that is looked at.
const HEAD: usize = 4096;

/// What a file that is neither safetensors nor of `torch.save` is, and what to do about it.
pub(super) fn file(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("is empty: a download or a copy of it has failed".to_owned());
    }
    let tar = bytes.get(257..262) == Some(b"ustar".as_slice());
    let known: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
        (b"\xfd7zXZ\x00", "is compressed with xz: unpack it first"),
        (b"BZh", "is compressed with bzip2: unpack it first"),
        (
            b"\x28\xb5\x2f\xfd",
            "is compressed with zstd: unpack it first",
        ),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
        (b"Rar!", "is a RAR archive: unpack it first"),
        (
            b"\x89HDF\r\n\x1a\n",
            "is an HDF5 file, weights of Keras or TensorFlow: take the repository's safetensors or PyTorch file",
        ),
        (
            b"GGUF",
            "is a GGUF file, weights of llama.cpp: take the safetensors or PyTorch file they were made from",
        ),
        (b"\x93NUMPY", "is a numpy array"),
        (b"\x89PNG", "is a PNG picture"),
        (b"\xff\xd8\xff", "is a JPEG picture"),
        (b"GIF8", "is a GIF picture"),
        (b"%PDF", "is a PDF document"),
        (b"\x7fELF", "is a program or library (ELF)"),
        (b"SQLite format 3", "is an SQLite database"),
    ];
    if tar {
        return Some("is a tar archive: unpack it first".to_owned());
    }
    if let Some((_, words)) = known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some((*words).to_owned());
    }
    if bytes.len() >= 2 && bytes[0] == 0x80 && (2..=5).contains(&bytes[1]) {
        return Some(
            "is a bare pickle (of pickle.dump): load it in Python and write it with torch.save or safetensors"
                .to_owned(),
        );
    }
    text(bytes)
}

/// Whether the head is text: no length of a safetensors header looks so.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(16)];
    let shown = |b: &u8| matches!(b, b' '..=b'~' | b'\n' | b'\r' | b'\t');
    let rest = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    !rest.is_empty() && rest.iter().all(shown)
}

fn text(bytes: &[u8]) -> Option<String> {
    if !is_text(bytes) {
        return None;
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(HEAD)]);
    let head = head.trim_start_matches(['\u{feff}', ' ', '\n', '\r', '\t']);
    let lower = head.to_ascii_lowercase();
    let is = |starts: &[&str]| starts.iter().any(|s| lower.starts_with(s));
    if lower.starts_with("version https://git-lfs.github.com/spec/") {
        let size = head.lines().find_map(|l| l.strip_prefix("size "));
        let size = size.map_or(String::new(), |s| format!(" ({} bytes)", s.trim()));
        return Some(format!(
            "is a Git LFS pointer in the place of the file itself{size}: run `git lfs pull` in its repository, or \
             download the file"
        ));
    }
    if is(&["<!doctype html", "<html", "<head", "<body"]) {
        return Some(
            "is a web page, not the file it was to be: on the Hugging Face hub take the address with /resolve/, not \
             /blob/, and log in where a licence asks for it"
                .to_owned(),
        );
    }
    if is(&["<?xml", "<error"]) {
        return Some(
            "is an XML text, as servers send in the place of a file they refuse".to_owned(),
        );
    }
    if is(&["{", "["]) {
        return Some(
            "is a JSON text: weights lie beside it, under a name like model.safetensors".to_owned(),
        );
    }
    let first: String = head
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(40)
        .collect();
    Some(format!("is a text that begins with {first:?}"))
}

/// What a zip archive without a pickle of torch is.
pub(super) fn archive<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Option<String> {
    let has = |found: &dyn Fn(&str) -> bool| names.clone().any(|n| found(n));
    let held = |endings: &[&str]| {
        names
            .clone()
            .find(|n| endings.iter().any(|e| n.to_lowercase().ends_with(e)))
    };
    if let Some(inner) = held(&[".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".pth.tar"]) {
        return Some(format!("an archive that holds {inner:?}: unpack it first"));
    }
    if held(&[".npy"]).is_some() {
        return Some("an archive of numpy arrays (.npz)".to_owned());
    }
    if held(&[".h5"]).is_some() {
        return Some("a Keras model".to_owned());
    }
    if has(&|n| n == "[Content_Types].xml" || n.starts_with("word/") || n.starts_with("xl/")) {
        return Some("an office document".to_owned());
    }
    if has(&|n| n.starts_with("META-INF/")) {
        return Some("a Java archive".to_owned());
    }
    let picture = held(&[".jpg", ".jpeg", ".png", ".webp"]).is_some();
    picture.then(|| "an archive of pictures".to_owned())
}

/// Files of other frameworks, by how they are called in repositories.
pub(super) const OTHER_FRAMEWORKS: [(&str, &str); 6] = [
    ("flax_model.msgpack", "weights of Flax"),
    ("tf_model.h5", "weights of TensorFlow"),
    (
        "adapter_model.safetensors",
        "an adapter of PEFT, which is no model by itself",
    ),
    (
        "adapter_model.bin",
        "an adapter of PEFT, which is no model by itself",
    ),
    ("model.onnx", "a graph of ONNX"),
    (
        "diffusion_pytorch_model.safetensors",
        "a part of a diffusion model",
    ),
];

/// What model has tensors of these names, where they tell. The first line that fits counts; `+` joins parts that must
/// all occur.
const FAMILIES: [(&str, &str); 40] = [
    (
        "prompt_learner.ctx",
        "learned prompts of the CoOp family (pass them with --prompts)",
    ),
    (
        "compound_prompts_text",
        "learned prompts of MaPLe (pass them with --prompts)",
    ),
    ("lora_A", "LoRA adapters, which are no model by themselves"),
    (
        "lora_down",
        "LoRA adapters, which are no model by themselves",
    ),
    (
        "positional_embedding_res",
        "Long-CLIP, which has another text tower",
    ),
    ("vision_model.head.probe", "SigLIP"),
    (
        "visual.trunk.attn_pool+logit_bias",
        "SigLIP as open_clip keeps it",
    ),
    (
        "visual.trunk.",
        "an open_clip model with an image tower of timm (SigLIP, ConvNeXt, MobileCLIP, ViTamin, ...)",
    ),
    (
        "text.transformer.embeddings.",
        "an open_clip model with a text tower of transformers",
    ),
    (
        "text.transformer.encoder.layer.",
        "an open_clip model with a text tower of transformers",
    ),
    ("text_decoder.resblocks", "CoCa"),
    ("qformer.", "BLIP-2"),
    ("query_tokens", "BLIP-2"),
    ("text_decoder.bert", "BLIP"),
    ("visual_encoder.blocks.", "BLIP or ALBEF"),
    ("text_decoder.cls.predictions", "BLIP"),
    ("vision_model.encoder.layers.0.self_attn.qkv", "BLIP"),
    (
        "multi_modal_projector.",
        "LLaVA or another model that speaks",
    ),
    ("mm_projector", "LLaVA or another model that speaks"),
    ("model.diffusion_model.", "Stable Diffusion"),
    ("visual.blocks.", "EVA-CLIP"),
    ("text_model.roberta.", "AltCLIP"),
    (
        "text_model.embeddings.word_embeddings",
        "Chinese-CLIP or ALIGN",
    ),
    ("bert.encoder+visual.", "Chinese-CLIP"),
    ("decoder.film_mul", "CLIPSeg"),
    ("vision_model.encoder.stages", "GroupViT"),
    ("owlvit.", "OWL-ViT"),
    ("flava.", "FLAVA"),
    ("mit.encoder", "X-CLIP"),
    ("modality_preprocessors.", "ImageBind"),
    ("layer_scale1.lambda1", "DINOv2"),
    ("blocks.0.ls1.gamma", "DINOv2"),
    ("blocks.0.attn.qkv", "a vision transformer of timm"),
    ("vit.encoder.layer", "a vision transformer of transformers"),
    ("roberta.", "RoBERTa"),
    ("bert.", "BERT"),
    ("word_embeddings", "a language model"),
    ("lm_head.weight", "a language model"),
    (
        "layer1.0.conv1.weight+fc.weight",
        "a ResNet that classifies",
    ),
    ("conv_stem+classifier", "an EfficientNet that classifies"),
];

/// Whose tensors these are, if it is known.
pub(super) fn family<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Option<&'static str> {
    let occurs = |part: &str| names.clone().any(|n| n.contains(part));
    if let Some((_, family)) = FAMILIES
        .iter()
        .find(|(signs, _)| signs.split('+').all(occurs))
    {
        return Some(family);
    }
    let is_ctx = |n: &String| n == "ctx" || n.ends_with(".ctx");
    if names.clone().any(is_ctx) {
        return Some("learned prompts of the CoOp family (pass them with --prompts)");
    }
    let text = occurs("token_embedding.weight");
    let image = occurs("visual.") || occurs("vision_model.");
    match (text, image) {
        (true, false) => Some("the text tower of a CLIP alone"),
        (false, true) => Some("the image tower of a CLIP alone"),
        _ => None,
    }
}

/// The model of a `config.json` by its `model_type`, for those whose folders look like a CLIP's.
pub(super) fn model_type(name: &str) -> String {
    let known = match name {
        "siglip" => "SigLIP",
        "siglip2" => "SigLIP 2 for pictures of any shape (NaFlex)",
        "blip" => "BLIP",
        "blip-2" | "blip_2" => "BLIP-2",
        "clip_text_model" => "the text tower of a CLIP alone",
        "clip_vision_model" => "the image tower of a CLIP alone",
        "clipseg" => "CLIPSeg",
        "chinese_clip" => "Chinese-CLIP",
        "altclip" => "AltCLIP",
        "align" => "ALIGN",
        "groupvit" => "GroupViT",
        "xclip" => "X-CLIP",
        "owlvit" | "owlv2" => "OWL-ViT",
        "llava" => "LLaVA",
        "dinov2" | "dinov3_vit" => "DINO",
        "vision-text-dual-encoder" => "a pair of towers of other models",
        "metaclip_2" => "MetaCLIP 2, which has another tokenizer",
        _ => return "another model family".to_owned(),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_is_no_weight_file_is_called_what_it_is() {
        let mut tar = vec![0u8; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, told) in [
            (b"".as_slice(), "empty"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 605247071\n",
                "Git LFS pointer",
            ),
            (
                b"version https://git-lfs.github.com/spec/v1\nsize 605247071\n",
                "605247071 bytes",
            ),
            (b"<!DOCTYPE html>\n<html>", "web page"),
            (b"\n <html lang=en>", "web page"),
            (
                b"<?xml version=\"1.0\"?><Error><Code>AccessDenied",
                "refuse",
            ),
            (b"{\"model_type\": \"clip\"}", "JSON"),
            (b"\xef\xbb\xbf{\"a\": {}}          ", "JSON"),
            (b"Not Found", "\"Not Found\""),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (&tar, "tar archive"),
            (b"\x89HDF\r\n\x1a\n", "Keras"),
            (b"\x80\x04\x95\x00", "bare pickle"),
            (b"\x93NUMPY\x01\x00", "numpy"),
        ] {
            let said = file(bytes).unwrap_or_default();
            assert!(said.contains(told), "{bytes:?}: {said}");
        }
        assert_eq!(file(&[7, 0, 0, 0, 0, 0, 0, 0, b'{']), None);
    }

    #[test]
    fn other_archives_are_called_what_they_are() {
        for (held, told) in [
            (["a/ViT-B-16.pt", "readme"], "ViT-B-16.pt"),
            (["arr_0.npy", "x"], "numpy"),
            (["[Content_Types].xml", "word/document.xml"], "office"),
            (["model.weights.h5", "config.json"], "Keras"),
            (["0.jpg", "1.jpg"], "pictures"),
        ] {
            let held = names(&held);
            let said = archive(held.iter()).unwrap_or_default();
            assert!(said.contains(told), "{held:?}: {said}");
        }
    }

    #[test]
    fn other_models_are_called_by_name() {
        for (held, told) in [
            (
                vec![
                    "vision_model.head.probe",
                    "logit_bias",
                    "text_model.head.weight",
                ],
                "SigLIP",
            ),
            (
                vec!["visual.trunk.attn_pool.latent", "logit_bias"],
                "SigLIP",
            ),
            (vec!["visual.trunk.stem.0.weight"], "timm"),
            (vec!["qformer.encoder.layer.0.a", "query_tokens"], "BLIP-2"),
            (
                vec![
                    "visual_encoder.blocks.0.norm1.weight",
                    "text_decoder.bert.x",
                ],
                "BLIP",
            ),
            (
                vec![
                    "visual.blocks.0.attn.q_proj.weight",
                    "text.token_embedding.weight",
                ],
                "EVA",
            ),
            (vec!["layer1.0.conv1.weight", "fc.weight"], "ResNet"),
            (vec!["prompt_learner.ctx"], "--prompts"),
            (vec!["state_dict.ctx"], "--prompts"),
            (
                vec!["token_embedding.weight", "ln_final.weight"],
                "text tower",
            ),
            (vec!["visual.conv1.weight"], "image tower"),
            (vec!["bert.embeddings"], "BERT"),
        ] {
            let held = names(&held);
            let said = family(held.iter()).unwrap_or_default();
            assert!(said.contains(told), "{held:?}: {said}");
        }
        assert_eq!(family(names(&["x", "y"]).iter()), None);
        assert!(model_type("siglip2").contains("SigLIP"));
    }
}
