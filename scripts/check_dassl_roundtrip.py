#!/usr/bin/env python3
"""Released checkpoints in, our prompts out, logits compared with torch on both ways.

    check_dassl_roundtrip.py PROMPTBED [--model FILE.safetensors] [--work DIR]

For CoOp, CoCoOp, MaPLe and PromptSRC, on a CLIP in OpenAI's names (a random one is drawn when none is given) and a small
dataset of drawn pictures of the CLIP's own size, base and novel classes:

in    torch builds the method (scripts/published), gives it random prompts, and saves them the way the published trainers
      do: `prompt_learner/model.pth.tar-50`, `MultiModalPromptLearner/model.pth.tar-5` and
      `VLPromptLearner/model.pth.tar-20`, the latter two with the whole CLIP in them, token_prefix and token_suffix, an
      SGD optimizer with momentum and a pickled learning-rate schedule; as a zip and as a legacy pickle, in single and half
      precision. `promptbed eval --logits` evaluates the file.
out   `promptbed run` trains a little, `promptbed export --format dassl` writes the published layout,
      `torch.load(weights_only=True)` reads it, the published names go into torch's method.

Logits must agree to 1e-3. Needs: pip install torch numpy safetensors open_clip_torch pillow
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from PIL import Image
from safetensors import safe_open

from published import clip as towers
from published import fixtures, methods
from published.prompts import PROMPTSRC_TEMPLATES

LIMIT = 1e-3
NAMES = fixtures.THINGS[:4] + fixtures.ANIMALS[:3]  # four base classes, three novel ones
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
# Folder and epochs of the published runs; what torch's class takes; the same in a suite's words.
CASES = {
    "coop": ("prompt_learner", 50, {"n_ctx": 4}, {"n_ctx": 4}),
    "cocoop": ("prompt_learner", 10, {"n_ctx": 4, "ctx_init": "a photo of a"}, {"init": "a photo of a"}),
    "maple": (
        "MultiModalPromptLearner",
        5,
        {"n_ctx": 2, "ctx_init": "a photo of a", "depth": 2},
        {"n_ctx": 2, "depth": 2},
    ),
    "promptsrc": (
        "VLPromptLearner",
        20,
        {"n_ctx": 4, "n_ctx_vision": 4, "ctx_init": "a photo of a", "depth": 2},
        {"n_ctx_text": 4, "n_ctx_vision": 4, "depth_text": 2, "depth_vision": 2},
    ),
}
CATALOGUE = """
[drawn-by-script]
title  = "Drawn by a script"
images = "pictures"
reader = "split-json"
split  = "split.json"
prompt = "a photo of a {}."
"""


def pictures(folder, size):
    """Two training and three test pictures a class, blobs of the CLIP's size so that no resampling is compared."""
    generator = torch.Generator().manual_seed(3)
    (folder / "pictures").mkdir()
    split = {"train": [], "val": [], "test": []}
    for label, name in enumerate(NAMES):
        for i in range(5):
            coarse = torch.rand(1, 3, 4, 4, generator=generator)
            whole = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0]
            array = (whole * 255).round().byte().permute(1, 2, 0).numpy()
            file = f"{label}-{i}.png"
            Image.fromarray(array).save(folder / "pictures" / file)
            split["train" if i < 2 else "test"].append([file, label, name])
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "mine.toml").write_text(CATALOGUE)


def pixels(folder, names):
    import numpy

    arrays = [torch.from_numpy(numpy.array(Image.open(folder / "pictures" / name))) for name in names]
    return torch.stack([(a.permute(2, 0, 1).float() / 255 - MEAN) / DEVIATION for a in arrays])


def build(clip, tokenizer, method, classes, params):
    trace = {"method": method, "params": params, "classnames": classes, "teacher_templates": PROMPTSRC_TEMPLATES[:1]}
    return methods.build(clip, tokenizer, trace)


def released(method, built, clip, half):
    """The `state_dict` that the published trainer saves: of its prompt learner alone, or of the whole model."""
    learned = {name: p.detach().clone() for name, p in built.trained.items()}
    embedded = built.place.embedded
    buffers = {"prompt_learner.token_prefix": embedded[:, :1], "prompt_learner.token_suffix": embedded[:, 5:]}
    state = learned | buffers
    if method in ("maple", "promptsrc"):
        own = clip.state_dict()
        state |= {f"image_encoder.{n.removeprefix('visual.')}": t for n, t in own.items() if n.startswith("visual.")}
        text = ("transformer.", "positional_embedding", "ln_final.", "text_projection")
        state |= {f"text_encoder.{n}": t for n, t in own.items() if n.startswith(text)}
        state["logit_scale"] = own["logit_scale"]
        if method == "promptsrc":  # the frozen teacher is a part of the prompt learner there
            teacher = {n.removeprefix("visual."): t for n, t in own.items() if n.startswith("visual.")}
            state |= {f"prompt_learner.ZS_image_encoder.{n}": t for n, t in teacher.items()}
    else:
        state = {name.removeprefix("prompt_learner."): tensor for name, tensor in state.items()}
    return {n: (t.half() if half else t.float()).contiguous() for n, t in state.items()}


def checkpoint(state, built, epoch):
    """What Dassl puts beside the tensors: an optimizer with momentum, and a schedule that is pickled as an object."""
    optimizer = methods.step_optimizer(built)
    for parameter in built.trained.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epoch)
    schedule = {"successor": successor, "warmup_epoch": 1, "last_epoch": epoch, "_last_lr": [1e-5], "cons_lr": 1e-5}
    return {
        "state_dict": state,
        "epoch": epoch,
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule,
        "val_result": None,
    }


class Bed:
    def __init__(self, program, folder, model):
        self.program, self.folder, self.model = program, folder, model

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"promptbed {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout

    def logits(self, prompts, half, *arguments):
        """Logits and pictures of `promptbed eval --split half`."""
        data = ["--dataset", "drawn-by-script", "--data", ".", "--catalogue", "mine.toml", "--model", self.model]
        self.run("eval", "--prompts", prompts, "--split", half, "--logits", "logits", *data, *arguments)
        with safe_open(self.folder / "logits", "pt") as file:
            return file.get_tensor("logits"), json.loads(file.metadata()["images"])


def largest(a, b):
    return float((a.double() - b.double()).abs().nan_to_num(nan=float("inf")).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--model", type=lambda p: pathlib.Path(p).resolve(), help="safetensors in OpenAI's names")
    parser.add_argument("--work", type=pathlib.Path, help="folder to work in, kept [default: a temporary one]")
    arguments = parser.parse_args()
    tokenizer = towers.tokenizer()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.work or pathlib.Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        model = arguments.model
        if model is None:
            texts = ["X X X X", "a photo of a"] + [t.format(n) for t in PROMPTSRC_TEMPLATES for n in NAMES]
            texts += [f"X X X X {n}." for n in NAMES]
            fixtures.write_clip(folder, fixtures.WIDE, texts, tokenizer)
            model = folder / f"{fixtures.WIDE['name']}.safetensors"
        clip = towers.load(model)
        size = clip.visual.conv1.kernel_size[0] * round((len(clip.visual.positional_embedding) - 1) ** 0.5)
        pictures(folder, size)
        bed = Bed(arguments.program, folder, model)
        halves = {"base": NAMES[:4], "novel": NAMES[4:]}
        suite = 'version = 1\nprotocol = "base-to-novel"\ndatasets = ["drawn-by-script"]\nshots = [2]\nseeds = [1]\n'
        for method, (_, _, _, config) in CASES.items():
            table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
            suite += f'[[method]]\nname = "{method}"\nepochs = 2\nconfig = {{ {table} }}\n'
        (folder / "suite.toml").write_text(suite)
        bed.run("run", "suite.toml", "--out", "out", "--model", model, "--data", ".", "--catalogue", "mine.toml")

        for method, (learner, epoch, params, config) in CASES.items():
            given = ["--method", method]
            for key, value in config.items():
                given += ["--set", f"{key}={json.dumps(value)}"]
            # In: the base classes' checkpoint, evaluated on both halves.
            base = build(clip, tokenizer, method, halves["base"], params)
            with torch.no_grad():
                for parameter in base.trained.values():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            for half in (False, True):
                state = released(method, base, clip, half)
                values = {name: state.get(name, state.get(name.removeprefix("prompt_learner."))) for name in base.trained}
                for is_zip in (True, False):
                    path = folder / f"{method}-{'half' if half else 'single'}-{'zip' if is_zip else 'legacy'}" / learner
                    path.mkdir(parents=True, exist_ok=True)
                    path = path / f"model.pth.tar-{epoch}"
                    saved = checkpoint(state, base, epoch)
                    torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
                    for split, classes in halves.items():
                        theirs = build(clip, tokenizer, method, classes, params)
                        theirs.restart({name: value.float() for name, value in values.items()})
                        ours, images = bed.logits(path, split, *given)
                        with torch.no_grad():
                            off = largest(ours, theirs.logits(pixels(folder, images)))
                        good = off <= LIMIT
                        failed += not good
                        kind = f"{len(state)} {'half' if half else 'single'}-precision tensors, {'zip' if is_zip else 'legacy'}"
                        print(f"in   {method:9} {split:5} {kind}: logits off by {off:.1e} of {float(ours.abs().max()):.1f}{'' if good else '  FAILED'}")
            # Out: what we trained, in torch.
            prompts = sorted((folder / "out" / "prompts").glob(f"{method}-*.safetensors"))[0]
            path = folder / bed.run("export", "--prompts", prompts, "--format", "dassl", "--out", f"exported-{method}").strip()
            state = torch.load(path, weights_only=True)["state_dict"]
            for split, classes in halves.items():
                theirs = build(clip, tokenizer, method, classes, params)
                theirs.restart({n: state.get(n, state.get(n.removeprefix("prompt_learner."))) for n in theirs.trained})
                ours, images = bed.logits(prompts, split)
                with torch.no_grad():
                    off = largest(ours, theirs.logits(pixels(folder, images)))
                good = off <= LIMIT and len(state) == len(theirs.trained)
                failed += not good
                place = path.relative_to(folder / f"exported-{method}")
                print(f"out  {method:9} {split:5} {place}, {len(state)} tensors: logits off by {off:.1e}{'' if good else '  FAILED'}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
