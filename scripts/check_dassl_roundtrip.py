#!/usr/bin/env python3
"""Learned prompts to the published layout and back, with torch on the other side.

    check_dassl_roundtrip.py PROMPTBED RESULTS [MODEL --data DIR]

For CoOp, CoCoOp, MaPLe and PromptSRC prompts of a results folder: `promptbed export`, `torch.load(weights_only=True)`,
equality with the safetensors file bit for bit; then the same prompts saved by torch as the released checkpoints are
(half precision, legacy pickle, the towers' weights and token_prefix beside them), evaluated by `promptbed eval`.
Half precision rounds the prompts, so accuracy is allowed to move by one picture in a hundred.
"""
import glob
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open

program, results, more = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]


def promptbed(*arguments):
    return subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def evaluate(prompts, dataset, *arguments):
    told = json.loads(promptbed("eval", "--prompts", prompts, "--dataset", dataset, "--split", "base", "--json", *arguments, *more))
    return told["correct"], told["total"]


failed = 0
for method in ["coop", "cocoop", "maple", "promptsrc"]:
    files = sorted(glob.glob(str(results / "prompts" / f"{method}-*.safetensors")))
    if not files:
        print(f"{method}: no prompts in {results}, skipped")
        failed += 1
        continue
    with safe_open(files[-1], "pt") as f:
        description = json.loads(f.metadata()["promptbed"])
        ours = {name: f.get_tensor(name) for name in f.keys()}
    with tempfile.TemporaryDirectory() as folder:
        path = promptbed("export", "--prompts", files[-1], "--format", "dassl", "--out", folder).strip()
        state = torch.load(path, weights_only=True)["state_dict"]
        same = len(state) == len(ours) and all(
            torch.equal(tensor, ours.get(name, ours.get(f"prompt_learner.{name}"))) for name, tensor in state.items()
        )
        settings = description["settings"]
        given = ["--method", method]
        for key, value in settings.items():
            if key in {"n_ctx", "depth", "depth_text", "depth_vision", "n_ctx_text", "n_ctx_vision", "position"} and value is not None:
                given += ["--set", f"{key}={json.dumps(value)}"]
        released = {name: tensor.half() for name, tensor in state.items()}
        released["token_prefix"] = torch.zeros(3, 1, 8)
        released["image_encoder.conv1.weight"] = torch.zeros(4, 3, 2, 2).half()
        old = pathlib.Path(folder) / "model.pth.tar-1"
        torch.save({"state_dict": released, "epoch": 1, "optimizer": {"state": {}}}, old, _use_new_zipfile_serialization=False)
        dataset = description["dataset"]
        before, total = evaluate(files[-1], dataset)
        after, _ = evaluate(old, dataset, *given)
    good = same and abs(before - after) <= max(1, total // 100)
    failed += not good
    print(f"{method}: {path.split('/', 3)[-1]}, {len(state)} tensors {'equal' if same else 'DIFFER'}; {before} of {total} correct, {after} from half precision: {'ok' if good else 'FAILED'}")
sys.exit(failed > 0)
