"""A defence in depth: what is explained is compared with what the network itself computes.

The engine follows a network by handlers of its own. Whatever these misread, the score tells: it is
not the network's, by a plain forward of its own modules. And relevance that is lost or made on the
way tells too: the sum of what arrives and of what was kept is not the score. :mod:`.chunk` calls
:class:`Defence` on few samples before all others, and on chunks.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sklrp._checks import say_layer
from sklrp._outputs import pick_output
from sklrp._torch import count_changes
from sklrp.propagation.inputs import Intake
from sklrp.propagation.nested import swap_signals
from sklrp.propagation.plans import Plan
from sklrp.propagation.recording.refusals import Refusals
from sklrp.propagation.recording.twin import make_twin
from sklrp.propagation.tape import Kept, Record, Step, Tape, run_handler, total
from sklrp.rules import Signal

# By how much of the largest score of a sample its score may differ: more than rounding does, less
# than any mistake.
_SINGLE = 1e-4
_TOLERANCE = {torch.float32: _SINGLE, torch.float64: 1e-7}
# By how many units of the last place weights are moved to see what rounding does to a network.
_UNITS, _MARGIN = 16, 64
# In chunks of so many samples two are compared: a plain forward of them costs next to nothing.
_MANY = 64
EVERY = slice(None)


@dataclass(frozen=True)
class Defence:
    """What is compared with the network's own forward, and when.

    Attributes
    ----------
    plan : Plan
        The compiled network.
    intake : Intake
        How it takes its inputs.
    check : {"auto", True, False}
        Whether every chunk is compared as a whole; see :func:`sklrp.explain`.
    at_once : bool, default=False
        Whether the first or only chunk is so small that it is itself what is checked.
    """

    plan: Plan
    intake: Intake
    check: bool | str
    at_once: bool = False

    @property
    def needs_probe(self) -> bool:
        """Whether few samples are looked at first: the package's own chains need it not."""
        return self.plan.twins is not None or self.plan.is_extended

    def rows_of(self, n_samples: int, is_first: bool) -> slice | None:
        """Return which samples of a chunk are compared: all, the first and the last, or none."""
        if self.check is True or (self.check == "auto" and self.plan.varies):
            return EVERY
        first = is_first and (self.at_once or not self.needs_probe)
        if first or (self.check == "auto" and n_samples >= _MANY):
            return slice(0, n_samples, max(1, n_samples - 1))
        return None

    def compare(self, tape: Tape, chunk: Sequence[Any], rows: slice = EVERY) -> None:
        """Refuse a network whose own scores of some samples are not those of the tape."""
        ours = _returned_by(tape)
        part = chunk if rows == EVERY else [array[rows] for array in chunk]
        if self._is_close(ours[rows], part, tape.head):
            return
        if part is not chunk and self._is_close(ours, chunk, tape.head):
            return  # forward may look at the whole chunk, at its longest sequence for one
        raise TypeError(
            f"Relevance through {self._first_to_differ(chunk)} is not supported: there the values "
            "that are explained begin to differ from those of the network itself, and so does the "
            "score. It, or what forward does before it, is not followed; write it by functions "
            "and layers of torch that change nothing in place, or register a handler for it."
        )

    def confirms(self, tape: Tape, chunk: Sequence[Any]) -> bool:
        """Return whether samples that are run plainly have the scores of the tape."""
        # By one forward what `compare` and `check_samples` do: of the chunk's first and last
        # sample, and of one that is near the first.
        ours = _returned_by(tape)
        n = len(ours)
        try:
            theirs = self._run_plainly(self._beside(chunk, [0, n - 1]))[:2].to(ours.dtype)
        except Exception:  # it does not take these values
            return False
        return ours.shape[1] == theirs.shape[1] and _is_within(ours[[0, n - 1]], theirs, tape.head)

    def check_samples(self, tape: Tape, chunk: Sequence[Any]) -> None:
        """Refuse a network that mixes samples: the score of one depends on another's values."""
        alone = [array[[0, 0]] for array in chunk]
        try:
            mixed = self._run_plainly(self._beside(chunk, [0]))
        except Exception:  # it does not take these values
            return
        # Beside the last sample, on the tape, its score is the same; else it is run alone.
        if self._is_beside(tape, mixed[:1]):
            return
        if not self._is_close(mixed[:1], alone, self.plan.head, slice(1)):
            raise TypeError(
                "The network mixes samples: the score of one depends on the values of the others "
                "in its batch, and relevance would too. Look for a sum, a mean, a product or a "
                "comparison over the axis of the samples."
            )

    def _beside(self, chunk: Sequence[Any], rows: list[int]) -> list[Tensor]:
        """Return samples of a chunk, and the first once more with other values."""
        # It is a little nearer to zero, where it is not zero: lengths that forward tells by zeros
        # stay the same.
        tensors = [self.intake.to_tensor(array[[*rows, 0]]).clone() for array in chunk]
        for t in tensors:
            if t.is_floating_point():
                t[-1] *= 0.75
            elif t.dtype != torch.bool:
                t[-1] -= (t[-1] > 1).to(t.dtype)
        return tensors

    def _is_beside(self, tape: Tape, mixed: Tensor) -> bool:
        """Return whether the first sample of a tape has the score that it has beside another."""
        ours = _returned_by(tape)[:1]
        return ours.shape == mixed.shape and _is_within(ours, mixed.to(ours.dtype), tape.head)

    # The network itself

    def _run_plainly(self, chunk: Sequence[Any]) -> Tensor:
        """Return the scores of the network's own forward."""
        plan = self.plan
        inputs = [self.intake.to_tensor(part, copy=False).clone() for part in chunk]
        if plan.twins is None:  # a chain's own layers, which keep nothing
            output = inputs[0]
            for _, layer in plan.layers:
                output = layer(output)
        else:
            args, kwargs = self.intake.to_arguments(inputs)
            with plan.twins.lend() as twin:
                output = twin(*args, **kwargs)
        return pick_output(output, plan.key).reshape(len(chunk[0]), -1)

    def _run_nudged(self, chunk: Sequence[Any], nudge: float) -> Tensor:
        """Return the scores of the network's own forward, with all weights moved a little."""
        generator = torch.Generator().manual_seed(0)

        def moved(x: Tensor) -> Tensor:
            if not x.is_floating_point():
                return x.clone()
            noise = torch.rand(x.shape, generator=generator, dtype=torch.double, device="cpu").to(
                x
            )
            return x * (1 + nudge * (2 * noise - 1))

        plan = self.plan
        inputs = [moved(self.intake.to_tensor(part, copy=False)) for part in chunk]
        own = nn.Sequential(*(layer for _, layer in plan.layers))
        module = make_twin(own if plan.twins is None else plan.twins.network)
        weights = {name: moved(weight) for name, weight in module.named_parameters()}
        output = functional_call(module, weights, *self.intake.to_arguments(inputs))
        return pick_output(output, plan.key).reshape(len(chunk[0]), -1)

    def _is_close(
        self, ours: Tensor, chunk: Sequence[Any], head: str | None, rows: slice = slice(None)
    ) -> bool:
        """Return whether scores are the network's own, to rounding."""
        theirs = self._run_plainly(chunk)[rows].to(ours.dtype)
        if ours.shape != theirs.shape:
            return False
        if _is_within(ours, theirs, head):
            return True
        if not bool(theirs.isfinite().all()):
            return False
        gap, allowed = (ours - theirs).abs(), _allow(theirs, head)
        eps = torch.finfo(ours.dtype).eps
        noise = (self._run_nudged(chunk, _UNITS * eps)[rows].to(ours.dtype) - theirs).abs()
        return bool(((gap <= allowed + _MARGIN * noise.amax(1, True)) | (ours == theirs)).all())

    def _first_to_differ(self, chunk: Sequence[Any]) -> str:
        """Return the first layer whose values are not those of the network itself."""
        ours: list[tuple[str, Tensor]] = []

        def note(step: Any, handler: Any, args: Any, kwargs: Any) -> Any:
            out, pull = run_handler(step, handler, args, kwargs)
            if not step.folded and not step.merged and isinstance(out, Signal):
                ours.append((step.name, out.x.clone()))  # a ReLU may write over it
            return out, pull

        inputs = self.intake.to_signals(chunk)
        self.plan.run(*inputs, call=note)
        theirs = self._layer_values(*inputs)
        seen: Counter[str] = Counter()
        for name, x in ours:
            known = theirs[name][seen[name] :][:1]
            seen[name] += 1
            if known and x.shape == known[0].shape:
                gap, size = (x - known[0]).abs().max(), known[0].abs().max()
                if not gap <= _TOLERANCE[self.intake.dtype] * size < torch.inf:
                    return say_layer(name)
        return "a function that the network's forward calls"

    def _layer_values(self, signals: Any, args: Any, kwargs: Any) -> dict[str, list[Tensor]]:
        """Return what the network's own layers return, by their paths."""
        if self.plan.twins is None:
            value, found = signals[0].x.clone(), defaultdict(list)
            for name, layer in self.plan.layers:
                value = layer(value)
                if isinstance(value, Tensor):
                    found[name].append(value.clone())
            return found
        witness = _Witness(self.plan.twins.network)
        args, kwargs = swap_signals((args, kwargs), lambda signal: signal.x.clone())
        with self.plan.twins.lend(witness) as twin:
            twin(*args, **kwargs)
        return witness.values


def _returned_by(tape: Tape) -> Tensor:
    """Return what the network returns on a tape, of the shape (n_samples, n_outputs)."""
    return tape.scores if tape.returned is None else tape.returned.reshape(len(tape.scores), -1)


def _allow(scores: Tensor, head: str | None) -> Tensor:
    """Return by how much others may differ from scores by rounding."""
    # Small probabilities tell of logits what large ones do not.
    size = scores.abs() if head in ("softmax", "sigmoid") else scores.abs().amax(1, True)
    kind = torch.finfo(scores.dtype)
    return (_TOLERANCE[scores.dtype] * size).add_(kind.tiny).clamp_(max=kind.max)


def _is_within(ours: Tensor, theirs: Tensor, head: str | None) -> bool:
    """Return whether scores differ by rounding at most."""
    near = (ours - theirs).abs_() <= _allow(theirs, head)
    return bool(near.all()) or bool((near | (ours == theirs)).all())


class _Witness:
    """What a twin tells in place of a recorder: it lets every layer run as it is."""

    watched: frozenset[str] = frozenset()

    def __init__(self, network: nn.Module) -> None:
        self.refusals = Refusals(network)
        self.values: dict[str, list[Tensor]] = defaultdict(list)

    def depends(self, *values: Any) -> bool:
        """Let all layers be told."""
        return True

    def layer(self, path: str, layer: nn.Module, args: Any, kwargs: Any, own: Any) -> Any:
        """Run a layer, and note what it returns."""
        out = layer(*args, **kwargs)
        if isinstance(out, Tensor):
            self.values[path].append(out.clone())
        return out


class Balance:
    """An account of relevance on its way back: what each step got, passed on and kept."""

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self._steps: list[Step] = []  # a record would hold the layer's activations
        # What the steps got, less what they passed on and kept: which step, its sign and amount.
        self._entries: list[tuple[int, float, Tensor]] = []
        self._sizes: list[Tensor] = []  # of the relevance on its way, whatever its sign
        # The sum of what is on its way was found when it was passed on.
        self._passed: dict[int, tuple[weakref.ref[Tensor], int, Tensor]] = {}

    def note(
        self, record: Record, arrived: Sequence[Any], passed: Sequence[Any], kept: Kept | None
    ) -> None:
        """Note one step."""
        for is_passed, parts, axes in (
            (False, arrived, record.output_axes),
            (True, passed, record.input_axes),
        ):
            for part, axis in zip(parts, axes, strict=True):
                if part is not None:
                    amount = self._sum(part, axis, is_passed)
                    self._entries.append((len(self._steps), -1.0 if is_passed else 1.0, amount))
        self._entries += [(len(self._steps), -1.0, amount) for amount in (kept or {}).values()]
        self._steps.append(record.step)

    def keep(self, axis: int) -> Kept:
        """Return an account of what a step keeps."""
        return Kept(self.n_samples, axis, self._sum_of)

    def _sum_of(self, relevance: Tensor, axis: int) -> Tensor:
        """Return the sum of relevance of each target and sample, known if a step passed it on."""
        changes, amount = self._find_passed(relevance)
        if amount is not None and changes == count_changes(relevance):
            return amount
        return total(relevance, self.n_samples, axis)  # a pull may have changed what it was given

    def _sum(self, relevance: Tensor, axis: int, is_passed: bool) -> Tensor:
        """Return the sum of relevance of each target and sample, and note its size, once."""
        changes, found = self._find_passed(relevance)
        # What arrived was summed when it was passed; a pull may have changed it in place since.
        if found is not None and (not is_passed or changes == count_changes(relevance)):
            return found
        amount = total(relevance, self.n_samples, axis)
        self._sizes.append(total(relevance.abs(), self.n_samples, axis))
        self._passed[id(relevance)] = weakref.ref(relevance), count_changes(relevance), amount
        return amount

    def _find_passed(self, relevance: Tensor) -> tuple[int, Tensor | None]:
        """Return how often relevance had been changed when it was passed on, and its sum."""
        found = self._passed.get(id(relevance))
        if found is None or found[0]() is not relevance:  # another tensor had that identity
            return 0, None
        return found[1], found[2]

    def settle(self) -> None:
        """Refuse a network in which a step lost or made relevance."""
        if not self._sizes:  # none was on its way
            return
        # Where relevance starts: forward may compute in parts on another device.
        device = self._sizes[0].device
        places, signs, amounts = zip(*self._entries, strict=True)
        found = torch.stack([amount.to(device) for amount in amounts])
        signed = found * found.new_tensor(signs)[:, None, None]
        gaps = signed.new_zeros((len(self._steps), *found.shape[1:]))
        gaps.index_add_(0, torch.tensor(places, device=device), signed).abs_()
        # Of the relevance, not of the score: that may be a small difference, or have an offset.
        sizes = torch.stack([size.to(device) for size in self._sizes])
        # A step of single precision in a network of double rounds as single precision does.
        tolerance = max(_TOLERANCE.get(size.dtype, _SINGLE) for size in self._sizes)
        bad = ~gaps.isfinite() | (gaps > tolerance * sizes.amax(0))
        if bool(bad.any()):
            # Behind a step that makes NaN all are NaN: the step is the first with such a gap.
            k = int(bad.flatten(1).any(1).to(torch.int8).argmax())
            step = self._steps[k]
            raise TypeError(
                f"Relevance through {step.name!r} ({step.label}) is not supported: what its "
                "handler passes on and keeps is not what it got, it is "
                f"{float(gaps[k].max()):.3g} off. Let its pull add what it does not pass on to "
                "`kept`."
            )
