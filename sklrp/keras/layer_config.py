"""What a Keras file says of one layer, read with nothing believed before it is checked.

The builders of layers take each option by a method that checks it, and :meth:`LayerConfig.finish`
refuses what nobody took: an option that is not understood may change what a layer computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from sklrp._checks import suggest
from sklrp._wording import say_value, shorten

REQUIRED: Any = object()
_LONGEST = 1000  # characters of what an error quotes of a file

# Options that say how a layer is trained or how fast it runs, and nothing of what it computes.
_IDLE = frozenset(
    [
        "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "build_config", "seed",
        "activity_regularizer", "implementation", "unroll", "synchronized", "fused",
        "unit_forget_bias", "sparse_grad", "autocast", "input_dtype",
    ]
)  # fmt: skip
_IDLE_ENDS = ("_initializer", "_regularizer", "_constraint")
# Options that must be what they are by default, as another value changes what is computed.
_NEUTRAL = {
    "quantization_config": None, "lora_rank": None, "lora_alpha": None, "virtual_batch_size": None,
    "adjustment": None, "stateful": False, "time_major": False, "renorm": False,
    "renorm_clipping": None, "renorm_momentum": 0.99, "input_length": None, "ragged": False,
    "sparse": False, "optional": False,
}  # fmt: skip
_FLOATS = ("float32", "float64", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16")


class LayerConfig:
    """The class, the name and the options of a layer in a Keras file.

    Parameters
    ----------
    kind : str
        The name of its class.
    options : mapping
        Its config.
    module : str, default=""
        The Python module of its class, where the file says it.
    version : int, default=3
        The major version of the Keras that wrote the file.
    """

    def __init__(
        self, kind: str, options: Mapping[str, Any], module: str = "", version: int = 3
    ) -> None:
        self.kind = kind
        self.options = options
        self.module = module
        self.version = version
        name = options.get("name")
        self.name = name if isinstance(name, str) and name else kind
        self.mask_axes: tuple[int, ...] = ()  # of the mask of each input; known when it is called
        self.twin: int | None = None  # the number of a layer that stands in several models
        self.call_options: dict[str, Any] = {}  # what its call says beside its inputs
        self._taken: set[str] = set()

    @property
    def masked(self) -> bool:
        """Whether an input has masked steps."""
        return any(self.mask_axes)

    def __str__(self) -> str:
        return f"layer {say_value(self.name, 200)} ({shorten(self.kind)})"

    def refuse(self, why: str) -> NoReturn:
        """Raise the error of a layer that cannot be read."""
        raise TypeError(f"Keras {self} is not supported: {shorten(why, _LONGEST)}")

    def malformed(self, why: str) -> NoReturn:
        """Raise the error of a config that no Keras layer has."""
        raise ValueError(f"The config of Keras {self} is malformed: {shorten(why, _LONGEST)}")

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """Return an option as it is."""
        self._taken.add(name)
        if name in self.options:
            return self.options[name]
        if default is REQUIRED:
            self.malformed(f"it has no {name!r}.")
        return default

    def take_flag(self, name: str, default: Any = REQUIRED) -> bool:
        """Return an option that is true or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            self.malformed(f"{name} must be true or false, got {value!r}.")
        return value

    def take_number(self, name: str, default: Any = REQUIRED) -> float:
        """Return an option that is a number."""
        value = self.take(name, default)
        if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
            value = value["config"].get("value")  # a NumPy scalar, as Keras writes it
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.malformed(f"{name} must be a number, got {value!r}.")
        return float(value)

    def take_size(self, name: str, default: Any = REQUIRED) -> int:
        """Return an option that is a positive integer."""
        return self._as_size(name, self.take(name, default))

    def take_sizes(self, name: str, n: int, default: Any = REQUIRED) -> tuple[int, ...]:
        """Return an option that is a positive integer for each of ``n`` axes, or one for all."""
        value = self.take(name, default)
        values = value if isinstance(value, list | tuple) else [value] * n
        if len(values) != n:
            self.malformed(f"{name} must have {n} values, got {value!r}.")
        return tuple(self._as_size(name, v) for v in values)

    def _as_size(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
            self.malformed(f"{name} must be a positive integer, got {value!r}.")
        return value

    def take_ints(self, name: str, default: Any = REQUIRED) -> tuple[int, ...]:
        """Return an option that is an integer, or a list of them, as a tuple."""
        value = self.take(name, default)
        values = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(v, int) and abs(v) < 2**31 for v in values):
            self.malformed(f"{name} must be integers, got {value!r}.")
        return tuple(values)

    def take_choice(self, name: str, allowed: Sequence[Any], default: Any = REQUIRED) -> Any:
        """Return an option that is one of a few values; refuse others."""
        value = self.take(name, default)
        if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
            hint = (
                suggest(value, [a for a in allowed if isinstance(a, str)])
                if isinstance(value, str)
                else ""
            )
            self.refuse(f"{name} must be one of {tuple(allowed)}, got {value!r}.{hint}")
        return value

    def ignore(self, *names: str) -> None:
        """Take options that change nothing where the network is explained."""
        self._taken.update(names)

    def finish(self) -> None:
        """Refuse options that nobody took."""
        for name in self.options.keys() - self._taken - _IDLE:
            if name.endswith(_IDLE_ENDS):
                continue
            value = self.options[name]
            if name not in _NEUTRAL:
                self.refuse(f"its option {name}={value!r} is not known.")
            if value is not None and value != _NEUTRAL[name]:
                self.refuse(f"it has {name}={value!r}; only {_NEUTRAL[name]!r} is read.")
        self._check_dtype(self.options.get("dtype"))

    def _check_dtype(self, dtype: Any) -> None:
        if isinstance(dtype, Mapping):
            found = dtype.get("config")
            dtype = found.get("name") if isinstance(found, Mapping) else dtype.get("class_name")
        if (
            dtype is not None
            and dtype not in _FLOATS
            and not str(dtype).startswith(("int", "uint", "bool"))
        ):
            self.refuse(f"its dtype {dtype!r} is not one of {_FLOATS}.")

    def inner(self, name: str, default: Any = REQUIRED) -> LayerConfig:
        """Return an option that is a layer itself."""
        value = self.take(name, default)
        return read_layer(value, self.version, f"{name} of {self}")


def read_layer(value: Any, version: int, where: str) -> LayerConfig:
    """Return the config of a layer as a file has it."""
    found = value.get("config") if isinstance(value, Mapping) else None
    kind = value.get("class_name") if isinstance(value, Mapping) else None
    if isinstance(found, Sequence) and not isinstance(found, str) and kind == "Sequential":
        found = {"layers": found}  # as Keras 2.1 and earlier wrote it
    if not isinstance(found, Mapping) or not isinstance(kind, str):
        raise ValueError(f"The file is malformed: {where} is no config of a Keras layer.")
    if isinstance(value.get("name"), str):  # of the place in a model, where both are given
        found = {**found, "name": value["name"]}
    module = value.get("module")
    layer = LayerConfig(kind, found, module if isinstance(module, str) else "", version)
    twin = value.get("shared_object_id")
    layer.twin = twin if type(twin) is int and version >= 3 else None
    return layer


def known_shape(values: Iterable[Any]) -> tuple[int | None, ...] | None:
    """Return a shape as a file has it, the samples' axis too; None if it is none."""
    shape = tuple(values)
    good = all(n is None or (type(n) is int and 0 < n < 2**31) for n in shape)
    return shape if good and shape else None
