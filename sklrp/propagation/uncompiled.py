"""Compiled code within a network: while it is explained, it runs as it was written.

:mod:`.run` enters ``UNCOMPILED`` for each call.
"""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext
from typing import Any

import torch


class _Eager:
    """Torch's stance that compiled functions run as they were written, while somebody asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_asking, self._stance = 0, nullcontext[Any]()

    def __enter__(self) -> None:
        with self._lock:
            # It is one for all threads: the first sets it, and the last puts it back.
            if not self._n_asking and _may_be_compiled():
                self._stance = torch.compiler.set_stance("force_eager")
            self._n_asking += 1

    def __exit__(self, *exc: Any) -> None:
        with self._lock:
            self._n_asking -= 1
            if not self._n_asking:
                stance, self._stance = self._stance, nullcontext()
                stance.__exit__(*exc)


def _may_be_compiled() -> bool:
    # To import torch's compiler takes seconds: who has compiled something has done so. Torch
    # before 2.6 knows no stance, and nobody sets one from inside of compiled code.
    known = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return known and not torch.compiler.is_compiling()


# A context in which what `torch.compile` made runs as it was written. Without it compiled code
# within a forward would try to compile what follows it.
UNCOMPILED = _Eager()
