#!/usr/bin/env python3
"""Check recorded trajectories against the published algorithms, or record new ones, in PyTorch on the CPU.

    make_traces.py --check DIR...       replay trace folders (or folders of them) and print the deviations
    make_traces.py --fixtures DIR       write the small model and the traces that promptbed's tests replay
    make_traces.py --stress DIR         write larger and odder ones: other sizes, depths, layouts, seeds

Needs: pip install torch numpy safetensors open_clip_torch
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from published import clip as towers
from published import fixtures, record

# Largest deviation allowed, as the trace format states them.
LOSS, LOGITS, SHARE = 1e-4, 1e-3, 1e-3


def check(folder, tokenizer, clips, shake):
    trace = json.loads((folder / "trace.json").read_text())
    data = towers.read_tensors(folder / "trace.safetensors")
    model = folder.parent / trace["model"]
    if model not in clips:
        clips[model] = towers.load(model)
    got, method, own = record.run(clips[model], tokenizer, trace, data, shake)
    shapes = {name: list(p.shape) for name, p in method.trained.items()}
    faults = [] if shapes == trace["learnable"] else [f"learnable: {trace['learnable']} against {shapes}"]
    worst = {"loss": 0.0, "grad0": 0.0, "final": 0.0, "logits": 0.0}

    def raise_to(group, off):
        off = off.nan_to_num(nan=float("inf")).max()
        worst[group] = max(worst[group], float(off))

    inputs = {"images", "labels", "views", "test_images"}
    for name in sorted(set(data) | set(got)):
        if name in inputs or name.startswith("init."):
            continue
        if name not in data or name not in got:
            faults.append(f"{name}: only {'recorded' if name in data else 'replayed'}")
            continue
        want, have = data[name].double(), got[name].double()
        off = (want - have).abs()
        if name == "selected":
            if (off > 0).any():
                faults.append(f"selected: {data[name].tolist()} against {got[name].tolist()}")
        elif name in ("loss", "kl", "loss.parts"):
            raise_to("loss", off / want.abs().clamp(min=1))
        elif name.startswith("logits."):
            raise_to("logits", off)
        else:  # grad0, final, gpa, teacher: a share of the largest magnitude
            raise_to("grad0" if name.startswith("grad0.") else "final", off / want.abs().max())
    limits = {"loss": LOSS, "grad0": SHARE, "final": SHARE, "logits": LOGITS}
    for name, limit in limits.items():
        if worst[name] > limit:
            faults.append(f"{name} off by {worst[name]:.1e}, limit {limit:.0e}")
    starts = {name: data[f"init.{record.short(trace, name)}"] for name in own}
    notes = [f"{name} starts as we would start it" for name, value in own.items() if torch.equal(value, starts[name])]
    if hasattr(method, "margins"):
        notes.append(f"closest selection {min(method.margins):.1e}")
    figures = "  ".join(f"{name} {value:.1e}" for name, value in worst.items())
    print(f"{'ok  ' if not faults else 'FAIL'} {folder.name:24} {trace['method']:9} {figures}  {'; '.join(notes)}")
    for fault in faults:
        print(f"     {fault}")
    return not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--check", nargs="+", type=Path, metavar="DIR")
    task.add_argument("--fixtures", type=Path, metavar="DIR")
    task.add_argument("--stress", type=Path, metavar="DIR")
    parser.add_argument("--shake", type=float, default=0.0, help="add noise of this size to every pixel before a check")
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = towers.tokenizer()
    if args.fixtures:
        return fixtures.write(args.fixtures, tokenizer, fixtures.SMALL)
    if args.stress:
        return fixtures.write(args.stress, tokenizer, fixtures.STRESS)
    found = [trace for folder in args.check for pattern in ("trace.json", "*/trace.json") for trace in folder.glob(pattern)]
    folders = sorted({trace.parent for trace in found})
    if not folders:
        sys.exit(f"no trace.json in {', '.join(map(str, args.check))} or one level below")
    clips = {}
    passed = [check(folder, tokenizer, clips, args.shake) for folder in folders]
    print(f"{sum(passed)} of {len(passed)} agree")
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
