"""Cases whose truth is known: sound maps, and artifacts that were planted.

``tests/planted.py`` diagnoses all of them for the documentation, ``tests/test_diagnostics.py`` the
quick ones. Each file here registers the cases of one kind of data.
"""

from tests.helpers.planted import (  # noqa: F401, each registers its cases
    elsewhere,
    fields,
    mechanisms,
    networks,
    noise,
    series,
    tables,
    values,
)
from tests.helpers.planted.networks import FLAT_FIRST
from tests.helpers.planted.registry import CASES, VERDICTS, Case, Planted, report

__all__ = ["CASES", "FLAT_FIRST", "VERDICTS", "Case", "Planted", "report"]
