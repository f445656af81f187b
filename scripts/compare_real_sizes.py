"""Random-weight CLIPs of real sizes: our features against open_clip's, in every file format torch can write.

    pip install torch open_clip_torch safetensors
    cargo build --release -p clip --example encode
    python scripts/compare_real_sizes.py [--model NAME ...] [--encode PATH]

Prints one line of JSON a model: largest differences of text and image features (also relative to the largest feature),
whether tokens are equal, and what loading cost. Exits with 1 if a difference is above 1e-4 of the largest feature.
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


# Model, how it is written, whether its values are rounded to half precision first.
CASES = {
    "ViT-B-16-quickgelu": [(open_clip_folder, False), (zip_state_dict, False)],
    "ViT-B-16": [(open_clip_folder, False)],
    "ViT-L-14-quickgelu": [(half_checkpoint, True)],
    "RN50-quickgelu": [(legacy_state_dict, False), (half_checkpoint, True)],
}


def build(name, rounded):
    torch.manual_seed(0)
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
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    worst = 0.0
    for name in arguments.model or CASES:
        for write, rounded in CASES[name]:
            model = build(name, rounded)
            size = model.visual.image_size
            size = size[0] if isinstance(size, (tuple, list)) else size
            pixels = torch.randn(arguments.images, 3, size, size, generator=torch.Generator().manual_seed(1))
            tokens = open_clip.get_tokenizer(name)(TEXTS)
            with torch.inference_mode():
                expected = {"text_features": model.encode_text(tokens), "image_features": model.encode_image(pixels)}
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                path = write(model, name, folder)
                del model
                save_file({"pixels": pixels}, folder / "pixels")
                (folder / "texts.json").write_text(json.dumps(TEXTS))
                command = [arguments.encode, path, folder / "texts.json", folder / "pixels", folder / "out"]
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
