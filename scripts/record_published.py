#!/usr/bin/env python3
"""Records the small runs of the authors' own code that promptbed's tests replay.

    record_published.py towers                 crates/clip/tests/fixtures/published/resnet*.safetensors: a random
                                               ModifiedResNet CLIP and what OpenAI's code computes from it
    record_published.py traces --coop DIR      crates/runner/tests/fixtures/published: CoOp and CoCoOp as
                                               github.com/KaiyangZhou/CoOp trains them, DIR being a checkout of it

The traces start from the models, pictures and starting values of crates/runner/tests/fixtures/traces, whose results an
independent implementation computed (make_traces.py); the largest differences between the two are printed.

Needs: pip install torch torchvision safetensors openai-clip ftfy regex 'setuptools<70'
"""

import argparse
import importlib
import json
import sys
import types
from pathlib import Path

import torch
from clip import clip
from clip.model import CLIP, build_model
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
TRACES = ROOT / "crates/runner/tests/fixtures/traces"
RUNS = ROOT / "crates/runner/tests/fixtures/published"
TOWERS = ROOT / "crates/clip/tests/fixtures/published"
VOCABULARY = 49408


def whole(state):
    """A state dict with every token row; those that were left out are zero."""
    ids = state.pop("token_embedding.ids")
    rows = torch.zeros(VOCABULARY, state["token_embedding.weight"].shape[1], dtype=torch.float16)
    rows[ids] = state["token_embedding.weight"]
    return state | {"token_embedding.weight": rows}


def cut(state, ids):
    return state | {"token_embedding.ids": ids, "token_embedding.weight": state["token_embedding.weight"][ids].contiguous()}


def resnet():
    """The smallest ModifiedResNet that OpenAI's `build_model` takes: 64 pixels, width 4, one block a stage."""
    torch.manual_seed(0)
    model = CLIP(embed_dim=16, image_resolution=64, vision_layers=(1, 1, 1, 1), vision_width=4, vision_patch_size=None,
                 context_length=77, vocab_size=VOCABULARY, transformer_width=64, transformer_heads=1, transformer_layers=1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():  # statistics and gains that are not 0 and 1
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.2)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif ".bn" in name and name.endswith("weight") or ".downsample.1.weight" in name:
                tensor.uniform_(0.5, 1.5)
            elif ".bn" in name and name.endswith("bias"):
                tensor.normal_(0, 0.1)
    state = {n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}
    texts = json.loads((TOWERS / "texts.json").read_text())
    tokens = clip.tokenize(texts)
    used = tokens.unique()
    state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    small = cut(state, used)
    model = build_model(whole(dict(small))).float().eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = {"pixels": pixels, "image_features": model.encode_image(pixels), "text_features": model.encode_text(tokens)}
    save_file({n: t.contiguous() for n, t in small.items()}, TOWERS / "resnet.safetensors")
    save_file(expected, TOWERS / "resnet-expected.safetensors")


def trainers(checkout):
    """The modules of CoOp's checkout, without Dassl, of which none of the classes used here needs a part."""
    class Registry:
        def register(self):
            return lambda kind: kind

    parts = {"engine": dict(TRAINER_REGISTRY=Registry(), TrainerX=object), "metrics": dict(compute_accuracy=None),
             "utils": dict(load_pretrained_weights=None, load_checkpoint=None),
             "optim": dict(build_optimizer=None, build_lr_scheduler=None)}
    sys.modules["dassl"] = types.ModuleType("dassl")
    for name, members in parts.items():
        module = types.ModuleType(f"dassl.{name}")
        vars(module).update(members)
        sys.modules[module.__name__] = module
    sys.path.insert(0, str(checkout))
    return {name: importlib.import_module(f"trainers.{name}") for name in ("coop", "cocoop")}


def configuration(params, size):
    learner = types.SimpleNamespace(N_CTX=params["n_ctx"], CTX_INIT=params.get("ctx_init", ""), CSC=params.get("csc", False),
                                    CLASS_TOKEN_POSITION=params.get("position", "end"), PREC="fp32")
    return types.SimpleNamespace(TRAINER=types.SimpleNamespace(COOP=learner, COCOOP=learner),
                                 INPUT=types.SimpleNamespace(SIZE=[size, size]))


def run(module, trace, data):
    state = whole(load_file(TRACES / trace["model"]))
    model = build_model(state).float()
    network = module.CustomCLIP(configuration(trace["params"], trace["res"]), trace["classnames"], model)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("prompt_learner" in name)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(data[f"init.{name}"])

    def logits(images):
        network.eval()
        with torch.no_grad():
            return network(images)

    out = {"logits.before": logits(data["test_images"])}
    # Dassl's optimizer under the configuration files of the repository.
    optimizer = torch.optim.SGD(trained.values(), lr=trace["lr"][0], momentum=0.9, weight_decay=5e-4)
    losses = []
    for step, rate in enumerate(trace["lr"]):
        network.train()
        optimizer.param_groups[0]["lr"] = rate
        images, labels = data["images"][step], data["labels"][step]
        if trace["method"] == "cocoop":
            loss = network(images, labels)
        else:
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            out |= {f"grad0.{name}": p.grad.clone() for name, p in trained.items()}
        optimizer.step()
        losses.append(loss.detach().double())
    out |= {f"final.{name}": p.detach().clone() for name, p in trained.items()}
    return out | {"loss": torch.stack(losses), "logits.after": logits(data["test_images"])}


def traces(checkout):
    modules = trainers(checkout)
    for folder in sorted(TRACES.iterdir()):
        if not (folder / "trace.json").exists():
            continue
        trace = json.loads((folder / "trace.json").read_text())
        if trace["method"] not in modules:
            continue
        data = load_file(folder / "trace.safetensors")
        out = run(modules[trace["method"]], trace, data)
        off = {name: float((out[name] - data[name]).abs().max() / data[name].abs().max()) for name in out}
        print(f"{folder.name}: " + ", ".join(f"{name} {value:.1e}" for name, value in off.items()))
        to = RUNS / folder.name
        to.mkdir(parents=True, exist_ok=True)
        (to / "trace.json").write_text(json.dumps(trace | {"model": "../traces/model.safetensors"}) + "\n")
        save_file({n: t.contiguous() for n, t in (data | out).items()}, to / "trace.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["towers", "traces"])
    parser.add_argument("--coop", type=Path, help="a checkout of github.com/KaiyangZhou/CoOp")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "towers":
        resnet()
    elif given.coop:
        traces(given.coop)
    else:
        parser.error("traces need --coop")
