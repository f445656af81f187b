#!/usr/bin/env python3
"""Times the published training steps of prompt tuning in PyTorch, on random ViT-B/16 weights, on the CPU in float32.

    bench_torch.py [METHOD...] [--best] [--steps 5] [--threads 2] [--classes 50]

Prints one JSON line a method: the median seconds of a step (forward, backward, optimiser) after a warm-up, items a
second, and the peak memory of the process that ran it alone. As published: 77-token sequences, everything
recomputed at every step, frozen parameters without gradients. `--best` is what a torch user could easily do:
sequences cut to the longest prompt, the frozen image tower in inference mode, CoCoOp's images in one text batch,
TPT's view 0 not encoded again. Attention is torch's fused kernel (scaled_dot_product_attention) in both.

Needs: pip install torch numpy safetensors open_clip_torch
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice, product

import torch

from published import methods
from published.clip import logits_of, tokenizer, unit
from published.fixtures import draw_clip

VIT_B16 = dict(embed=512, vision=(768, 12, 16, 224), text=(512, 12), scale=4.6, seed=0)
WORDS = "a photo of a"
# As the base-to-novel configurations of the papers have them.
SETTINGS = {
    "coop": dict(method="coop", batch=32, params={"n_ctx": 4, "ctx_init": WORDS}),
    "cocoop": dict(method="cocoop", batch=1, params={"n_ctx": 4, "ctx_init": WORDS}),
    "cocoop-eval": dict(method="cocoop", batch=4, params={"n_ctx": 4, "ctx_init": WORDS}),
    "maple": dict(method="maple", batch=4, params={"n_ctx": 2, "ctx_init": WORDS, "depth": 9}),
    "promptsrc": dict(
        method="promptsrc",
        batch=4,
        params={"n_ctx": 4, "n_ctx_vision": 4, "ctx_init": WORDS, "depth": 9},
        teacher_templates=["a photo of a {}."],  # encoded before training, so their number costs no step anything
    ),
    "tpt": dict(method="tpt", batch=64, params={"n_ctx": 4, "ctx_init": WORDS}, lr=[5e-3], selection_p=0.1),
    "encode": dict(batch=16),
    "encode-bf16": dict(batch=16),
}


def class_names(count):
    """Names of 5 or 6 tokens, so that "a photo of a {}." takes 12 or 13 with its start, period and end.

    No two begin with the same word, which is one token of the vocabulary; otherwise as `promptbed bench` makes them up.
    """
    vocabulary = tokenizer().decoder
    words = (vocabulary[i] for i in range(1000, len(vocabulary)))
    words = (w.removesuffix("</w>") for w in words if w.endswith("</w>"))
    words = (w for w in words if len(w) >= 4 and w.isascii() and w.isalpha() and w.islower())
    colours = ["red", "blue", "green", "black", "white"]
    things = ["fishing boat", "sports car", "mountain dog", "kitchen chair"]
    things += ["city bus", "flower pot", "music box", "stone house"]
    places = ["outdoors", "upstairs", "at night", "in winter", "by road"]
    rest = cycle([" ".join(parts) for parts in product(colours, things, places)])
    names = [f"{word} {more}" for word, more in islice(zip(words, rest), 1000)]
    order = sorted(range(len(names)), key=lambda i: i * 7919 % len(names))  # neighbours differ in every word
    assert count <= len(names), f"at most {len(names)} classes, {count} asked for"
    return [names[i] for i in order[:count]]


class BatchedCoCoOp(methods.CoCoOp):
    def logits(self, images):
        features = unit(self.image_features(images))
        ctx = self["prompt_learner.ctx"] + self.shifts(features).unsqueeze(1)
        prompts = torch.cat([self.place.fill(one) for one in ctx])  # [B * K, L, W]
        texts = self.clip.encode_prompts(prompts, self.place.ends.repeat(len(images)))
        texts = texts.reshape(len(images), len(self.names), -1)
        return torch.stack([logits_of(self.clip, f.unsqueeze(0), t)[0] for f, t in zip(features, texts)])


def improve(method):
    """What changes no number and takes a torch user minutes."""
    method.place.cut()
    if isinstance(method, (methods.MaPLe, methods.IVLP)):
        return  # their image towers carry gradients
    frozen = lambda images: method.clip.encode_image(images)
    kept = {}

    def image_features(images):
        if isinstance(method, methods.TPT) and len(images) == 1:
            return kept["views"][:1]
        with torch.inference_mode():
            features = frozen(images)
        kept["views"] = features.clone()  # outside inference mode: a tensor that backward may keep
        return kept["views"]

    method.image_features = image_features


def prepare(name, best, classes):
    """The step to time and how many images it takes."""
    settings = SETTINGS[name]
    clip = draw_clip(VIT_B16)
    batch = settings["batch"]
    images = torch.randn(batch, 3, 224, 224)
    if name.startswith("encode"):

        def encode():
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=name == "encode-bf16"):
                clip.encode_image(images)

        return encode, batch, None
    trace = settings | {"classnames": class_names(classes)}
    kind = BatchedCoCoOp if best and settings["method"] == "cocoop" else methods.METHODS[settings["method"]]
    with torch.no_grad():
        method = kind(clip, tokenizer(), trace)
    length = int(method.place.ends.max()) + 1
    if best:
        improve(method)
    if name == "tpt":
        return lambda: method.adapt(images), 1, length
    if name == "cocoop-eval":

        def evaluate():
            with torch.inference_mode() if best else torch.no_grad():
                method.logits(images)

        return evaluate, batch, length
    labels = torch.randint(classes, (batch,))
    optimizer = methods.step_optimizer(method)
    optimizer.param_groups[0]["lr"] = 2e-3

    def train():
        optimizer.zero_grad()
        method.backward(images, labels)
        optimizer.step()

    return train, batch, length


def instructions():
    """The vectors that torch's kernels are compiled for here, and whether oneDNN finds the matrix unit."""
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.backends.cpu.get_cpu_capability() + (" and AMX" if has_tiles else "")


def peak_mb():
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # kilobytes on Linux


def measure(name, args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    step, items, length = prepare(name, args.best, args.classes)
    ready = peak_mb()
    seconds = []
    for _ in range(args.warmup + args.steps):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    seconds = seconds[args.warmup :]
    median = statistics.median(seconds)
    record = {
        "method": name,
        "mode": "best" if args.best else "published",
        "classes": args.classes,
        "longest_prompt": length,
        "batch": SETTINGS[name]["batch"],
        "seconds_per_step": round(median, 4),
        "images_per_second": round(items / median, 3),
        "fastest": round(min(seconds), 4),
        "slowest": round(max(seconds), 4),
        "steps": len(seconds),
        "peak_rss_mb": peak_mb(),
        "rss_before_mb": ready,
        "threads": args.threads,
        "torch": torch.__version__,
        "isa": instructions(),
        "machine": platform.machine(),
    }
    print(json.dumps(record), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"default: all of {', '.join(SETTINGS)}")
    parser.add_argument("--best", action="store_true", help="with the savings a torch user could easily make")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default 5)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.methods if name not in SETTINGS]
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    if args.steps < 1 or args.warmup < 0 or args.threads < 1 or args.classes < 1:
        parser.error("--steps, --threads and --classes start at 1, --warmup at 0")
    if args.alone:
        return measure(args.methods[0], args)
    # Each method in a process of its own: peak memory is the process's.
    flags = [f"--{key}={getattr(args, key)}" for key in ("steps", "warmup", "threads", "classes")]
    flags += ["--best"] * args.best
    for name in args.methods or SETTINGS:
        if subprocess.run([sys.executable, __file__, name, "--alone", *flags]).returncode:
            sys.exit(f"{name} failed")


if __name__ == "__main__":
    main()
