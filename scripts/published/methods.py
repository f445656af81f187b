"""The methods: which tensors are trained, how they start, and what is minimised.

A method has `trained` (trace name -> parameter), `loss(images, labels)`, and `logits(images)`.
`B` images, `K` classes, `M` context tokens, `n` vision prompts, `W` text width, `V` vision width, `E` joint width.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .clip import logits_of, unit
from .prompts import (
    KGCOOP_TEMPLATES,
    PLAIN_TEMPLATE,
    PROGRAD_TEMPLATES,
    Placeholder,
    spoken,
    word_rows,
)

STD = 0.02  # of every randomly drawn prompt


def drawn(*shape):
    return torch.randn(*shape) * STD


class Method:
    def __init__(self, clip, tokenizer, trace):
        self.clip, self.tokenizer, self.trace = clip, tokenizer, trace
        self.params, self.names = trace["params"], trace["classnames"]
        self.trained = {}
        self.parts = {}  # further terms of the last loss, by trace name
        self.build()

    def train(self, name, value):
        self.trained[name] = nn.Parameter(value.clone())

    def __getitem__(self, name):
        return self.trained[name]

    def restart(self, values):
        """Puts the recorded starting values in place of the drawn ones."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                assert parameter.shape == values[name].shape, f"{name}: {parameter.shape} against {values[name].shape}"
                parameter.copy_(values[name])

    def image_features(self, images):
        return self.clip.encode_image(images)

    def text_features(self):
        raise NotImplementedError

    def logits(self, images):
        return logits_of(self.clip, self.image_features(images), self.text_features())

    def loss(self, images, labels):
        return F.cross_entropy(self.logits(images), labels)

    def backward(self, images, labels):
        """Leaves the gradient that the optimiser sees; the loss is what a trace records."""
        loss = self.loss(images, labels)
        loss.backward()
        return loss

    def teacher_texts(self, template):
        """`[K, E]`, not normalised."""
        with torch.no_grad():
            return self.clip.encode_texts(self.tokenizer([template.format(name) for name in spoken(self.names)]))


class CoOp(Method):
    """Zhou et al., 2022, https://arxiv.org/abs/2109.01134; trainers/coop.py at ff61507."""

    CTX = "prompt_learner.ctx"

    def build(self):
        words = self.params.get("ctx_init", "").replace("_", " ")
        if words:
            m = len(words.split(" "))  # the words decide, n_ctx does not
            start = word_rows(self.clip, self.tokenizer, words, m)
        else:
            m = self.params["n_ctx"]
            per_class = [len(self.names)] if self.params.get("csc") else []
            start = drawn(*per_class, m, self.clip.text_width)
            words = " ".join(["X"] * m)
        self.place = Placeholder(self.clip, self.tokenizer, self.names, words, self.params.get("position", "end"))
        self.train(self.CTX, start)

    def text_features(self):
        return self.clip.encode_prompts(self.place.fill(self[self.CTX]), self.place.ends)


class KgCoOp(CoOp):
    """Yao et al., 2023, https://arxiv.org/abs/2303.13283; trainers/kgcoop.py at c43ccc3."""

    def build(self):
        super().build()
        self.teacher = unit(self.teacher_texts(KGCOOP_TEMPLATES.get(self.trace["dataset"], PLAIN_TEMPLATE)))

    def loss(self, images, labels):
        texts = unit(self.text_features())
        entropy = F.cross_entropy(logits_of(self.clip, self.image_features(images), texts), labels)
        drift = 1 - F.cosine_similarity(texts, self.teacher, dim=1, eps=1e-7).mean()
        return entropy + self.params["w"] * drift


class ProGrad(CoOp):
    """Zhu et al., 2023, https://arxiv.org/abs/2205.14865; trainers/prograd.py at 1b76203. T = 1, lambda = 1."""

    def build(self):
        self.cosines = []  # between the two gradients, step by step
        words = self.params.get("ctx_init", "")
        if words:
            # Right-aligned in n_ctx rows, zeros in front; spaces are counted, not tokens.
            m, used = self.params["n_ctx"], len(words.split(" "))
            start = torch.zeros(m, self.clip.text_width)
            start[m - used :] = word_rows(self.clip, self.tokenizer, words, used)
            words = " ".join(["X"] * (m - used) + [words])
            self.place = Placeholder(self.clip, self.tokenizer, self.names, words)
            self.train(self.CTX, start)
        else:
            super().build()
        self.teacher = unit(self.teacher_texts(PROGRAD_TEMPLATES.get(self.trace["dataset"], PLAIN_TEMPLATE)))

    def backward(self, images, labels):
        features = self.image_features(images)
        logits = logits_of(self.clip, features, self.text_features())
        entropy = F.cross_entropy(logits, labels)
        target = logits_of(self.clip, features, self.teacher).softmax(dim=-1).detach()
        general = (-target * logits.log_softmax(dim=-1)).sum(dim=1).mean()
        ctx = self[self.CTX]
        (away,) = torch.autograd.grad(general, ctx, retain_graph=True)
        (own,) = torch.autograd.grad(entropy, ctx)
        along = away / away.norm()
        product = (own * along).sum()
        ctx.grad = own - product * along if product < 0 else own
        self.cosines.append(float(product / own.norm()))
        self.parts["kl"] = general.detach().double()
        return entropy


class CoCoOp(Method):
    """Zhou et al., 2022, https://arxiv.org/abs/2203.05557; trainers/cocoop.py at ff61507."""

    NET = "prompt_learner.meta_net."

    def build(self):
        words = self.params.get("ctx_init", "").replace("_", " ")
        m = len(words.split(" ")) if words else self.params["n_ctx"]
        ctx = word_rows(self.clip, self.tokenizer, words, m) if words else drawn(m, self.clip.text_width)
        self.place = Placeholder(self.clip, self.tokenizer, self.names, words or " ".join(["X"] * m))
        self.train("prompt_learner.ctx", ctx)
        width, hidden = self.clip.embed, self.clip.embed // 16
        for name, layer in [("linear1", nn.Linear(width, hidden)), ("linear2", nn.Linear(hidden, self.clip.text_width))]:
            self.train(f"{self.NET}{name}.weight", layer.weight.data)
            self.train(f"{self.NET}{name}.bias", layer.bias.data)

    def shifts(self, features):
        """`[B, W]` from unit features `[B, E]`."""
        linear = lambda x, name: F.linear(x, self[f"{self.NET}{name}.weight"], self[f"{self.NET}{name}.bias"])
        return linear(F.relu(linear(features, "linear1")), "linear2")

    def logits(self, images):
        features = unit(self.image_features(images))
        ctx = self["prompt_learner.ctx"] + self.shifts(features).unsqueeze(1)  # [B, M, W]
        prompts = [self.place.fill(one) for one in ctx]
        rows = []
        for prompt, feature in zip(prompts, features):  # one image at a time, as published
            texts = self.clip.encode_prompts(prompt, self.place.ends)
            rows.append(logits_of(self.clip, feature.unsqueeze(0), texts)[0])
        return torch.stack(rows)


class DeepPrompts(Method):
    """What MaPLe, IVLP and PromptSRC share: the input context and its placeholder."""

    def build_context(self):
        words, m = self.params.get("ctx_init", ""), self.params["n_ctx"]
        if words and m <= 4:
            words = words.replace("_", " ")  # all words are tokenised, the first m are replaced
            ctx = word_rows(self.clip, self.tokenizer, words, m)
        else:
            ctx, words = drawn(m, self.clip.text_width), " ".join(["X"] * m)
        self.place = Placeholder(self.clip, self.tokenizer, self.names, words)
        self.train("prompt_learner.ctx", ctx)

    def encode(self, deep):
        filled = self.place.fill(self["prompt_learner.ctx"])
        return self.clip.encode_prompts(filled, self.place.ends, deep)


class MaPLe(DeepPrompts):
    """Khattak et al., 2023, https://arxiv.org/abs/2210.03117; trainers/maple.py at 69bce21."""

    def build(self):
        self.build_context()
        m, width, vision = self.params["n_ctx"], self.clip.text_width, self.clip.vision_width
        self.deep = self.params["depth"] - 1
        learner = "prompt_learner."
        project = nn.Linear(width, vision)
        self.train(learner + "proj.weight", project.weight.data)
        self.train(learner + "proj.bias", project.bias.data)
        for i in range(self.deep):
            self.train(f"{learner}compound_prompts_text.{i}", drawn(m, width))
        project = nn.Linear(width, vision)  # deep copies of one layer
        for i in range(self.deep):
            self.train(f"{learner}compound_prompt_projections.{i}.weight", project.weight.data)
            self.train(f"{learner}compound_prompt_projections.{i}.bias", project.bias.data)

    def compound(self):
        return [self[f"prompt_learner.compound_prompts_text.{i}"] for i in range(self.deep)]

    def project(self, x, name):
        return F.linear(x, self[f"prompt_learner.{name}.weight"], self[f"prompt_learner.{name}.bias"])

    def image_features(self, images):
        prompts = [self.project(self["prompt_learner.ctx"], "proj")]
        prompts += [self.project(text, f"compound_prompt_projections.{i}") for i, text in enumerate(self.compound())]
        return self.clip.encode_image(images, prompts)

    def text_features(self):
        return self.encode(self.compound())


class IVLP(DeepPrompts):
    """Independent prompts in both towers; trainers/independentVL.py at 69bce21. `n_ctx_vision` 0: language only."""

    def build(self):
        self.build_context()
        self.build_vision()
        for i in range(1, self.params["depth"]):
            self.train(self.text_block(i), drawn(self.params["n_ctx"], self.clip.text_width))

    def build_vision(self):
        n, v = self.params["n_ctx_vision"], self.clip.vision_width
        self.vision = [] if n == 0 else ["image_encoder.VPT"] + [
            f"image_encoder.transformer.resblocks.{i}.VPT_shallow" for i in range(1, self.params["depth"])
        ]
        for name in self.vision:
            self.train(name, drawn(n, v))

    @staticmethod
    def text_block(i):
        return f"text_encoder.transformer.resblocks.{i}.VPT_shallow"

    def image_features(self, images):
        return self.clip.encode_image(images, [self[name] for name in self.vision])

    def text_features(self):
        return self.encode([self[self.text_block(i)] for i in range(1, self.params["depth"])])


class VPT(IVLP):
    """Deep vision prompts alone, texts frozen; trainers/vpt.py at 69bce21."""

    def build(self):
        self.build_vision()
        self.texts = self.teacher_texts(PLAIN_TEMPLATE)

    def text_features(self):
        return self.texts


class PromptSRC(IVLP):
    """Khattak et al., 2023, https://arxiv.org/abs/2307.06948; trainers/promptsrc.py at bb95c77."""

    TEXT, IMAGE = 25.0, 10.0  # loss weights in every published setting

    def build(self):
        super().build()
        self.teacher = torch.stack([self.teacher_texts(one) for one in self.trace["teacher_templates"]]).mean(dim=0)

    def loss(self, images, labels):
        texts, features = unit(self.text_features()), unit(self.image_features(images))
        with torch.no_grad():
            frozen_texts, frozen = unit(self.teacher), unit(self.clip.encode_image(images))
            target = logits_of(self.clip, frozen, frozen_texts).log_softmax(dim=1)
        logits = logits_of(self.clip, features, texts)
        terms = [
            F.cross_entropy(logits, labels),
            self.TEXT * F.l1_loss(texts, frozen_texts),
            self.IMAGE * F.l1_loss(features, frozen),
            # Summed over classes, then divided by B * K: not the batch mean.
            F.kl_div(logits.log_softmax(dim=1), target, reduction="sum", log_target=True) / logits.numel(),
        ]
        self.parts["loss.parts"] = torch.stack(terms).detach().double()
        return sum(terms)


class TPT(CoOp):
    """Shu et al., 2022, https://arxiv.org/abs/2209.07511; tpt_classification.py at 63ecbac."""

    def adapt(self, views, steps=1):
        """One test image from fresh: `views` `[V, 3, R, R]`, view 0 the image itself. Returns loss, kept, logits."""
        optimizer = torch.optim.AdamW([self[self.CTX]], self.trace["lr"][0])
        kept = None
        for _ in range(steps):
            with torch.no_grad():
                features = self.image_features(views)
            logits = logits_of(self.clip, features, self.text_features())
            if kept is None:  # chosen once an image
                self.entropies = -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1).detach()
                kept = self.entropies.argsort()[: int(len(views) * self.trace["selection_p"])]
            loss = self.entropy_of_mean(logits[kept])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return loss.detach(), kept.sort().values, self.logits(views[:1])[0]

    @staticmethod
    def entropy_of_mean(logits):
        log = logits.log_softmax(dim=1)
        mean = log.logsumexp(dim=0) - torch.log(torch.tensor(float(len(log))))
        mean = mean.clamp(min=torch.finfo(mean.dtype).min)
        return -(mean * mean.exp()).sum()


METHODS = {
    "coop": CoOp,
    "cocoop": CoCoOp,
    "maple": MaPLe,
    "ivlp": IVLP,
    "vpt": VPT,
    "kgcoop": KgCoOp,
    "prograd": ProGrad,
    "promptsrc": PromptSRC,
    "tpt": TPT,
}


def build(clip, tokenizer, trace):
    with torch.no_grad():
        return METHODS[trace["method"]](clip, tokenizer, trace)


def step_optimizer(method):
    """SGD as in every published configuration; the caller sets the rate of each step."""
    return torch.optim.SGD(method.trained.values(), lr=0.0, momentum=0.9, weight_decay=5e-4)
