"""Random-weight CLIPs of real sizes: our features against open_clip's and transformers', in every file format of the field.

    pip install torch open_clip_torch transformers safetensors
    cargo build --release -p clip --example encode
    python scripts/compare_real_sizes.py [--model NAME ...] [--encode PATH]

Prints one line of JSON a model and format: largest differences of text and image features (also relative to the largest
feature), whether tokens are equal, and what loading cost: seconds, and the most memory held against what the model takes
in float32. Exits with 1 if a difference is above 1e-4 of the largest feature.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = [
    "a photo of a cat.",
    "a centered satellite photo of annual crop land.",
    "naïve café — “quotes” &amp; emoji 😀",
    "2012 Ferrari FF Coupé, don't can't THEY'VE",
    "日本語 text",
    "x " * 75,
]


def open_clip_folder(model, name, folder):
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def zip_state_dict(model, _name, folder):
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def legacy_state_dict(model, _name, folder):
    torch.save(model.state_dict(), folder / "model.pth", _use_new_zipfile_serialization=False)
    return folder / "model.pth"


def half_checkpoint(model, _name, folder):
    state = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save({"epoch": 1, "name": "x", "state_dict": state}, folder / "epoch_1.pt")
    return folder / "epoch_1.pt"


class Part(nn.Module):
    def forward(self, x):
        return x


def module_of(tree):
    """Modules and parameters of a nested dictionary; `resblocks.0` and the like become a Sequential."""
    if all(key.isdigit() for key in tree):
        return nn.Sequential(*[module_of(tree[str(i)]) for i in range(len(tree))])
    module = Part()
    for key, value in tree.items():
        if isinstance(value, dict):
            module.add_module(key, module_of(value))
        elif value.is_floating_point():
            module.register_parameter(key, nn.Parameter(value, requires_grad=False))
        else:
            module.register_buffer(key, value)
    return module


def half_torchscript(model, _name, folder):
    """As OpenAI's archives are: scripted modules, half precision."""
    tree = {}
    for name, value in model.state_dict().items():
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value.half() if value.is_floating_point() else value
    torch.jit.save(torch.jit.script(module_of(tree)), folder / "model.pt")
    return folder / "model.pt"


def openai_safetensors(model, _name, folder):
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def hugging_face_folder(model, _name, folder):
    model.clip.save_pretrained(folder / "hf")
    return folder / "hf"


def sharded_folder(model, _name, folder):
    model.clip.save_pretrained(folder / "hf", max_shard_size="150MB")
    assert (folder / "hf" / "model.safetensors.index.json").exists()
    return folder / "hf"


# Model, how it is written, whether its values are rounded to half precision first.
CASES = {
    "ViT-B-16-quickgelu": [(openai_safetensors, False), (open_clip_folder, False), (zip_state_dict, False)],
    "ViT-B-16": [(open_clip_folder, False)],
    "ViT-L-14-quickgelu": [(openai_safetensors, False), (half_torchscript, True), (half_checkpoint, True)],
    "RN50-quickgelu": [(legacy_state_dict, False), (half_checkpoint, True), (half_torchscript, True)],
    "transformers ViT-B-16": [(hugging_face_folder, False), (sharded_folder, False)],
    "transformers ViT-L-14": [(hugging_face_folder, False)],
}


class Transformers(nn.Module):
    """transformers' CLIP with open_clip's verbs."""

    def __init__(self, vision, text, embedding):
        super().__init__()
        from transformers import CLIPConfig, CLIPModel

        config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=embedding)
        self.clip = CLIPModel(config)

    def encode_text(self, tokens):
        found = self.clip.get_text_features(input_ids=tokens)
        return found if torch.is_tensor(found) else found.pooler_output

    def encode_image(self, pixels):
        found = self.clip.get_image_features(pixel_values=pixels)
        return found if torch.is_tensor(found) else found.pooler_output


def sizes(width, layers, heads, **more):
    return dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act="quick_gelu",
        **more,
    )


TRANSFORMERS = {
    "transformers ViT-B-16": (sizes(768, 12, 12, patch_size=16, image_size=224), sizes(512, 12, 8), 512),
    "transformers ViT-L-14": (sizes(1024, 24, 16, patch_size=14, image_size=224), sizes(768, 12, 12), 768),
}


def build(name, rounded):
    torch.manual_seed(0)
    if name in TRANSFORMERS:
        model = Transformers(*TRANSFORMERS[name]).float().eval()
    else:
        model = open_clip.create_model(name, pretrained=None).float().eval()
    with torch.no_grad():
        # As initialised, biases, last gains of residual branches and running averages are 0 or 1 and would hide faults.
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif key.endswith(("running_mean", "bias")):
                value.normal_(0, 0.05)
            elif key.endswith("weight") and value.dim() == 1:
                value.uniform_(0.5, 1.5)
        if rounded:
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.copy_(value.half().float())
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=CASES)
    parser.add_argument("--encode", default=ROOT / "target/release/examples/encode")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--compact", action="store_true", help="keep blocks in half precision where that changes nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    worst = 0.0
    for name in arguments.model or CASES:
        for write, rounded in CASES[name]:
            model = build(name, rounded)
            is_open_clip = name not in TRANSFORMERS
            size = model.visual.image_size if is_open_clip else model.clip.config.vision_config.image_size
            size = size[0] if isinstance(size, (tuple, list)) else size
            pixels = torch.randn(arguments.images, 3, size, size, generator=torch.Generator().manual_seed(1))
            tokens = open_clip.get_tokenizer(name if is_open_clip else "ViT-B-16")(TEXTS)
            with torch.inference_mode():
                expected = {"text_features": model.encode_text(tokens), "image_features": model.encode_image(pixels)}
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                path = write(model, name, folder)
                del model
                save_file({"pixels": pixels}, folder / "pixels")
                (folder / "texts.json").write_text(json.dumps(TEXTS))
                command = [arguments.encode, path, folder / "texts.json", folder / "pixels", folder / "out"]
                command += ["compact"] * arguments.compact
                report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                ours = load_file(folder / "out")
            line = {"model": name, "written": write.__name__, "tokens_equal": bool((ours["tokens"] == tokens).all())}
            for key, value in expected.items():
                difference, largest = (ours[key] - value).abs().max().item(), value.abs().max().item()
                line[key] = {"largest_difference": difference, "largest": largest, "relative": difference / largest}
                worst = max(worst, difference / largest, 0 if line["tokens_equal"] else 1)
            print(json.dumps(line | report), flush=True)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
