"""Keras models of every layer and option that `from_keras` reads, in a table.

`tests/test_keras.py` saves each with Keras 3 on torch; ``tests/data/write_keras_files.py`` saves
some with TensorFlow. A case takes ``keras.layers`` and ``keras.Input``, and returns inputs and
outputs.
"""

import numpy as np

IMAGE, SERIES, VECTOR, VOLUME = (9, 8, 3), (10, 4), (6,), (5, 6, 4, 2)


def chain(shape, *make, **options):
    """Return a case of layers one after the other; each is made by a function of keras.layers."""

    def case(L, Input):
        x = start = Input(shape, **options)
        for function in make:
            x = function(L)(x)
        return start, x

    return case


def dense(**options):
    return chain(VECTOR, lambda L: L.Dense(5, **options), lambda L: L.Dense(3))


def conv(n, **options):
    shape = {1: SERIES, 2: IMAGE, 3: VOLUME}[n]
    name = f"Conv{n}D"
    options = {"filters": 6, "kernel_size": 3, **options}
    return chain(
        shape, lambda L: getattr(L, name)(**options), lambda L: L.Flatten(), lambda L: L.Dense(2)
    )


def on(shape, name, *args, **options):
    """Return a case of one layer, flattened in front of a dense one."""
    return chain(
        shape,
        lambda L: getattr(L, name)(*args, **options),
        lambda L: L.Flatten(),
        lambda L: L.Dense(2),
    )


def series(name, *args, **options):
    return on(SERIES, name, *args, **options)


CASES = {
    **{
        f"dense {a}": dense(activation=a)
        for a in (
            "relu", "tanh", "sigmoid", "elu", "selu", "softplus", "softsign", "swish", "gelu",
            "hard_sigmoid", "exponential", "linear", "leaky_relu", "relu6", "mish", "softmax",
            "hard_silu", "celu", "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink",
            "log_sigmoid", "log_softmax", "squareplus",
        )
    },
    "dense without bias": dense(use_bias=False),
    "dense on the last axis": chain(
        IMAGE, lambda L: L.Dense(4, activation="relu"), lambda L: L.Flatten(), lambda L: L.Dense(2)
    ),
    "softmax at the end": chain(VECTOR, lambda L: L.Dense(3, activation="softmax")),
    "sigmoid of a field": chain(
        IMAGE, lambda L: L.Conv2D(1, 1, activation="sigmoid"), lambda L: L.Reshape((9, 8))
    ),
    **{
        f"conv{n}d {padding} strides {strides}": conv(n, padding=padding, strides=strides)
        for n in (1, 2, 3)
        for padding in ("valid", "same")
        for strides in (1, 2)
    },
    "conv1d causal": conv(1, padding="causal", dilation_rate=2),
    "conv1d causal strided": conv(1, padding="causal", strides=2, kernel_size=4),
    "conv2d dilated": conv(2, dilation_rate=2),
    "conv2d dilated same": conv(2, dilation_rate=(2, 1), padding="same"),
    "conv2d even kernel same": conv(2, kernel_size=(4, 2), padding="same"),
    "conv2d even kernel same strided": conv(2, kernel_size=(4, 2), padding="same", strides=(3, 2)),
    "conv2d groups": conv(2, groups=3),
    "conv2d without bias": conv(2, use_bias=False, activation="relu"),
    "conv2d channels first": conv(2, data_format="channels_first", activation="relu"),
    **{
        f"conv{n}d transposed kernel {k} strides {s} {padding}": on(
            {1: SERIES, 2: IMAGE, 3: VOLUME}[n], f"Conv{n}DTranspose", 3, k, strides=s,
            padding=padding,
        ) for n, k, s in ((1, 3, 2), (2, 3, 2), (2, 4, 2), (2, 2, 3), (2, 3, 1), (3, 3, 2), (1, 5,
        3)) for padding in ("valid", "same")
    },
    "conv2d transposed output padding": on(
        IMAGE, "Conv2DTranspose", 3, 3, strides=2, padding="same", output_padding=1
    ),
    "conv2d transposed output padding valid": on(
        IMAGE, "Conv2DTranspose", 3, 4, strides=3, output_padding=(0, 2)
    ),
    "conv1d transposed dilated": on(SERIES, "Conv1DTranspose", 3, 3, dilation_rate=2),
    "depthwise 1d": series("DepthwiseConv1D", 3, depth_multiplier=2, activation="relu"),
    "depthwise 2d": on(IMAGE, "DepthwiseConv2D", 3, depth_multiplier=2, padding="same", strides=2),
    "depthwise 2d valid": on(IMAGE, "DepthwiseConv2D", (2, 3), use_bias=False),
    "separable 1d": series("SeparableConv1D", 5, 3, depth_multiplier=2, activation="tanh"),
    "separable 2d": on(IMAGE, "SeparableConv2D", 5, 3, padding="same", strides=2),
    "separable 2d dilated": on(IMAGE, "SeparableConv2D", 5, 3, dilation_rate=2, use_bias=False),
    **{
        f"{what} pooling {n}d {padding} size {size} strides {strides}": on(
            {1: SERIES, 2: IMAGE, 3: VOLUME}[n], f"{what}Pooling{n}D", size, strides=strides,
            padding=padding,
        )
        for what in ("Max", "Average")
        for n, size, strides in ((1, 2, None), (1, 3, 1), (2, 2, None), (2, 3, 3), (3, 2, None),
                                 (1, 3, 3), (2, 2, 1))
        for padding in ("valid", "same")
    },
    "max pooling same uneven": on(IMAGE, "MaxPooling2D", (2, 3), strides=(1, 2), padding="same"),
    **{
        f"global {what} pooling {n}d keep {keep}": on(
            {1: SERIES, 2: IMAGE, 3: VOLUME}[n], f"Global{what}Pooling{n}D", keepdims=keep
        )
        for what in ("Max", "Average")
        for n, keep in ((1, False), (2, False), (3, False), (2, True))
    },
    "zero padding 1d": series("ZeroPadding1D", (1, 2)),
    "zero padding 2d": on(IMAGE, "ZeroPadding2D", ((1, 0), (2, 3))),
    "zero padding 3d": on(VOLUME, "ZeroPadding3D", 1),
    "cropping 1d": series("Cropping1D", (1, 2)),
    "cropping 2d": on(IMAGE, "Cropping2D", ((1, 0), (2, 3))),
    "cropping 3d": on(VOLUME, "Cropping3D", (1, 2, 0)),
    "upsampling 1d": series("UpSampling1D", 3),
    "upsampling 2d": on(IMAGE, "UpSampling2D", (2, 3)),
    "upsampling 2d bilinear": on(IMAGE, "UpSampling2D", (2, 3), interpolation="bilinear"),
    "upsampling 3d": on(VOLUME, "UpSampling3D", (2, 1, 3)),
    "reshape": on(IMAGE, "Reshape", (12, -1)),
    "permute": on(IMAGE, "Permute", (3, 1, 2)),
    "repeat vector": on(VECTOR, "RepeatVector", 4),
    **{
        f"noise {name}": chain(SERIES, lambda L, name=name: getattr(L, name)(0.3),
                               lambda L: L.Flatten(), lambda L: L.Dense(2))
        for name in ("Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise",
                     "AlphaDropout")
    },
    "relu layer": on(VECTOR, "ReLU"),
    "relu layer max": on(VECTOR, "ReLU", max_value=0.5),
    "relu layer slope": on(VECTOR, "ReLU", negative_slope=0.2),
    "relu layer threshold": on(VECTOR, "ReLU", threshold=0.3),
    "leaky relu layer": on(VECTOR, "LeakyReLU", negative_slope=0.15),
    "elu layer": on(VECTOR, "ELU", alpha=0.7),
    "prelu": on(VECTOR, "PReLU"),
    "prelu of channels": on(IMAGE, "PReLU", shared_axes=(1, 2)),
    "prelu of all": on(IMAGE, "PReLU"),
    "activation layer": on(VECTOR, "Activation", "tanh"),
    "softmax layer": chain(VECTOR, lambda L: L.Dense(3), lambda L: L.Softmax()),
    "batch norm": on(VECTOR, "BatchNormalization"),
    "batch norm behind conv": chain(
        IMAGE, lambda L: L.Conv2D(4, 3), lambda L: L.BatchNormalization(epsilon=0.01),
        lambda L: L.ReLU(), lambda L: L.Flatten(), lambda L: L.Dense(2),
    ),
    "batch norm axis 1": on(IMAGE, "BatchNormalization", axis=1),
    "batch norm axis 2": on(IMAGE, "BatchNormalization", axis=2),
    "batch norm bare": on(SERIES, "BatchNormalization", center=False, scale=False),
    "batch norm no scale": on(SERIES, "BatchNormalization", scale=False),
    "batch norm 3d": on(VOLUME, "BatchNormalization", center=False),
    "layer norm": on(SERIES, "LayerNormalization"),
    "layer norm two axes": on(IMAGE, "LayerNormalization", axis=(2, 3), center=False),
    "layer norm no scale": on(SERIES, "LayerNormalization", scale=False, epsilon=0.01),
    "group norm": on((9, 8, 4), "GroupNormalization", groups=2),
    "instance norm": on(IMAGE, "GroupNormalization", groups=-1),
    "rms norm": on(SERIES, "RMSNormalization"),
    "rescaling": on(IMAGE, "Rescaling", 0.5, offset=-1.0),
    "rescaling of channels": on(IMAGE, "Rescaling", [0.5, 2.0, 1.0], offset=[0.0, 1.0, 2.0]),
    "normalization": on(IMAGE, "Normalization", mean=[1.0, 2.0, 3.0], variance=[4.0, 1.0, 0.5]),
    "normalization of all": on(VECTOR, "Normalization", axis=None, mean=2.0, variance=3.0),
    "normalization inverted": on(VECTOR, "Normalization", axis=None, mean=2.0, variance=3.0,
                                 invert=True),
    **{
        f"{name} {key}": series(name, 5, **options)
        for name in ("LSTM", "GRU", "SimpleRNN")
        for key, options in {
            "last": {}, "sequences": {"return_sequences": True},
            "backwards": {"go_backwards": True},
            "no bias": {"use_bias": False}, "relu": {"activation": "relu"},
            "dropout": {"dropout": 0.2, "recurrent_dropout": 0.2},
        }.items()
    },
    "LSTM hard gates": series("LSTM", 5, recurrent_activation="hard_sigmoid"),
    "LSTM linear": series("LSTM", 5, activation="linear", return_sequences=True),
    "GRU reset before": series("GRU", 5, reset_after=False),
    "GRU reset before no bias": series("GRU", 5, reset_after=False, use_bias=False),
    **{
        f"bidirectional {name} {mode}": chain(
            SERIES,
            lambda L, n=name, m=mode: L.Bidirectional(
                getattr(L, n)(3, return_sequences=n == "LSTM"), merge_mode=m
            ),
            lambda L: L.Flatten(), lambda L: L.Dense(2),
        )
        for name in ("LSTM", "GRU")
        for mode in ("concat", "sum", "ave", "mul")
    },
    "time distributed dense": chain(
        SERIES, lambda L: L.TimeDistributed(L.Dense(3, activation="relu")), lambda L: L.Flatten(),
        lambda L: L.Dense(2),
    ),
    "time distributed conv": chain(
        (4, 9, 8, 3), lambda L: L.TimeDistributed(L.Conv2D(2, 3, activation="relu")),
        lambda L: L.TimeDistributed(L.Flatten()), lambda L: L.LSTM(4), lambda L: L.Dense(2),
    ),
    "embedding": chain(
        (7,), lambda L: L.Embedding(11, 4), lambda L: L.LSTM(3), lambda L: L.Dense(2),
        dtype="int32",
    ),
    "embedding masked": chain(
        (7,), lambda L: L.Embedding(11, 4, mask_zero=True), lambda L: L.LSTM(3),
        lambda L: L.Dense(2), dtype="int32",
    ),
    "embedding masked both ways": chain(
        (7,), lambda L: L.Embedding(11, 4, mask_zero=True),
        lambda L: L.Bidirectional(L.GRU(3, return_sequences=True)), lambda L: L.SimpleRNN(3),
        lambda L: L.Dense(2), dtype="int32",
    ),
    "masking": chain(
        SERIES, lambda L: L.Masking(0.0), lambda L: L.Dense(4), lambda L: L.GRU(3),
        lambda L: L.Dense(2),
    ),
    "masked average": chain(
        SERIES, lambda L: L.Masking(0.0), lambda L: L.Dense(4),
        lambda L: L.GlobalAveragePooling1D(), lambda L: L.Dense(2),
    ),
    **{
        f"conv lstm {n}d {key}": chain(
            (4, *{1: SERIES, 2: (6, 5, 2), 3: VOLUME}[n]),
            lambda L, n=n, o=options: getattr(L, f"ConvLSTM{n}D")(3, 3, **o),
            lambda L: L.Flatten(), lambda L: L.Dense(2),
        )
        for n, key, options in (
            (1, "last", {}), (2, "sequences", {"return_sequences": True, "padding": "same"}),
            (2, "hard", {"recurrent_activation": "hard_sigmoid", "go_backwards": True}),
            (2, "strided", {"strides": 2, "padding": "same", "use_bias": False}),
            (3, "last", {"padding": "same"}),
        )
    },
    "random changes": chain(
        IMAGE, lambda L: L.RandomFlip(), lambda L: L.RandomZoom(0.2), lambda L: L.Flatten(),
        lambda L: L.Dense(2),
    ),
    "series of any length": chain(
        (None, 4), lambda L: L.Conv1D(5, 3, padding="same", strides=2), lambda L: L.LSTM(3),
        lambda L: L.Dense(2),
    ),
}  # fmt: skip


def case(function):
    CASES[function.__name__.replace("_", " ").strip()] = function
    return function


@case
def residual(L, Input):
    start = Input(IMAGE)
    x = L.Conv2D(4, 3, padding="same", activation="relu")(start)
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x))
    x = L.ReLU()(L.Add()([x, y]))
    return start, L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(x))


@case
def u_net(L, Input):
    start = Input((8, 8, 2))
    a = L.Conv2D(4, 3, padding="same", activation="relu")(start)
    b = L.Conv2D(6, 3, padding="same", strides=2, activation="relu")(a)
    up = L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(b)
    x = L.Concatenate()([up, a])
    return start, L.Conv2D(1, 1)(x)


@case
def merges(L, Input):
    start = Input(SERIES)
    a, b, c = (L.Dense(4)(start) for _ in range(3))
    parts = [
        L.Add()([a, b, c]), L.Subtract()([a, b]), L.Average()([a, b, c]), L.Maximum()([a, b]),
        L.Minimum()([b, c]), L.Multiply()([a, L.Activation("sigmoid")(b)]),
    ]  # fmt: skip
    return start, L.Dense(2)(L.Flatten()(L.Concatenate(axis=1)(parts)))


@case
def merge_of_unequal_axes(L, Input):
    start = Input(SERIES)
    a, b = L.Dense(4)(start), L.Dense(4)(L.GlobalMaxPooling1D()(start))
    return start, L.Dense(2)(L.Flatten()(L.Add()([a, b])))


@case
def shared_layers(L, Input):
    one, two = Input(SERIES, name="one"), Input(SERIES, name="two")
    conv, lstm = L.Conv1D(4, 3, activation="relu"), L.LSTM(3)
    x = L.Concatenate()([lstm(conv(one)), lstm(conv(two))])
    return [one, two], L.Dense(2)(x)


@case
def several_outputs(L, Input):
    one, two = Input(IMAGE, name="field"), Input(VECTOR, name="index")
    x = L.Flatten()(L.Conv2D(3, 3, activation="relu")(one))
    x = L.Concatenate()([x, L.Dense(4)(two)])
    return [one, two], [L.Dense(2, name="centre")(x), L.Dense(1, name="spread")(x)]


@case
def encoder_decoder(L, Input):
    past, future = Input(SERIES, name="past"), Input((5, 2), name="future")
    _, h, c = L.LSTM(6, return_state=True)(past)
    y = L.LSTM(6, return_sequences=True)(future, initial_state=[h, c])
    return [past, future], L.TimeDistributed(L.Dense(1))(y)


@case
def states_of_gru(L, Input):
    start = Input(SERIES)
    y, h = L.GRU(4, return_sequences=True, return_state=True)(start)
    z = L.Bidirectional(L.SimpleRNN(4))(y, initial_state=[h, h])
    return start, L.Dense(2)(z)


@case
def operations(L, Input):
    from keras import ops

    start = Input(SERIES)
    x = L.Dense(4)(start)
    gate = ops.sigmoid(x)
    parts = [
        x[:, -1], ops.mean(x, axis=1), ops.max(x, axis=1), ops.sum(1.0 - x, axis=1),
        ops.reshape(x * 2.0, (-1, 40))[:, ::3], ops.squeeze((x / 2.0)[:, :1], 1),
        ops.relu(-x)[:, 2], (gate * x)[:, 1], ops.maximum(x, 0.1)[:, 0],
        ops.where(x > 0.5, x, 0.0)[:, 1], (x * np.arange(4.0))[:, 3],
        ops.transpose(x, (0, 2, 1))[:, :, 1], ops.expand_dims(x, 2)[:, 1, 0],
    ]  # fmt: skip
    return start, L.Dense(2)(ops.concatenate(parts, axis=-1))


@case
def attention(L, Input):
    start, other = Input(SERIES), Input((5, 3))
    x = L.LayerNormalization()(L.Add()([start, L.MultiHeadAttention(2, 3)(start, start)]))
    y = L.MultiHeadAttention(2, 3, value_dim=5, output_shape=4)(x, other)
    z = L.MultiHeadAttention(1, 2, use_bias=False)(y, x, use_causal_mask=True)
    return [start, other], L.Dense(2)(L.GlobalAveragePooling1D()(L.Add()([y, z])))


@case
def attention_by_names(L, Input):
    """Keys and values of one shape, in any order of the call."""
    query, keys, values = Input(SERIES), Input((5, 4)), Input((5, 4))
    ends = [
        L.MultiHeadAttention(2, 3)(query, key=keys, value=values),
        L.MultiHeadAttention(2, 3)(query, value=values, key=keys),
        L.MultiHeadAttention(2, 3)(key=keys, query=query, value=values),
        L.MultiHeadAttention(2, 3)(query, values, key=keys),
    ]
    return [query, keys, values], L.Dense(2)(L.Flatten()(L.Concatenate()(ends)))


@case
def masked_steps_and_states(L, Input):
    """Keras 3 takes no mask where states are given, but hands it on."""
    start = Input(SERIES)
    x = L.Masking(0.0)(start)
    _, h, c = L.LSTM(3, return_state=True)(x)
    y = L.LSTM(3, return_sequences=True)(x, initial_state=[h, c])
    z = L.Bidirectional(L.GRU(3))(x, initial_state=[h, c])
    return start, L.Dense(2)(L.Concatenate()([L.GRU(2)(y), z]))


@case
def dot_products(L, Input):
    start, other = Input(SERIES), Input((10, 3))
    a = L.Dot(axes=1)([start, other])
    b = L.Dot(axes=(2, 2))([start, L.Dense(4)(other)])
    c = L.Dot(axes=-1)([L.Dense(3)(L.Flatten()(a)), L.Dense(3)(L.Flatten()(b))])
    return [start, other], L.Dense(2)(L.Concatenate()([L.Flatten()(a), L.Flatten()(b), c]))


@case
def model_at_each_step(L, Input):
    import keras

    inner = Input(SERIES)
    model = keras.Model(inner, L.Dense(2)(L.LSTM(3)(inner)))
    start = Input((4, *SERIES))
    return start, L.Dense(2)(L.Flatten()(L.TimeDistributed(model)(start)))


@case
def both_ways_apart(L, Input):
    start = Input(SERIES)
    y, z = L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode=None)(start)
    return start, L.Dense(2)(L.Flatten()(L.Subtract()([y, z])))


def randomise(model, seed=0):
    """Give all variables of a model values of a seed; variances are positive."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        new = []
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            x = rng.normal(scale=max(np.prod(value.shape[:-1]), 4) ** -0.5, size=value.shape)
            positive = "variance" in variable.name or "gamma" in variable.name
            new.append((np.abs(x) + 0.5 if positive else x).astype(value.dtype))
        layer.set_weights(new)


def samples_of(inputs, n=3, seed=1):
    """Return samples for the inputs of a model: integers where it takes them."""
    rng = np.random.default_rng(seed)
    found = []
    for tensor in inputs:
        shape = (n, *(6 if s is None else s for s in tensor.shape[1:]))
        if "int" in str(tensor.dtype):
            x = rng.integers(0, 11, size=shape).astype(np.int32)
            x[0, -2:] = x[1, :2] = 0
        else:
            x = rng.normal(size=shape).astype(np.float32)
            if len(shape) == 3:
                x[0, -3:] = x[1, :2] = 0.0  # steps that may be masked
        found.append(x)
    return found
