"""The traces that `make_traces.py` writes: their models, settings and images, all drawn at random from fixed seeds."""

import json

import torch
from safetensors.torch import save_file

from . import record
from .clip import Clip, from_state
from .prompts import KGCOOP_TEMPLATES, PLAIN_TEMPLATE, PROGRAD_TEMPLATES, PROMPTSRC_TEMPLATES, spoken

# A trace is kept only if noise of this size on every pixel moves losses, logits, and gradients and parameters (as a
# share of their largest magnitude) by at most a tenth of what a replay is allowed.
SHAKE, LOSS_MOVES, LOGIT_MOVES, SHARE_MOVES = 1e-6, 1e-5, 1e-4, 1e-4
# Entropies of the last view kept and the first one dropped differ by at least this, or rounding could swap them.
# The same distance keeps ProGrad's cosines off zero, which must fall on both sides of it.
MARGIN = 3e-4
LOWEST = 0.01  # a saturated loss has gradients too small to compare

ANIMALS = ["Siamese", "saint_bernard", "black-footed ferret", "owl"]
THINGS = ["highway or road", "SUV 2012", "espresso maker", "jack-o'-lantern", "forget-me-not", "tv"]
FEW = ["sea or lake", "river", "polka-dotted"]
DOMAIN_FIRST = "a type of pet, a photo of a"  # 8 words, 9 tokens

SMALL_CLIP = dict(name="model", embed=32, vision=(64, 2, 4, 8), text=(64, 2), scale=2.5, seed=1, cut=True)


def trace(name, method, classes, seed, params, *, steps=3, batch=2, peak=0.02, test=2, model=SMALL_CLIP, **more):
    return dict(name=name, model=model, method=method, classnames=classes, seed=seed, params=params, steps=steps,
                batch=batch, peak=peak, test=test, more=more)


WORDS = {"n_ctx": 4, "ctx_init": "a photo of a"}
SMALL = [
    trace("coop-end-words", "coop", ANIMALS, 1, {"n_ctx": 3, "ctx_init": "itap of the"}, steps=4),
    trace("coop-end-random", "coop", THINGS, 2, {"n_ctx": 7}),
    trace("coop-middle-odd", "coop", THINGS, 3, {"n_ctx": 3, "position": "middle"}),
    trace("coop-front", "coop", FEW, 4, {"n_ctx": 5, "position": "front"}, steps=4),
    trace("coop-csc-middle", "coop", FEW, 5, {"n_ctx": 4, "csc": True, "position": "middle"}),
    trace("cocoop", "cocoop", ANIMALS, 6, WORDS),
    trace("maple", "maple", THINGS, 7, {"n_ctx": 3, "ctx_init": "a photo of a", "depth": 2}),
    trace("ivlp", "ivlp", FEW, 8, {"n_ctx": 2, "n_ctx_vision": 3, "ctx_init": "a photo of a", "depth": 2}),
    trace("language-only", "ivlp", ANIMALS, 9, {"n_ctx": 4, "n_ctx_vision": 0, "ctx_init": "a photo of a", "depth": 2}),
    trace("vpt", "vpt", THINGS, 10, {"n_ctx_vision": 5, "depth": 2}, steps=4),
    trace("kgcoop", "kgcoop", FEW, 11, WORDS | {"w": 2.0}, dataset="DescribableTextures"),
    trace("prograd", "prograd", ANIMALS, 12, {"n_ctx": 6}, dataset="OxfordPets", steps=4),
    trace("promptsrc", "promptsrc", THINGS, 13, {"n_ctx": 4, "n_ctx_vision": 2, "ctx_init": "a photo of a", "depth": 2},
          steps=4, teacher_templates=PROMPTSRC_TEMPLATES),
    trace("tpt", "tpt", ANIMALS, 14, {"n_ctx": 4, "ctx_init": "a_photo_of_a"}, steps=2, views=12, selection_p=0.3),
    trace("tpt-2-steps", "tpt", THINGS, 15, {"n_ctx": 4, "ctx_init": "a_photo_of_a"}, steps=2, views=10, selection_p=0.2,
          tta_steps=2),
]

# The published sizes have towers of different widths; the small model cannot, at its file size.
WIDE = dict(name="model_wide", embed=48, vision=(128, 4, 16, 48), text=(64, 3), scale=3.0, seed=2, cut=False)
TALL = dict(name="model_tall", embed=96, vision=(64, 2, 8, 40), text=(192, 5), scale=2.5, seed=3, cut=False)
MANY = ["Boeing 737-800", "lily of the valley", "2012 Tesla Model S", "cat", "annual crop land", "Apply_Eye_Makeup",
        "crème brûlée", "mother's day cake", "black_and_white_colobus_monkey_of_the_eastern_mountain_forests", "a", "X",
        "C-130", "croque madame", "tv"]


def stressed(model, tag):
    two = ["cat", "black_and_white_colobus_monkey_of_the_eastern_mountain_forests"]
    layers = min(model["vision"][1], model["text"][1])
    kinds = [
        ("coop-end", "coop", MANY, WORDS, {"steps": 8, "batch": 5}),
        ("coop-end-16", "coop", MANY, {"n_ctx": 16}, {"batch": 1}),
        ("coop-middle-16", "coop", two, {"n_ctx": 16, "position": "middle"}, {}),
        ("coop-middle-1", "coop", MANY, {"n_ctx": 1, "position": "middle"}, {}),
        ("coop-middle-words", "coop", MANY, WORDS | {"position": "middle"}, {}),
        ("coop-front-words", "coop", two, WORDS | {"position": "front"}, {}),
        ("coop-csc", "coop", MANY, {"n_ctx": 5, "csc": True}, {"steps": 5}),
        ("coop-csc-front", "coop", two, {"n_ctx": 2, "csc": True, "position": "front"}, {}),
        ("cocoop", "cocoop", MANY, WORDS, {"batch": 3}),
        ("cocoop-random", "cocoop", two, {"n_ctx": 8}, {"batch": 1, "steps": 6}),
        ("maple", "maple", MANY, {"n_ctx": 2, "ctx_init": "a photo of a", "depth": layers}, {"batch": 4}),
        ("maple-depth-1", "maple", two, {"n_ctx": 1, "ctx_init": "a photo of a", "depth": 1}, {}),
        ("maple-random", "maple", MANY, {"n_ctx": 3, "depth": 2}, {}),
        ("ivlp", "ivlp", MANY, {"n_ctx": 4, "n_ctx_vision": 1, "ctx_init": "a photo of a", "depth": layers}, {}),
        ("ivlp-depth-1", "ivlp", two, {"n_ctx": 2, "n_ctx_vision": 7, "ctx_init": "a photo of a", "depth": 1}, {}),
        ("language-only", "ivlp", MANY, {"n_ctx": 4, "n_ctx_vision": 0, "ctx_init": "a photo of a", "depth": layers}, {}),
        ("vpt-shallow", "vpt", MANY, {"n_ctx_vision": 8, "depth": 1}, {}),
        ("vpt-deep", "vpt", two, {"n_ctx_vision": 2, "depth": model["vision"][1]}, {"steps": 6}),
        ("kgcoop", "kgcoop", MANY, WORDS | {"w": 1.0}, {"dataset": "Food101", "batch": 6}),
        ("kgcoop-imagenet", "kgcoop", two, WORDS | {"w": 8.0}, {"dataset": "ImageNet"}),
        ("prograd", "prograd", MANY, {"n_ctx": 16}, {"dataset": "DescribableTextures", "steps": 8, "batch": 4}),
        ("prograd-words", "prograd", two, {"n_ctx": 16, "ctx_init": DOMAIN_FIRST}, {"dataset": "OxfordPets", "steps": 6}),
        ("promptsrc", "promptsrc", MANY, {"n_ctx": 4, "n_ctx_vision": 4, "ctx_init": "a photo of a", "depth": layers},
         {"steps": 5, "batch": 4, "teacher_templates": PROMPTSRC_TEMPLATES}),
        ("promptsrc-depth-1", "promptsrc", two, {"n_ctx": 2, "n_ctx_vision": 3, "ctx_init": "a photo of a", "depth": 1},
         {"teacher_templates": PROMPTSRC_TEMPLATES}),
        ("tpt", "tpt", MANY, {"n_ctx": 4, "ctx_init": "a_photo_of_a"}, {"views": 64, "selection_p": 0.1}),
        ("tpt-3-steps", "tpt", MANY, {"n_ctx": 4, "ctx_init": "a_photo_of_a"},
         {"views": 20, "selection_p": 0.2, "tta_steps": 3}),
    ]
    return [trace(f"{tag}-{name}", method, classes, seed, params, model=model, test=8, **({"steps": 4} | more))
            for seed, (name, method, classes, params, more) in enumerate(kinds, 100 * model["seed"])]


STRESS = stressed(WIDE, "wide") + stressed(TALL, "tall")


def draw_clip(model):
    """OpenAI's own starting scales, with biases and LayerNorm gains that are not 0 and 1."""
    torch.manual_seed(model["seed"])
    width, layers, patch, size = model["vision"]
    positions = (size // patch) ** 2 + 1
    clip = Clip(embed=model["embed"], vision=(width, layers, patch, positions), text=model["text"])
    for name, tensor in clip.state_dict().items():
        w, depth = (width, layers) if name.startswith("visual.") else model["text"]
        if name == "logit_scale":
            tensor.fill_(model["scale"])
        elif ".ln_" in name or name.startswith("ln_"):
            tensor.normal_(float(name.endswith("weight")), 0.1 if name.endswith("weight") else 0.05)
        elif name.endswith("bias"):
            tensor.normal_(0, 0.05)
        else:
            std = {
                "conv1.weight": (3 * patch * patch) ** -0.5,
                "token_embedding.weight": 0.02,
                "in_proj_weight": w**-0.5,
                "out_proj.weight": w**-0.5 * (2 * depth) ** -0.5,
                "c_fc.weight": (2 * w) ** -0.5,
                "c_proj.weight": w**-0.5 * (2 * depth) ** -0.5,
                "text_projection": w**-0.5,
            }
            end = [std[key] for key in std if name.endswith(key)]
            std = end[0] if end else (0.01 if name == "positional_embedding" else w**-0.5)
            tensor.normal_(0, std)
    return clip


def texts_of(spec):
    """Every text whose token rows a replay may need."""
    names, init = spoken(spec["classnames"]), spec["params"].get("ctx_init", "").replace("_", " ")
    dataset = spec["more"].get("dataset")
    templates = {PLAIN_TEMPLATE, *spec["more"].get("teacher_templates", [])}
    templates |= {table.get(dataset, PLAIN_TEMPLATE) for table in (KGCOOP_TEMPLATES, PROGRAD_TEMPLATES)}
    templates |= {f"{words} {{}}." for words in (init, "X " * spec["params"].get("n_ctx", 0)) if words}
    return [template.format(name) for template in templates for name in names] + names


def write_clip(folder, model, texts, tokenizer):
    """Saves the model in float16 and returns it as a replay will read it."""
    state = {name: tensor.half() for name, tensor in draw_clip(model).state_dict().items()}
    used = torch.unique(tokenizer(texts))  # ascending
    rows = state["token_embedding.weight"]
    if model["cut"]:
        state["token_embedding.ids"], state["token_embedding.weight"] = used, rows[used].clone()
    else:
        state["token_embedding.weight"] = torch.zeros_like(rows).index_copy_(0, used, rows[used])
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / f"{model['name']}.safetensors")
    return from_state(state)


def rates(spec):
    """One warm-up step, then down from the peak."""
    steps, peak = spec["steps"], spec["peak"] / (10 if spec["params"].get("csc") else 1)
    return [1e-5] + [round(peak * (1 - 0.75 * i / max(1, steps - 1)), 6) for i in range(steps - 1)]


def inputs(spec):
    """Images of smooth blobs and noise, so that views and classes differ in more than noise."""
    torch.manual_seed(spec["seed"])
    size = spec["model"]["vision"][3]
    def images(*shape):
        count = int(torch.tensor(shape).prod())
        coarse = torch.nn.functional.interpolate(torch.randn(count, 3, 3, 3), size=size, mode="bilinear")
        return (coarse + 0.5 * torch.randn(count, 3, size, size)).reshape(*shape, 3, size, size)
    if spec["method"] == "tpt":
        return {"views": images(spec["steps"], spec["more"]["views"])}
    return {
        "images": images(spec["steps"], spec["batch"]),
        "labels": torch.randint(len(spec["classnames"]), (spec["steps"], spec["batch"])),
        "test_images": images(spec["test"]),
    }


def write(folder, tokenizer, specs):
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the order of sums is part of what is recorded
    for model in {spec["model"]["name"]: spec["model"] for spec in specs}.values():
        mine = [spec for spec in specs if spec["model"] is model]
        clip = write_clip(folder, model, [text for spec in mine for text in texts_of(spec)], tokenizer)
        for spec in mine:
            write_trace(folder, spec, clip, tokenizer)


def write_trace(folder, spec, clip, tokenizer):
    """Tries seeds until the trajectory is one that rounding cannot lead astray."""
    for attempt in range(40):
        facts, tensors, why = recorded(spec | {"seed": spec["seed"] + 1000 * attempt}, clip, tokenizer)
        if not why:
            break
        print(f"     {spec['name']}, seed {facts['seed']}: {why}")
    else:
        raise SystemExit(f"{spec['name']}: no usable seed in 40")
    target = folder / spec["name"]
    target.mkdir(exist_ok=True)
    (target / "trace.json").write_text(json.dumps(facts) + "\n")
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, target / "trace.safetensors")
    losses = " ".join(f"{loss:.3f}" for loss in tensors["loss"].tolist())
    change = float((tensors["logits.after"] - tensors["logits.before"]).abs().max())
    print(f"{spec['name']:24} losses {losses}  logits changed by {change:.2f}")


def recorded(spec, clip, tokenizer):
    """`trace.json`, `trace.safetensors`, and why the trace is unfit (empty if it is fit)."""
    tpt = spec["method"] == "tpt"
    facts = {"model": f"{spec['model']['name']}.safetensors", "res": spec["model"]["vision"][3]}
    facts |= {key: spec[key] for key in ("classnames", "seed", "steps", "batch")}
    facts |= {"lr": [0.005] if tpt else rates(spec), "method": spec["method"], "params": spec["params"], **spec["more"]}
    data = inputs(spec)
    run = lambda data, noise=0.0: record.run(clip, tokenizer, facts | {"gpa": (spec["steps"] / 2, 1.0)}, data, noise)
    got, method, _ = run(data)
    starts = {name: value for name, value in got.items() if name.startswith("init.")}
    again, _, _ = run(data | starts, SHAKE)
    facts["learnable"] = {name: list(p.shape) for name, p in method.trained.items()}
    return facts, data | got, "; ".join(unfit(got, again, method))


def unfit(got, again, method):
    off = {name: float((again[name] - value).abs().max()) for name, value in got.items()}
    logit = max(off[name] for name in off if name.startswith("logits."))
    shared = [name for name in off if name.startswith(("grad0.", "final.", "gpa."))]
    share = max(off[name] / max(float(got[name].abs().max()), 1e-9) for name in shared)
    if off["loss"] > LOSS_MOVES or logit > LOGIT_MOVES or share > SHARE_MOVES:
        yield f"noise moves loss by {off['loss']:.0e}, logits by {logit:.0e}, parameters by {share:.0e}"
    if float(got["loss"].min()) < LOWEST:
        yield f"loss down to {float(got['loss'].min()):.0e}"
    still = [name for name in got if name.startswith("grad0.") and float(got[name].abs().max()) < 1e-6]
    if still:
        yield f"no gradient in {', '.join(still)}"
    if hasattr(method, "margins") and min(method.margins) < MARGIN:
        yield f"selection decided by {min(method.margins):.0e}"
    if hasattr(method, "cosines"):
        sides = {cosine < 0 for cosine in method.cosines}
        if len(sides) < 2 or min(map(abs, method.cosines)) < MARGIN:
            yield f"cosines {', '.join(f'{c:.3f}' for c in method.cosines)} do not fall clearly on both sides of 0"
