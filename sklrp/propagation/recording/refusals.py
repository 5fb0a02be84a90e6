"""How a recorded network is refused, and where in it the refused call is.

There is one way: the recorder raises what a method of :class:`Refusals` returns. The exception
stops forward there and then. Forward may catch it and go on, so the first refusal is also noted,
and at the end of the run the note decides: the recorder raises a TypeError that says what was
noted. A :class:`Refusal` is no TypeError itself: Python's operators take one from a method as a
reason to try the other operand, and raise a TypeError of their own words.
"""

from __future__ import annotations

from torch import nn

from sklrp._checks import say_layer

FOREIGN = (
    "forward changes a tensor that is not its own (a parameter, a buffer, the input) in place"
)
OVERRIDES = (
    "it takes a tensor of the type {}, whose own __torch_function__ may compute something else; "
    "pass a plain tensor, as tensor.as_subclass(torch.Tensor) is"
)
AUTOCAST = (
    "forward calls it under torch.autocast, and relevance is computed in the network's own "
    "precision; switch autocast off to explain, by torch.autocast(..., enabled=False) in forward"
)
COMPLEX_NUMBERS = (
    "it takes or makes complex numbers, of which Fourier transforms, sums, products with weights, "
    "abs, real and imag are supported"
)
SPARSE = "it takes a sparse tensor; make it dense by to_dense()"
DRAWS = "forward draws random numbers, also in evaluation mode"

_NOT_LINEAR = (
    "what it computes is no sum of shares of the matrix's values; compute it of constants, or "
    "before the network"
)
_COUNTED = (
    "the values say how many it finds; use a mask, where, or topk and gather, of fixed numbers"
)
_GRIDS = "lay the values out by unsqueeze and expand"
_LOSS = "a loss is not explained; return what the network predicts, and explain that by target"
# What to write in place of functions that relevance does not pass, by their names.
REMEDIES = {
    **dict.fromkeys(
        ("cholesky", "cholesky_inverse", "cond", "det", "eig", "eigh", "eigvals", "eigvalsh",
         "inv", "inverse", "logdet", "lstsq", "lu", "lu_factor", "lu_solve", "matrix_exp",
         "matrix_rank", "pca_lowrank", "pinv", "pinverse", "qr", "slogdet", "svd", "svd_lowrank",
         "svdvals", "tensorinv", "tensorsolve"),
        _NOT_LINEAR,
    ),
    **dict.fromkeys(
        ("argwhere", "bincount", "histc", "histogram", "histogramdd", "nonzero", "unique",
         "unique_consecutive"),
        _COUNTED,
    ),
    **dict.fromkeys(("cartesian_prod", "combinations", "meshgrid"), _GRIDS),
    "angle": "write torch.atan(imag / real), in which the denominator counts as a constant",
    "as_strided": "use slices, view or unfold",
    "cov": "center by hand and multiply: y = x - x.mean(-1, keepdim=True); y @ y.mT",
    "frexp": "divide by a power of 2 that is a constant",
    "nextafter": "leave it out of what is explained",
    "put": "use index_put or scatter",
    "renorm": "write x * (largest / x.norm(dim=dim, keepdim=True)).clamp(max=1)",
    "take": "flatten each sample, and use gather or take_along_dim",
    "vander": "write torch.stack([x**k for k in range(n)], -1)",
}  # fmt: skip


def find_remedy(name: str) -> str:
    """Return what to write in place of a function; nothing where that is not known."""
    if name.endswith("_loss") or name.startswith("binary_cross_entropy") or name == "kl_div":
        return _LOSS
    return REMEDIES.get(name.removeprefix("linalg_").removesuffix("_ex"), "")


OTHER_WAY = (
    "The network's forward takes another way for these samples than for the first: a branch or a "
    "loop in it depends on the values or the number of the samples, and relevance would not be "
    "comparable. Write it without."
)


class Refusal(Exception):
    """What is not supported; it stops forward."""


class Refusals:
    """The first refusal of a run, and the words of all of them.

    Parameters
    ----------
    network : nn.Module
        The network, which refusals name where no layer is at fault.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.first: Refusal | None = None
        self._places: list[tuple[str, nn.Module]] = []  # the modules whose forward is being run

    def enter(self, path: str, module: nn.Module) -> None:
        """Note that the forward of a module is being run."""
        self._places.append((path, module))

    def leave(self) -> None:
        """Note that it has ended."""
        self._places.pop()

    @property
    def running(self) -> nn.Module:
        """The innermost module whose forward is being run."""
        return self._places[-1][1] if self._places else self.network

    def path_of(self, name: str) -> str:
        """Return the path of a function, in the module whose forward calls it."""
        path = self._places[-1][0] if self._places else ""
        return f"{path}.{name}" if path else name

    def unsupported(self, name: str, why: str = "") -> Refusal:
        """Refuse a function or a layer, which the forward being run calls."""
        path, module = self._places[-1][0] if self._places else "", self.running
        name = name.removeprefix(f"{path}.")
        kind = type(module).__name__
        where = f"layer {path!r} ({kind})" if path else f"the network ({kind})"
        return self.because(
            f"Relevance through {name!r}, which the forward of {where} calls, is not supported"
            f"{': ' + why.rstrip('.') if why else ''}. Use a supported layer or function in its "
            "place (sklrp.propagation.supported() lists them), or register a handler for it with "
            "sklrp.propagation.register."
        )

    def training_mode(self, path: str, module: nn.Module) -> Refusal:
        """Refuse a network that sets its own parts to training mode."""
        return self.because(
            f"Relevance through {say_layer(path)} ({type(module).__name__}) is not supported: the "
            "network's forward sets it to training mode, and layers are explained as in "
            "evaluation mode. Leave the mode to train() and eval()."
        )

    def other_way(self) -> Refusal:
        """Refuse a network whose steps differ from run to run."""
        return self.because(OTHER_WAY)

    def because(self, message: str) -> Refusal:
        """Refuse with a whole message, and note it."""
        refusal = Refusal(message)
        self.first = self.first or refusal
        return refusal

    def withdraw(self, refusal: Refusal) -> None:
        """Forget a refusal: what was refused is done in another way."""
        if self.first is refusal:
            self.first = None
