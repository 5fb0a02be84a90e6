"""Calls on joblib's workers: threads, processes, or those of a cluster, whatever the backend.

Explaining, null models, refits and contributions run through `run_on_workers`. What all calls have
in common, such as the network, is sent to a worker once, and not with every call.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle
import numpy as np
from joblib import effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from sklearn.utils.parallel import Parallel, delayed

_unpacked: dict[str, Any] = {}  # what this process was sent last


def run_on_workers(
    function: Callable[..., Any],
    shared: Any,
    calls: Iterable[tuple],
    n_jobs: int | None,
    *,
    prefer: str | None = None,
    require: str | None = None,
) -> Iterator[Any]:
    """Call a function for all arguments, and yield what it returns, in order.

    Parameters
    ----------
    function : callable
        Is called as ``function(shared, *call)``.
    shared : object
        What all calls have in common; it is not changed.
    calls : iterable of tuple
        The other arguments.
    n_jobs : int or None
        Number of joblib's workers; None: one, or as `joblib.parallel_config` says.
    prefer : {"threads", "processes"} or None, default=None
        The workers, where `joblib.parallel_config` names no backend.
    require : {"sharedmem"} or None, default=None
        "sharedmem" where nothing can be sent to another process.

    Yields
    ------
    object
        The results; all are held together where a backend knows no generators.
    """
    backend, _ = get_active_backend(prefer=prefer, require=require)
    form = "generator" if backend.supports_return_generator else "list"
    parallel: Any = Parallel(n_jobs=n_jobs, prefer=prefer, require=require, return_as=form)
    if getattr(backend, "supports_sharedmem", False) or effective_n_jobs(n_jobs) == 1:
        yield from parallel(delayed(function)(shared, *call) for call in calls)
        return
    # An array, as joblib maps those to memory for all processes of this machine.
    packed: Any = np.frombuffer(cloudpickle.dumps(shared), dtype=np.uint8)
    if hasattr(backend, "client"):
        packed = _send_to_cluster(backend.client, packed)
    name = uuid.uuid4().hex
    yield from parallel(delayed(_call_packed)(packed, name, function, *call) for call in calls)


def _send_to_cluster(client: Any, packed: NDArray[np.uint8]) -> Any:
    """Return the future of an array, which dask sends to each worker that needs it, once."""
    # As the result of a task, which is done again if the only worker that has it dies. What is
    # scattered, as joblib does by itself, is lost then, and all calls with it.
    import dask

    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
        return client.submit(_give_back, packed, pure=False)


def _give_back(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return packed


def _call_packed(
    packed: NDArray[np.uint8], name: str, function: Callable[..., Any], *args: Any
) -> Any:
    """Call a function in a worker process, with what it has unpacked at the first call."""
    shared = _unpacked.get(name)
    if shared is None:
        shared = cloudpickle.loads(packed.data)
        _unpacked.clear()
        _unpacked[name] = shared
    with parallel_config("sequential", n_jobs=1):  # its share of the work is this call
        return function(shared, *args)
