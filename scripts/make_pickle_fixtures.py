"""Writes the files in crates/clip/tests/fixtures with torch from PyPI.

dassl-{zip,legacy}.pth.tar: a checkpoint as Dassl saves it. Dassl.pytorch (c61a1b5) saves state_dict, epoch, optimizer,
scheduler and val_result; its warm-up scheduler keeps the cosine scheduler that follows as an object, and that object
keeps the optimizer. All of that is in the file.

tiny-{torchscript,zip,legacy}.pt: one random CLIP (text width 8, 1 layer; image 8 px, patch 4, width 8, 1 layer; 5 token
rows) as a scripted module, a state dict inside a training checkpoint, and a half-precision state dict of torch < 1.6.
shared.pt: its text tower with a hundred more blocks, each of them the first one's bytes.

    python scripts/make_pickle_fixtures.py
"""
import collections
import pathlib
import warnings

import torch
from torch import nn

OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/clip/tests/fixtures"
WIDTH, EMBEDDING, IDS = 8, 4, [0, 320, 343, 49406, 49407]


def checkpoint():
    torch.manual_seed(0)
    ctx = nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([ctx], lr=0.002, momentum=0.9)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
    ctx.sum().backward()
    optimizer.step()
    table = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    return {
        "state_dict": collections.OrderedDict(
            ctx=(torch.arange(6).reshape(2, 3) / 2).half(),
            token_prefix=torch.zeros(1, 1, 3),
            view=table[:, 1],
            steps=torch.tensor(7),
        ),
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": successor, "warmup_epoch": 1, "cons_lr": 1e-5, "last_epoch": 50},
        "val_result": 81.25,
    }


class Part(nn.Module):
    def forward(self, x):
        return x


class Attention(Part):
    def __init__(self):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * WIDTH, WIDTH))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * WIDTH))
        self.out_proj = nn.Linear(WIDTH, WIDTH)


class Block(Part):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            collections.OrderedDict(c_fc=nn.Linear(WIDTH, 16), gelu=nn.Identity(), c_proj=nn.Linear(16, WIDTH))
        )
        self.ln_2 = nn.LayerNorm(WIDTH)


class Transformer(Part):
    def __init__(self):
        super().__init__()
        self.resblocks = nn.Sequential(Block())


class Vision(Part):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty(5, WIDTH))
        self.proj = nn.Parameter(torch.empty(WIDTH, EMBEDDING))
        self.conv1 = nn.Conv2d(3, WIDTH, 4, 4, bias=False)
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer()
        self.ln_post = nn.LayerNorm(WIDTH)


class Tokens(Part):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(IDS), WIDTH))
        self.register_buffer("ids", torch.tensor(IDS))


class Clip(Part):
    def __init__(self):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(77, WIDTH))
        self.text_projection = nn.Parameter(torch.empty(WIDTH, EMBEDDING))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self.visual = Vision()
        self.transformer = Transformer()
        self.token_embedding = Tokens()
        self.ln_final = nn.LayerNorm(WIDTH)
        # As OpenAI's archives carry it: a buffer with infinities that is no weight.
        self.register_buffer("attn_mask", torch.full((77, 77), float("-inf")).triu(1)[:2, :2].clone())
        self.input_resolution: int = 8


def tiny():
    torch.manual_seed(1)
    clip = Clip()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.copy_(torch.randn(parameter.shape).half())
    return clip.eval()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    OUT.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint(), OUT / "dassl-zip.pth.tar")
    torch.save(checkpoint(), OUT / "dassl-legacy.pth.tar", _use_new_zipfile_serialization=False)
    clip = tiny()
    torch.jit.save(torch.jit.script(clip), OUT / "tiny-torchscript.pt")
    wrapped = {f"module.{name}": tensor for name, tensor in clip.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, OUT / "tiny-zip.pt")
    half = {n: t.half() if t.is_floating_point() else t for n, t in clip.state_dict().items()}
    torch.save(half, OUT / "tiny-legacy.pt", _use_new_zipfile_serialization=False)
    first = {n: t for n, t in half.items() if n.startswith("transformer.resblocks.0.")}
    for block in range(1, 101):
        half |= {name.replace("resblocks.0", f"resblocks.{block}"): tensor for name, tensor in first.items()}
    torch.save(half, OUT / "shared.pt", _use_new_zipfile_serialization=False)
    print(*(f"{p.name}: {p.stat().st_size} bytes" for p in sorted(OUT.iterdir())), sep="\n")
