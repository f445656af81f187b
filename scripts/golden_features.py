"""Random-weight BiomedCLIPs and SigLIPs: the folders, tokens and features that open_clip and transformers make of them.

    pip install torch open_clip_torch==3.3.0 transformers==5.24.0 timm safetensors
    python scripts/golden_features.py fixtures                       # writes crates/clip/tests/fixtures/<family>
    python scripts/golden_features.py real [--promptbed PATH]        # real sizes, through `promptbed encode`

`fixtures` are tiny, their numbers such as half precision holds; tests of crates/clip compare with them. `real` commits nothing: it
draws BERT-base with ViT-B/16 (BiomedCLIP's sizes) and SigLIP B/16 in the forms of open_clip and transformers, and prints one
line of JSON each: whether tokens are equal, and the largest gaps of text and picture features beside the largest feature. It
exits with 1 if tokens differ or a gap is above 1e-5 of the largest feature.

Vocabularies are made here, of the words and letters below: the published ones need a download. Unigrams come out with other scores
each time, so that their fixtures change when they are written again.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import open_clip
import torch
import transformers
from open_clip.model import CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "crates/clip/tests/fixtures"
WORDS = """a an the photo of x centered satellite image picture annual crop land sea lake river cat dog tumor glioma brain normal
lungs covid pneumonia type texture flower pet this is one which has color shape habitat person doing aircraft benign malignant
scan tissue stroma an example in out by with and or no""".split()
PIECES = "##s ##ing ##ed ##er ##tion ##al ##itis ##oma ##ular ##ic ##x ##a ##y".split()
CORPUS = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
TEXTS = [
    "a photo of a cat.",
    "a centered satellite photo of annual crop land.",
    "X X X X glioma tumor.",
    "",
    "Naïve CAFÉ — “quotes” &amp; emoji 😀",
    "an_example_of_snake_case, isn't it?",
]


def awkward():
    """Strings on which tokenizers differ: accents, capitals that grow, signs, CJK, spaces of all kinds, controls."""
    signs = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + list("–—…«»¿¡§¶†•°±×÷€£¥©®™√∞≠≤≥←→★♥")
    letters = ["é", "É", "ñ", "ö", "Å", "ﬁ", "ß", "İ", "ı", "Ł", "ø", "ǆ", "Ω", "Ж", "ё", "ن", "ה", "ก", "한", "日本", "中文字", "𠀀", "ァ"]
    spaces = ["\t", "\n", "\r\n", "\u00a0", "\u2003", "\u200b", "\u200d", "\u3000", "\u2028", "\ufeff", "\u00ad", "\x00", "\x1f", "\x7f"]
    out = [f"tumor{s}scan" for s in signs + letters + spaces]
    out += [f"{s} brain {s}" for s in signs + letters + spaces]
    out += [f"{a}{b}" for a in letters for b in ("s", "ing", "1")]
    out += ["[CLS] photo [SEP]", "[PAD]", "[MASK] x", "[UNK]", "unknownword", "photosing", "tumorsss", "x" * 90, "x" * 101]
    out += ["covid-19", "3.5 mm", "T2-weighted MRI", "e\u0301te\u0301", "a\u0300\u0301\u0302", "１２３ ＡＢＣ", "½ ⅷ ²", "👩‍👩‍👧 family", "don't CAN'T"]
    out += ["  spaces   between  ", "MiXeD CaSe WoRdS", "under_score", "slash/back\\slash", "tab\tnew\nline", "café CAFÉ café"]
    return out


def vocabulary_of_bert(folder):
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [w for w in WORDS if len(w) > 1] + PIECES
    tokens += letters + [f"##{c}" for c in letters if c.isalnum() and f"##{c}" not in PIECES] + ["é", "中", "日", "ß", "–"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)) + "\n")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(dict.fromkeys(tokens))


def unigrams(folder):
    """As SigLIP's: pieces of words, an end token that also fills up, no start token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789"))
    tokenizer.train_from_iterator(CORPUS, trainer)
    return save_tokenizer(tokenizer, folder, "</s>", "</s>")


def byte_pairs(folder):
    """As SigLIP 2's: byte pairs of spaced words with bytes to fall back on, <eos>, <pad>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<pad>", "<eos>", "<unk>"] + bytes_, show_progress=False, max_token_length=12,
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789"))
    # No pair crosses a space, as in Gemma's.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.pre_tokenizer = None
    return save_tokenizer(tokenizer, folder, "<eos>", "<pad>")


def save_tokenizer(tokenizer, folder, end, pad):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": pad, "eos_token": end, "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


def trunk(image, patch, width, heads, depth, pooled, act):
    layer = {"gelu": nn.GELU, "tanh": lambda: nn.GELU("tanh")}[act]
    return VisionTransformer(
        img_size=image, patch_size=patch, embed_dim=width, num_heads=heads, depth=depth, num_classes=0, act_layer=layer,
        class_token=not pooled, global_pool="map" if pooled else "token")


def draw(model, tiny):
    """Numbers of the size that trained ones have, everywhere; of tiny models those that half precision holds."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 0 or name in ("logit_scale", "logit_bias"):
                continue
            is_gain = "norm" in name.lower() or ".ln_" in name
            if is_gain and name.endswith("weight"):
                p.copy_(1 + 0.1 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.1 * torch.randn_like(p))
            elif "embed" in name or "latent" in name or "probe" in name or "cls_token" in name:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) / p[0].numel() ** 0.5)
            if tiny:
                p.copy_(p.half().float())
    return model.eval()


def open_clip_model(model_cfg, tiny):
    model = CustomTextCLIP(**{k: v for k, v in model_cfg.items() if k != "custom_text"})
    if tiny:
        model.visual = tiny["visual"]
    return draw(model, bool(tiny))


def save_open_clip(model, model_cfg, preprocess, folder, tiny):
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state = {k: v.half() if tiny and v.is_floating_point() else v for k, v in state.items()}
    save_file(state, folder / "open_clip_model.safetensors")


def biomedclip(folder, tiny):
    """BERT with an MLP projection, read at [CLS]; timm's ViT."""
    rows = vocabulary_of_bert(folder)
    if tiny:
        bert = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=96)
        joint, context, image = 24, 80, 16
    else:
        bert, joint, context, image, rows = {}, 512, 256, 224, 30522
    config = transformers.BertConfig(vocab_size=rows, **bert)
    with tempfile.TemporaryDirectory() as hf:
        config.save_pretrained(hf)
        text = dict(hf_model_name=hf, hf_proj_type="mlp", hf_pooler_type="cls_last_hidden_state_pooler", context_length=context)
        vision = dict(timm_model_name="vit_base_patch16_224", timm_model_pretrained=False, timm_pool="", timm_proj="linear", image_size=image)
        model_cfg = dict(embed_dim=joint, vision_cfg=vision, text_cfg=text, custom_text=True)
        visual = None
        if tiny:
            visual = TimmModel("test_vit", joint, image_size=160, pool="", proj="linear")
            visual.trunk, visual.head.proj = trunk(16, 8, 24, 12, 2, False, "gelu"), nn.Linear(24, joint, bias=False)
            vision = dict(vision_cfg=dict(layers=1, width=24, head_width=24, patch_size=8, image_size=16))
            model = open_clip_model({**model_cfg, **vision, "text_cfg": {**text, "hf_model_pretrained": False}}, {"visual": visual})
        else:
            model = open_clip_model({**model_cfg, "text_cfg": {**text, "hf_model_pretrained": False}}, None)
    model_cfg["text_cfg"] = {**text, "hf_model_name": "drawn/bert", "hf_tokenizer_name": "drawn/bert"}
    if tiny:
        config.save_pretrained(folder)  # says how many heads there are; BiomedCLIP's folder has none, and heads of 64
    look = open_clip.constants.OPENAI_DATASET_MEAN, open_clip.constants.OPENAI_DATASET_STD
    save_open_clip(model, model_cfg, dict(mean=look[0], std=look[1]), folder, tiny)
    tokenizer = HFTokenizer(str(folder), context_length=context)
    return model, tokenizer, image


def siglip(act):
    def make(folder, tiny):
        """SigLIP as open_clip keeps it; `act` says which GELU the text tower has."""
        rows = (unigrams if act == "gelu" else byte_pairs)(folder)
        width, image, context, layers, heads = (24, 16, 64, 2, 4) if tiny else (768, 224, 64, 12, 12)
        text = dict(
            context_length=context, vocab_size=rows if tiny else 32000, hf_tokenizer_name="drawn/siglip", width=width, heads=heads,
            layers=layers, no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs={"eps": 1e-6},
            tokenizer_kwargs={"clean": "canonicalize"})
        if act == "tanh":
            text["act_kwargs"] = {"approximate": "tanh"}
        vision = dict(timm_model_name="vit_base_patch16_siglip_224", timm_model_pretrained=False, timm_pool="map", timm_proj="none", image_size=image)
        model_cfg = dict(embed_dim=width, init_logit_bias=-10, custom_text=True, vision_cfg=vision, text_cfg=text)
        if tiny:
            visual = TimmModel.__new__(TimmModel)
            nn.Module.__init__(visual)
            visual.trunk, visual.head = trunk(16, 8, width, 12, 2, True, "gelu"), nn.Sequential()
            own = dict(vision_cfg=dict(layers=1, width=24, head_width=24, patch_size=8, image_size=16))
            model = open_clip_model({**model_cfg, **own}, {"visual": visual})
        else:
            model = open_clip_model(model_cfg, None)
        half = [0.5, 0.5, 0.5]
        save_open_clip(model, model_cfg, dict(mean=half, std=half, interpolation="bicubic", resize_mode="squash"), folder, tiny)
        return model, HFTokenizer(str(folder), context_length=context, clean="canonicalize"), image

    return make


class OfTransformers(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def encode_text(self, tokens):
        return self.model.get_text_features(input_ids=tokens).pooler_output

    def encode_image(self, pixels):
        return self.model.get_image_features(pixel_values=pixels).pooler_output


def siglip_of_transformers(folder, tiny):
    rows = unigrams(folder)
    if tiny:
        text = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=rows, max_position_embeddings=64)
        vision = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=8)
    else:
        text, vision = dict(vocab_size=32000, max_position_embeddings=64), dict(image_size=224, patch_size=16)
    text["projection_size"] = vision.get("hidden_size", 768)
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    model = draw(transformers.SiglipModel(config), tiny)
    (model.half() if tiny else model).save_pretrained(folder)
    model.float()
    side = {"height": vision["image_size"], "width": vision["image_size"]}
    processor = dict(image_processor_type="SiglipImageProcessor", size=side, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                     do_resize=True, do_rescale=True, do_normalize=True, rescale_factor=1 / 255)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tokenizer = HFTokenizer(str(folder), context_length=64, clean="canonicalize")
    return OfTransformers(model), tokenizer, vision["image_size"]


FAMILIES = {"biomedclip": biomedclip, "siglip": siglip("gelu"), "siglip2": siglip("tanh"), "siglip-transformers": siglip_of_transformers}


def expected(model, tokenizer, image, texts):
    torch.manual_seed(3)
    pixels = torch.randn(2, 3, image, image)
    tokens = tokenizer(texts)
    with torch.no_grad():
        return dict(tokens=tokens, pixels=pixels, text_features=model.encode_text(tokens).contiguous(), image_features=model.encode_image(pixels).contiguous())


def fixtures():
    for name, make in FAMILIES.items():
        folder = FIXTURES / name
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        model, tokenizer, image = make(folder, True)
        save_file(expected(model, tokenizer, image, TEXTS), folder / "expected.safetensors")
        (folder / "texts.json").write_text(json.dumps(TEXTS, indent=1, ensure_ascii=False))
        if name == "biomedclip":
            texts = awkward()
            plain = transformers.AutoTokenizer.from_pretrained(folder)
            ids = plain(texts)["input_ids"]
            plain.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
            (folder / "awkward.json").write_text(json.dumps([[t, i] for t, i in zip(texts, ids)], ensure_ascii=False))
        print(name, sum(f.stat().st_size for f in folder.iterdir()) // 1024, "KiB")


def real(promptbed):
    failed = False
    for name, make in FAMILIES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            model, tokenizer, image = make(folder, False)
            want = expected(model, tokenizer, image, TEXTS)
            (folder / "texts.json").write_text(json.dumps(TEXTS))
            save_file({"pixels": want["pixels"]}, folder / "pixels.safetensors")
            command = [promptbed, "encode", "--model", folder, "--texts", folder / "texts.json", "--pixels", folder / "pixels.safetensors", "--out", folder / "out.safetensors"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            got = load_file(folder / "out.safetensors")
        line = {"family": name, "tokens_equal": bool((got["tokens"] == want["tokens"]).all())}
        for what in ("text_features", "image_features"):
            gap, most = (got[what] - want[what]).abs().max().item(), want[what].abs().max().item()
            line[what] = {"gap": gap, "largest": most, "relative": gap / most}
            failed |= gap > 1e-5 * most
        failed |= not line["tokens_equal"]
        print(json.dumps(line), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["fixtures", "real"])
    parser.add_argument("--promptbed", default=ROOT / "target/release/promptbed", help="program to compare with")
    arguments = parser.parse_args()
    if arguments.what == "fixtures":
        fixtures()
    else:
        real(arguments.promptbed)
