"""Print how many published networks with attention run, and how far lxt is: a table of the docs.

``python -m tests.attention_networks`` builds small networks with random weights from whatever of
torchvision, timm and transformers is installed, and explains each by every rule of attention. A
network is right if its score is its own, relevance and what was kept sum to it, and the map is
gradient times input with gradients halved or cut (`tests.helpers.attention_gradients`). If lxt is
installed, a block of a language model is explained by it too.
"""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import sklrp
from sklrp import Composite, Zero
from tests.helpers.attention_gradients import reference

ATTENTIONS = ("attnlrp", "constant", "cp")
CAUSES = ("bias", "epsilon", "padding", "initial_state", "dropped")
TOLERANCE = 1e-6  # some networks compute norms in float32, whatever their weights are


class Embedded(nn.Module):
    """A language model that takes vectors in place of tokens, and gives one row of scores."""

    def __init__(self, model, by_name):
        super().__init__()
        self.model, self.by_name = model, by_name

    def forward(self, x):
        out = self.model(**{self.by_name: x}).logits
        return out[:, -1] if out.dim() == 3 else out


def define_operators():
    """Return a library of those operators that torchvision and whoever imports it look for.

    A build of torch without GPUs cannot load them from torchvision's wheel; none is called here.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def of_torchvision():
    """Yield names and makers of networks, and their inputs' shape."""
    from torchvision.models import convnext, swin_transformer, vision_transformer

    vit, swin = vision_transformer.VisionTransformer, swin_transformer.SwinTransformer
    second = {
        "block": swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": swin_transformer.PatchMergingV2,
    }
    sizes = ([2, 2], 8, [2, 2], [2, 2], [4, 4])
    shape = (2, 3, 32, 32)
    yield "vit", lambda: vit(32, 8, 2, 2, 16, 32, num_classes=5), shape
    yield "swin", lambda: swin(*sizes, num_classes=5, stochastic_depth_prob=0.1), shape
    yield "swin v2", lambda: swin(*sizes, num_classes=5, **second), shape
    rows = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    yield "convnext", lambda: convnext.ConvNeXt(rows, num_classes=5), shape


TIMM = {
    "vit": (
        "vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 "
        "vit_relpos_small_patch16_224 vit_base_patch16_siglip_224 vit_small_patch14_reg4_dinov2 "
        "beit_base_patch16_224 eva02_tiny_patch14_224 xcit_tiny_12_p8_224 cait_xxs24_224"
    ),
    "swin": "swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224",
    "convnext": "convnext_atto convnextv2_atto",
    "": "pit_ti_224 mobilevit_xxs mobilevitv2_050 edgenext_xx_small efficientvit_m0 fastvit_t8",
}
OPTIONS = {
    "vit": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    "swin": {
        "img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4,
    },
    "convnext": {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)},
    "": {},
}  # fmt: skip


def of_timm():
    """Yield names and makers of networks, and their inputs' shape."""
    import timm

    for kind, names in TIMM.items():
        for name in names.split():
            options = OPTIONS[kind] | ({"img_size": 32} if name.startswith("pit") else {})
            options |= {"depth_token_only": 1} if name.startswith("cait") else {}
            yield (
                name,
                lambda name=name, options=options: timm.create_model(
                    name, num_classes=5, **options
                ),
                (2, 3, 32, 32),
            )


def of_transformers():
    """Yield names and makers of networks, and their inputs' shape."""
    import transformers as hf

    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "vocab_size": 30,
    }  # fmt: skip
    short = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    images = {"image_size": 32, "patch_size": 8, "num_labels": 4}
    kinds = {
        "Bert": ("SequenceClassification", {"num_labels": 4}),
        "Electra": ("SequenceClassification", {"embedding_size": 16, "num_labels": 4}),
        "GPT2": ("LMHeadModel", short),
        "GPTNeoX": ("CausalLM", {}),
        "Llama": ("CausalLM", {"num_key_value_heads": 1}),
        "Qwen2": ("CausalLM", {"num_key_value_heads": 1}),
        "Mamba": ("CausalLM", {"state_size": 4}),
        "ViT": ("ImageClassification", images),
        "DeiT": ("ImageClassification", images),
        "Dinov2": ("ImageClassification", images),
    }
    for kind, (task, options) in kinds.items():
        model = getattr(hf, f"{kind}{task}", None) or getattr(hf, f"{kind}For{task}")
        config = getattr(hf, f"{kind}Config")(**sizes, **options)
        is_image = task.startswith("Image")
        yield (
            kind,
            lambda model=model, config=config, is_image=is_image: Embedded(
                model(config), "pixel_values" if is_image else "inputs_embeds"
            ),
            (2, 3, 32, 32) if is_image else (2, 7, 16),
        )


def judge(model, x, attention):
    """Return "run", "refused" or "wrong", and what is to be said of it."""
    rule = Composite([("all", Zero(), "all")], attention=attention)
    try:
        relevance, details = sklrp.explain(
            model, x, target=1, rule=rule, epsilon=0.0, return_details=True
        )
    except (TypeError, ValueError) as error:
        return "refused", str(error)[:120]
    kept = sum(layer[cause] for layer in details.layers for cause in CAUSES)
    rest = np.abs(relevance.reshape(len(x), -1).sum(1) + kept - details.score).max()
    expected, scores = reference(model, x, attention, pick=lambda out: out[:, 1:2])
    gaps = (
        rest / max(1.0, np.abs(details.score).max()),
        np.abs(scores[:, 0] - details.score).max(),
        np.abs(relevance - expected[:, 0]).max() / np.abs(expected).max(),
    )
    return "run" if max(gaps) < TOLERANCE else "wrong", "{:.0e} {:.0e} {:.0e}".format(*gaps)


def print_networks(source, networks):
    """Print a line for each network, and how many run."""
    counts = {"run": 0, "refused": 0, "wrong": 0}
    for name, make, shape in networks:
        torch.manual_seed(0)
        model = make().double().eval()
        for parameter in model.parameters():  # heads start at zero, and so would all relevance
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        x = np.random.default_rng(0).normal(size=shape)
        for attention in ATTENTIONS:
            verdict, told = judge(model, x, attention)
            counts[verdict] += 1
            print(f"{source:12} {name:34} {attention:9} {verdict:8} {told}", flush=True)
    print(f"{source}: {counts}")


class LanguageBlock(nn.Module):
    """A block of a language model: two heads, and SwiGLU."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm1, self.norm2, self.head = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1)
        x = x + self.o((weights @ v).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return self.head((x + self.down(F.silu(self.gate(y)) * self.up(y))).mean(1))

    def by_lxt(self, x, epsilon):
        """Run the same by the functions of lxt, whose gradient is relevance."""
        import lxt.explicit.functional as lf
        from lxt.explicit.rules import identity

        def dense(layer, x):
            return lf.linear_epsilon(x, layer.weight, layer.bias, epsilon)

        def norm(layer, x):
            return lf.layer_norm(x, layer.weight, layer.bias, layer.eps)

        y, half = norm(self.norm1, x), torch.tensor(0.5, dtype=x.dtype)
        q, k, v = (
            dense(f, y).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        scores = lf.mul2(lf.matmul(q, k.transpose(-2, -1), False, epsilon), half)
        out = lf.matmul(lf.softmax(scores, -1), v, False, epsilon)
        x = lf.add2(x, dense(self.o, out.transpose(1, 2).flatten(2)), False, epsilon)
        y = norm(self.norm2, x)
        gated = lf.mul2(identity(F.silu, dense(self.gate, y)), dense(self.up, y))
        x = lf.add2(x, dense(self.down, gated), False, epsilon)
        return dense(self.head, lf.mean(x, 1, False, epsilon))


def print_lxt():
    """Print the difference to lxt, by epsilon: it adds its own without the sign."""
    torch.manual_seed(0)
    model, start = LanguageBlock().double(), torch.randn(4, 6, 8, dtype=torch.double)
    for epsilon in (1e-6, 1e-9):
        x = start.clone().requires_grad_()
        out = model.by_lxt(x, epsilon)[:, 1]
        (theirs,) = torch.autograd.grad(out, x, out.detach())
        ours = sklrp.explain(model, start.numpy(), target=1, rule="epsilon", epsilon=epsilon)
        gap = np.abs(ours - theirs.numpy()).max() / np.abs(ours).max()
        print(f"lxt, epsilon {epsilon:g}: {gap:.1e} of the largest relevance")


SOURCES = {"torchvision": of_torchvision, "timm": of_timm, "transformers": of_transformers}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    operators = define_operators()
    for source, networks in SOURCES.items():
        if importlib.util.find_spec(source) is not None:
            print_networks(source, networks())
    if importlib.util.find_spec("lxt") is not None:
        print_lxt()
