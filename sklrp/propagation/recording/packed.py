"""Packed sequences: of unequal lengths, one step of all samples behind the other.

``pack_padded_sequence`` sorts the samples by length, lays their steps out as a recurrent layer
runs over them, and drops the padding; ``pad_packed_sequence`` undoes it. Relevance needs none of
that: the signal stays as it was, padded and in its own order, and only notes the lengths. The
network's own tensors are packed and sorted as it expects, and ``node.order`` says how. The
recorder calls this module for whatever forward does with such tensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from sklrp._torch import PACK, PAD_PACKED
from sklrp.propagation.recording.calls import FunctionCall
from sklrp.propagation.recording.tape_writer import Operation, TapeWriter
from sklrp.propagation.registry import HANDLERS


def concerns_packed(call: FunctionCall, n_samples: int) -> bool:
    """Return whether a call packs or reorders sequences, or takes some that are."""
    return (
        call.name == PACK
        or any(node.is_packed for node in call.inputs)
        or _is_permutation(call, n_samples)
    )


def run_on_packed(call: FunctionCall, writer: TapeWriter) -> Any:
    """Pack, pad or reorder sequences; other functions of them are refused."""
    if call.name == PACK:
        return _pack(call, writer)
    if call.name == PAD_PACKED:
        return _unpack(call, writer)
    if _is_permutation(call, writer.n_samples):
        return _permute(call, writer)
    raise writer.refusals.unsupported(
        call.name, "of a packed sequence; unpack it by pad_packed_sequence before"
    )


def _is_permutation(call: FunctionCall, n_samples: int) -> bool:
    """Return whether a call reorders the samples, as the packing of unsorted sequences does."""
    if call.name != "index_select" or call.kwargs or len(call.args) != 3:
        return False
    source, dim, index = call.args
    node = call.nodes.get(source)
    if node is None or dim != node.signal.axis or len(index) != n_samples:
        return False
    return torch.equal(index.sort().values, torch.arange(len(index), device=index.device))


def _permute(call: FunctionCall, writer: TapeWriter) -> Any:
    """Permute the network's own tensor; the signal keeps its order."""
    source, _, index = call.args
    node = writer.nodes[source]
    order = index if node.order is None else node.order[index]
    if torch.equal(order, torch.arange(len(order), device=order.device)):
        order = None
    out = call.run()
    writer.nodes[out] = node._replace(order=order)
    return out


def _pack(call: FunctionCall, writer: TapeWriter) -> Any:
    """Pack the network's own tensor; the signal notes the lengths."""
    data, sizes = call.run()
    source, lengths, batch_first = call.args
    node = writer.nodes.get(source)
    if node is None or node.number < 0:
        raise writer.refusals.unsupported(
            call.name, "it packs a constant by lengths that are an input; pack the input"
        )
    if node.signal.axis != (0 if batch_first else 1):
        raise writer.refusals.unsupported(
            call.name, "the axis of the samples is not where batch_first says"
        )
    if node.order is not None:  # the lengths are in the network's order, the signal's is its own
        given = torch.empty_like(lengths)
        given[node.order.to(lengths.device)] = lengths
        lengths = given
    writer.nodes[data] = node._replace(signal=replace(node.signal, lengths=lengths))
    writer.nodes.add_integers(sizes, nonnegative=True)
    return data, sizes


def _unpack(call: FunctionCall, writer: TapeWriter) -> Any:
    """Pad the network's own tensor; the signal is cut to the longest sequence, as a step."""
    padded, lengths = call.run()
    data, _, batch_first, filling = call.args[:4]
    node = writer.nodes[data]
    axis = 0 if batch_first else 1
    plain = node._replace(signal=replace(node.signal, lengths=None), order=None)
    step = Operation(
        writer.refusals.path_of(PAD_PACKED), None, HANDLERS[PAD_PACKED], is_layer=False
    )
    writer.nodes[data] = plain  # for the handler it is no packed sequence any more
    own: Any = node.signal.lengths  # as numbers: relevance does not go to them
    out = writer.apply(step, (data, own.tolist(), padded.shape[1 - axis], axis, filling))
    writer.nodes[data] = node  # forward may unpack it again
    if node.order is None:
        return out, lengths
    writer.nodes[padded] = writer.nodes[out]._replace(order=node.order)
    return padded, lengths


def pack_again(packed: PackedSequence, out: Any, writer: TapeWriter) -> Any:
    """Return the output of a recurrent layer packed again, as its input was."""
    states, last = out
    node = writer.nodes[states]
    x, lengths = node.signal.x.movedim(node.signal.axis, 0), node.signal.lengths
    assert lengths is not None
    order = packed.sorted_indices
    if order is not None:
        x, lengths = x.index_select(0, order), lengths.to(order.device)[order]
    data: Tensor = pack_padded_sequence(x, lengths.cpu(), batch_first=True).data
    writer.nodes[data] = node._replace(order=order)
    return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices), last
