"""Runs a method over a trace's images and records what a replay must reproduce."""

import math

import torch

from . import methods


def run(clip, tokenizer, trace, data, noise=0.0):
    """All recorded tensors of `trace` from its inputs in `data`: `images` and `labels`, or `views`.

    Starts from `init.*` where `data` has them. `noise` is the standard deviation of what is added to every pixel.
    """
    method = methods.build(clip, tokenizer, trace)
    starts = {name: data[f"init.{short(trace, name)}"] for name in method.trained if f"init.{short(trace, name)}" in data}
    own = {name: parameter.detach().clone() for name, parameter in method.trained.items()}
    if starts:
        method.restart(starts)
    out = {f"init.{short(trace, name)}": p.detach().clone() for name, p in method.trained.items()}
    shaken = lambda x: x + noise * torch.randn_like(x) if noise else x
    out |= adapt(method, trace, shaken(data["views"])) if trace["method"] == "tpt" else train(method, trace, data, shaken)
    return out, method, own


def short(trace, name):
    """TPT's traces call the context `ctx`, the others by its full name."""
    return name.removeprefix("prompt_learner.") if trace["method"] == "tpt" else name


def logits(method, images):
    with torch.no_grad():
        return method.logits(images)


def train(method, trace, data, shaken):
    images, test = shaken(data["images"]), shaken(data["test_images"])
    steps, out, series = len(images), {"logits.before": logits(method, test)}, {}
    optimizer = methods.step_optimizer(method)
    gpa = trace["method"] == "promptsrc"
    if gpa:
        weights = data["gpa.weights"] if "gpa.weights" in data else gaussian(steps, *trace["gpa"])
        mean = {name: torch.zeros_like(p) for name, p in method.trained.items()}
    assert len(trace["lr"]) == steps, f"{len(trace['lr'])} learning rates for {steps} steps"
    for step, rate in enumerate(trace["lr"]):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = method.backward(images[step], data["labels"][step])
        series.setdefault("loss", []).append(loss.detach().double())
        for name, value in method.parts.items():
            series.setdefault(name, []).append(value)
        if step == 0:
            out |= {f"grad0.{name}": p.grad.clone() for name, p in method.trained.items()}
        optimizer.step()
        if gpa:  # a step counts as an epoch
            for name, p in method.trained.items():
                mean[name] += float(weights[step]) * p.detach()
    out |= {name: torch.stack(values) for name, values in series.items()}
    out |= {f"final.{name}": p.detach().clone() for name, p in method.trained.items()}
    out["logits.after"] = logits(method, test)
    if gpa:
        method.restart(mean)
        out |= {f"gpa.{name}": value for name, value in mean.items()}
        out |= {"gpa.weights": weights, "logits.gpa": logits(method, test)}
    if hasattr(method, "teacher") and trace["method"] != "prograd":
        out["teacher.text"] = method.teacher
    return out


def gaussian(epochs, mean, std):
    """`[epochs]` f64, sum 1: epoch e = 1..N weighs exp(-(e - mean)^2 / (2 std^2))."""
    weights = torch.tensor([math.exp(-0.5 * ((e - mean) / std) ** 2) for e in range(1, epochs + 1)], dtype=torch.float64)
    return weights / weights.sum()


def adapt(method, trace, views):
    ctx = method.trained[method.CTX]
    start = {method.CTX: ctx.detach().clone()}
    rows = {name: [] for name in ("loss", "selected", "final.ctx", "logits.before", "logits.after")}
    method.margins = []
    for one in views:
        method.restart(start)
        rows["logits.before"].append(logits(method, one[:1])[0])
        loss, kept, after = method.adapt(one, trace.get("tta_steps", 1))
        ranked = method.entropies.sort().values
        method.margins.append(float(ranked[len(kept)] - ranked[len(kept) - 1]))
        rows["loss"].append(loss.double())
        rows["selected"].append(kept)
        rows["final.ctx"].append(ctx.detach().clone())
        rows["logits.after"].append(after)
    return {name: torch.stack(values) for name, values in rows.items()}
