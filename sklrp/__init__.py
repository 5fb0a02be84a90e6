"""Layer-wise relevance propagation (LRP) through scikit-learn's API.

What users import: the classifiers, `explain` and `plan`, rules and composites, `save` and `load`,
and the modules of the other topics. They are imported when the first of them is asked for: the
command line takes signals, and prints its version, before that, which takes a second or more.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes time, in which no signal is taken yet
if TYPE_CHECKING:
    from typing import Any

    from sklrp._public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Return a module of the package, or a name that is public, once all of them are there."""
    import importlib
    import pkgutil

    if name in {
        module.name for module in pkgutil.iter_modules(__spec__.submodule_search_locations)
    }:
        return importlib.import_module(f"{__name__}.{name}")
    if name.startswith("_") and name not in ("__all__", "__version__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = importlib.import_module(f"{__name__}._public")
    globals().update({known: getattr(public, known) for known in public.__all__})
    globals()["__all__"] = public.__all__
    if name in globals():
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return what is public."""
    return sorted(__getattr__("__all__"))
