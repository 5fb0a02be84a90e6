"""Relevance maps as features: :class:`RelevanceTransformer` and the cache of its networks.

The transformer knows an estimator only by ``fit``, ``explain`` and ``score``. What is costly,
training, depends on the estimator and the data alone, never on how relevance is propagated; so the
networks that it trains are kept under a key made of those two, and a search over rules trains none
twice.
"""

from sklrp.transformer.relevance import RelevanceTransformer

__all__ = ["RelevanceTransformer"]
