"""CLIP with a ViT image tower (Radford et al., 2021), in OpenAI's state-dict names, with places for prompts.

`L` = 77 tokens, `N` sequences, `B` images, `W` tower width, `E` joint width, `n` prompt tokens.
"""

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

CONTEXT = 77
HEAD = 64  # every released ViT CLIP has width / 64 heads


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm residual block over `[sequence, batch, W]`, the layout of the published code."""

    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))


class VisionTower(nn.Module):
    def __init__(self, width, layers, patch, positions, embed):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(positions, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed))

    def forward(self, images, prompts=()):
        """`[B, E]`, not normalised.

        `prompts[0]` `[n, W]` goes behind the patches, after their positions are added and before `ln_pre`;
        `prompts[i]` overwrites those `n` rows in front of block `i`, without `ln_pre`.
        """
        x = self.conv1(images).flatten(2).transpose(1, 2)  # [B, patches, W]
        batch = x.shape[0]
        cls = self.class_embedding.expand(batch, 1, -1)
        x = torch.cat([cls, x], dim=1) + self.positional_embedding
        if len(prompts):
            x = torch.cat([x, prompts[0].expand(batch, -1, -1)], dim=1)
        x = self.ln_pre(x).permute(1, 0, 2)
        for i, block in enumerate(self.transformer.resblocks):
            if 0 < i < len(prompts):
                n = prompts[i].shape[0]
                x = torch.cat([x[:-n], prompts[i].unsqueeze(1).expand(-1, batch, -1)], dim=0)
            x = block(x, None)
        return self.ln_post(x.permute(1, 0, 2)[:, 0]) @ self.proj


class Clip(nn.Module):
    def __init__(self, *, embed, vision, text, vocabulary=49408):
        """`vision` = (width, layers, patch, positions), `text` = (width, layers)."""
        super().__init__()
        self.visual = VisionTower(*vision, embed)
        width, layers = text
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(CONTEXT, width))
        self.transformer = Transformer(width, layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, embed))
        self.logit_scale = nn.Parameter(torch.empty(()))
        mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu_(1)
        self.register_buffer("mask", mask, persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def text_width(self):
        return self.positional_embedding.shape[1]

    @property
    def vision_width(self):
        return self.visual.class_embedding.shape[0]

    @property
    def embed(self):
        return self.text_projection.shape[1]

    def encode_image(self, images, prompts=()):
        return self.visual(images, prompts)

    def encode_prompts(self, embedded, ends, deep=()):
        """`[N, E]`, not normalised, of `embedded` `[N, L or fewer, W]` read at positions `ends` `[N]`.

        `deep[i - 1]` `[n, W]` overwrites positions 1 to `n` in front of block `i`.
        """
        length = embedded.shape[1]
        x = (embedded + self.positional_embedding[:length]).permute(1, 0, 2)
        mask = self.mask[:length, :length]
        for i, block in enumerate(self.transformer.resblocks):
            if 0 < i <= len(deep):
                prompt = deep[i - 1]
                n = prompt.shape[0]
                prompt = prompt.unsqueeze(1).expand(-1, x.shape[1], -1)
                x = torch.cat([x[:1], prompt, x[1 + n :]], dim=0)
            x = block(x, mask)
        x = self.ln_final(x.permute(1, 0, 2))
        return x[torch.arange(x.shape[0]), ends] @ self.text_projection

    def encode_texts(self, tokens):
        """`[N, E]`, not normalised, of `tokens` `[N, L]`."""
        return self.encode_prompts(self.token_embedding(tokens), ends_of(tokens))


def ends_of(tokens):
    """Position of the end-of-text token: it has the largest id of all."""
    return tokens.argmax(dim=-1)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def logits_of(clip, image_features, text_features):
    """`[B, K]`: the scale multiplies the image side before the product, as published."""
    return clip.logit_scale.exp() * unit(image_features) @ unit(text_features).t()


def from_state(state):
    """A frozen float32 `Clip` from OpenAI names; sizes are read off the tensors.

    With `token_embedding.ids` `[n]` the table holds only those rows. The absent rows become NaN, so that a text which
    needs one of them cannot pass unnoticed.
    """
    state = {name: tensor for name, tensor in state.items() if not name.startswith("__")}
    ids = state.pop("token_embedding.ids", None)
    if ids is not None:
        rows = state["token_embedding.weight"].float()
        table = torch.full((49408, rows.shape[1]), float("nan"))
        table[ids] = rows
        state["token_embedding.weight"] = table
    conv = state["visual.conv1.weight"]
    clip = Clip(
        embed=state["text_projection"].shape[1],
        vision=(conv.shape[0], layers_of(state, "visual."), conv.shape[2], state["visual.positional_embedding"].shape[0]),
        text=(state["positional_embedding"].shape[1], layers_of(state, "")),
        vocabulary=state["token_embedding.weight"].shape[0],
    )
    clip.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return clip


def layers_of(state, tower):
    prefix = f"{tower}transformer.resblocks."
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix))


def read_tensors(path):
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def load(path):
    return from_state(read_tensors(path))


def tokenizer():
    """open_clip's copy of CLIP's byte-pair tokenizer, read without importing the rest of open_clip (30 times faster)."""
    import importlib.util

    package = importlib.util.find_spec("open_clip")
    if package is None:
        sys.exit("open_clip is not installed: pip install torch numpy safetensors open_clip_torch")
    path = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()
