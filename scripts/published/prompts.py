"""Placeholder prompts: what is tokenised, which rows the context replaces, and how the context starts.

`K` classes, `M` context tokens, `L` = 77, `W` text width.
"""

import torch

from .clip import ends_of

# CoOp's template for each dataset (trainers/zsclip.py at ff61507); all other datasets use "a photo of a {}.".
COOP_TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}
# KgCoOp at c43ccc3 departs from CoOp in one row.
KGCOOP_TEMPLATES = COOP_TEMPLATES | {"DescribableTextures": "a photo of a {}, a type of texture."}
# ProGrad at 1b76203 says the domain first.
PROGRAD_TEMPLATES = {
    "OxfordPets": "a type of pet, a photo of a {}.",
    "OxfordFlowers": "a type of flower, a photo of a {}.",
    "FGVCAircraft": "a type of aircraft, a photo of a {}.",
    "DescribableTextures": "a texture of {}.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a type of food, a photo of {}.",
    "UCF101": "a photo of a person doing {}.",
}
# PromptSRC at bb95c77: the sixty its text teacher averages over.
PROMPTSRC_TEMPLATES = [
    "a photo of a {}.", "a bad photo of a {}.", "a photo of many {}.", "a sculpture of a {}.",
    "a photo of the hard to see {}.", "a low resolution photo of the {}.", "a rendering of a {}.",
    "graffiti of a {}.", "a bad photo of the {}.", "a cropped photo of the {}.", "a tattoo of a {}.",
    "the embroidered {}.", "a photo of a hard to see {}.", "a bright photo of a {}.", "a photo of a clean {}.",
    "a photo of a dirty {}.", "a dark photo of the {}.", "a drawing of a {}.", "a photo of my {}.", "the plastic {}.",
    "a photo of the cool {}.", "a close-up photo of a {}.", "a black and white photo of the {}.",
    "a painting of the {}.", "a painting of a {}.", "a pixelated photo of the {}.", "a sculpture of the {}.",
    "a bright photo of the {}.", "a cropped photo of a {}.", "a plastic {}.", "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.", "a blurry photo of the {}.", "a photo of the {}.", "a good photo of the {}.",
    "a rendering of the {}.", "a {} in a video game.", "a photo of one {}.", "a doodle of a {}.",
    "a close-up photo of the {}.", "the origami {}.", "the {} in a video game.", "a sketch of a {}.",
    "a doodle of the {}.", "a origami {}.", "a low resolution photo of a {}.", "the toy {}.",
    "a rendition of the {}.", "a photo of the clean {}.", "a photo of a large {}.", "a rendition of a {}.",
    "a photo of a nice {}.", "a photo of a weird {}.", "a blurry photo of a {}.", "a cartoon {}.", "art of a {}.",
    "a sketch of the {}.", "a embroidered {}.", "a pixelated photo of a {}.", "itap of the {}.",
]
PLAIN_TEMPLATE = "a photo of a {}."


def spoken(names):
    return [name.replace("_", " ") for name in names]


def word_rows(clip, tokenizer, words, count):
    """`[count, W]`: embeddings of the first `count` tokens of `words`."""
    return clip.token_embedding(tokenizer([words]))[0, 1 : 1 + count].clone()


class Placeholder:
    """One tokenised text a class, of which a run of rows gives way to the context."""

    def __init__(self, clip, tokenizer, names, words, position="end"):
        """`words` stand where the context goes: the initial words themselves, or "X X X X"."""
        names = spoken(names)
        tokens = tokenizer([f"{words} {name}." for name in names])  # [K, L]
        self.embedded = clip.token_embedding(tokens)  # [K, L, W]
        self.ends = ends_of(tokens)
        self.name_lengths = [len(tokenizer.encode(name)) for name in names]
        self.position = position

    def cut(self):
        """Drops what follows the longest end token. No published code does this; `bench_torch.py --best` does."""
        self.embedded = self.embedded[:, : int(self.ends.max()) + 1]
        return self

    def fill(self, ctx):
        """`[K, L, W]` with `ctx` `[M, W]` or `[K, M, W]` in place."""
        classes = self.embedded.shape[0]
        if ctx.dim() == 2:
            ctx = ctx.unsqueeze(0).expand(classes, -1, -1)
        m = ctx.shape[1]
        start, rest = self.embedded[:, :1], self.embedded[:, 1 + m :]  # rest: name, ".", end, padding
        if self.position == "end":
            return torch.cat([start, ctx, rest], dim=1)
        before = {"middle": m // 2, "front": 0}[self.position]
        rows = []
        for k, name in enumerate(self.name_lengths):
            rows.append(torch.cat([start[k], ctx[k, :before], rest[k, :name], ctx[k, before:], rest[k, name:]]))
        return torch.stack(rows)
