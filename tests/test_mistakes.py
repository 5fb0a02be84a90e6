"""The page of mistakes: each fails with the message that it says, and the line below it works."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "mistakes.md").read_text(encoding="utf-8")
SETUP, *SECTIONS = re.split(r"^### ", PAGE, flags=re.MULTILINE)


def blocks(section):
    """Return the blocks of a section of the page, each with its language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def titles():
    return [section.partition("\n")[0] for section in SECTIONS]


@pytest.fixture(scope="module")
def namespace():
    """What the page starts with, and what entries above have left."""
    names = {"__name__": "mistakes"}
    ((_, setup),) = blocks(SETUP)
    exec(compile(setup, "mistakes.md", "exec"), names)
    return names


def test_there_are_twenty_and_each_has_its_line():
    assert len(SECTIONS) >= 20
    for section in SECTIONS:
        assert [language for language, _ in blocks(section)] == ["py", "text", "python"], section


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("section", SECTIONS, ids=titles())
def test_mistake_fails_as_it_says_and_the_line_works(section, namespace):
    (_, wrong), (_, message), (_, right) = blocks(section)
    with pytest.raises((ValueError, TypeError, AttributeError), match=re.escape(message.strip())):
        exec(compile(wrong, "mistakes.md", "exec"), namespace)
    exec(compile(right, "mistakes.md", "exec"), namespace)
    plt.close("all")
