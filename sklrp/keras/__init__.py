"""Networks that come from Keras: :func:`from_keras` reads them, without Keras or TensorFlow.

A package of its own, as nothing else here knows Keras; users call it as ``sklrp.from_keras``.
"""

from sklrp.keras.reading import from_keras

__all__ = ["from_keras"]
