"""One chunk of samples: the forward pass, the checks of it, and relevance back to the inputs.

A :class:`PreparedCall` is what :mod:`.preparing` makes once, and :mod:`.run` hands to each chunk
or to each worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sklrp._devices import keep_freed_memory
from sklrp.propagation.defence import EVERY, Balance, Defence
from sklrp.propagation.inputs import Intake, is_finite
from sklrp.propagation.layer_outputs import AskedLayer, Listener, find_values
from sklrp.propagation.plans import Plan
from sklrp.propagation.start import Start, start
from sklrp.propagation.tape import Layer, Tape
from sklrp.propagation.targets import Target
from sklrp.rules import Signal


@dataclass(frozen=True)
class PreparedCall:
    """What all chunks of one call share; it travels to workers.

    Attributes
    ----------
    plan : Plan
        The compiled network.
    intake : Intake
        How it takes its inputs.
    contrast : bool
        Whether the largest of the other scores is subtracted.
    details : bool
        Whether to tell where relevance went.
    defence : Defence
        What the network's own scores are compared by.
    n_outputs : int
        The number of outputs of a sample.
    layers : tuple of AskedLayer
        The layers at whose outputs relevance is asked for.
    """

    plan: Plan
    intake: Intake
    contrast: bool
    details: bool
    defence: Defence
    n_outputs: int
    layers: tuple[AskedLayer, ...]

    def check(self, chunk: Sequence[Any], alone: bool = False) -> None:
        """Explain a few samples, and compare all that can be; one `alone` is beside no other."""
        tape = self.plan.run(*self.intake.to_signals(chunk))
        check_outputs(tape.scores)
        self.defence.compare(tape, chunk)
        if alone:
            self._check_size(tape.scores)
        else:
            self.defence.check_samples(tape, chunk)
        begun = start(tape.scores, None, self.contrast)
        balance = Balance(len(chunk[0]))
        tape.pull(begun.relevance, False, [balance.note], balance.keep)
        balance.settle()

    def explain(
        self, chunk: Sequence[Any], target: Target, is_first: bool
    ) -> tuple[list[Tensor], dict[str, Any] | None]:
        """Return the relevance of a chunk's inputs, targets first, and the details."""
        if self.intake.device.type == "cpu":
            keep_freed_memory()
        # Forward, all relevance on the scores of the targets, and back: the whole of LRP.
        # Handlers of this package never write to what they are given; others might.
        signals, args, kwargs = self.intake.to_signals(chunk, copy=self.defence.needs_probe)
        run = self.plan.run_first if is_first and self.plan.origin.is_tentative else self.plan.run
        tape = run(signals, args, kwargs)
        check_outputs(tape.scores)
        self._compare(tape, chunk, is_first)
        self._check_size(tape.scores)
        begun = start(tape.scores, target, self.contrast)
        values = find_values(self.layers, tape) if self.layers else []
        listener = Listener(values, *begun.relevance.shape[:2])
        balance = self._begin_balance(tape, chunk, begun, is_first)
        notes = [listener.note] * bool(self.layers)
        keep = None
        if balance is not None:
            notes, keep = [*notes, balance.note], balance.keep
        arrived, layers = tape.pull(begun.relevance, self.details, notes, keep)
        if balance is not None:
            balance.settle()
        passed = self._fill(arrived, signals, len(begun.relevance))
        if not self.details:
            return passed, None
        return passed, {**_to_arrays(begun, layers), "outputs": listener.arrays()}

    def _compare(self, tape: Tape, chunk: Sequence[Any], is_first: bool) -> None:
        """Compare the scores with the network's own; refuse others, or raise an error of doubt."""
        defence = self.defence
        rows = defence.rows_of(len(tape.scores), is_first)
        at_stake = is_first and (self.plan.origin.once or self.plan.origin.is_trusted)
        confirmed = at_stake and defence.confirms(tape, chunk)
        if is_first and self.plan.origin.once and not self.plan.origin.recalled and not confirmed:
            raise ValueError("The scores change with what stands beside a sample.")
        if rows is not None and (rows == EVERY or not confirmed):
            defence.compare(tape, chunk, rows)
        if is_first and defence.at_once and not confirmed:
            defence.check_samples(tape, chunk)

    def _begin_balance(
        self, tape: Tape, chunk: Sequence[Any], begun: Start, is_first: bool
    ) -> Balance | None:
        """Return what watches the way back, unless few samples were watched beforehand."""
        if self.defence.at_once and is_first and not self.plan.origin.is_trusted:
            if not bool(begun.relevance.abs().sum((0, 2)).all()):
                # Where no relevance starts none can be lost: the largest scores tell.
                self.check([array[[0, -1]] for array in chunk])
        elif self.defence.check is not True:
            return None
        return Balance(len(tape.scores))

    def _check_size(self, scores: Tensor) -> None:
        """Refuse outputs whose number depends on the batch: an index would mean another one."""
        if scores.shape[1] != self.n_outputs:
            raise ValueError(
                f"The network returns {scores.shape[1]} outputs for each sample of one batch, and "
                f"{self.n_outputs} of another; let its output have one shape."
            )

    def _fill(
        self, arrived: Sequence[Tensor | None], signals: Sequence[Signal], n_targets: int
    ) -> list[Tensor]:
        """Return the relevance that arrived at the inputs, checked, zeros where none did."""
        if all(relevance is None for relevance in arrived):
            raise ValueError(
                "The network's output does not depend on X in any way that relevance can follow; "
                "there is nothing to explain."
            )
        own: Any = {"dtype": self.intake.dtype, "device": self.intake.device}
        passed = [
            torch.zeros(n_targets, *signal.x.shape, **own) if relevance is None else relevance
            for relevance, signal in zip(arrived, signals, strict=True)
        ]
        if not all(map(is_finite, passed)):
            raise ValueError(
                "Relevance is not finite: denominators vanish under this rule; use a larger "
                "epsilon, or compute in float64."
            )
        return passed


def check_outputs(
    outputs: Tensor, remedy: str = "look for NaN in its weights, or scale X"
) -> None:
    """Raise an error if a network's outputs are NaN or infinite for a sample."""
    if not is_finite(outputs):
        gaps = outputs.isnan()
        if bool((gaps == gaps[:1]).all() and not gaps.all() and (gaps | outputs.isfinite()).all()):
            remedy = (
                f"{int(gaps[0].sum())} of its {outputs.shape[1]} values are NaN in all samples, "
                "as on land: let the network return zeros there, torch.nan_to_num(output), and "
                "leave them out of target"
            )
        bad = int((~outputs.isfinite()).any(1).sum())
        raise ValueError(
            f"The network's output is NaN or infinite for {bad} of {len(outputs)} samples; "
            f"{remedy}."
        )


def _to_arrays(begun: Start, layers: Sequence[Layer | None]) -> dict[str, Any]:
    """Return the details of a chunk as arrays."""
    return {
        "score": begun.score.cpu().numpy(),
        "target": None if begun.target is None else begun.target.cpu().numpy(),
        "rest": begun.rest.cpu().numpy(),
        "layers": [
            {}
            if layer is None
            else {k: v.cpu().numpy() for k, v in {"relevance": layer[0], **layer[1]}.items()}
            for layer in layers
        ],
    }
