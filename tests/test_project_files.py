"""What the project's files say of versions agrees: pins, workflows, changelog, citation."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sklrp
from tests.versions import OLDEST_PYTHON, PINS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What the pins are of: `python -m tests.versions` tests these, the other extras are tools.
TESTED = ("plot", "examples", "geo", "keras", "test")


def read_pins(path):
    """Return the version of each package in a file of pins."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def declared():
    """Return the declared requirements, of the package and of what is tested with it."""
    texts = [*PROJECT["dependencies"]]
    for extra in TESTED:
        texts += PROJECT["optional-dependencies"][extra]
    return [r for r in map(Requirement, texts) if r.name != PROJECT["name"]]


def floor_of(requirement):
    """Return the least version that a requirement takes."""
    (floor,) = (s.version for s in requirement.specifier if s.operator == ">=")
    return Version(floor)


def test_oldest_pins_are_the_declared_minimums():
    pins = read_pins(PINS)
    pinned = {r.name: Version(pins[canonicalize_name(r.name)]) for r in declared()}
    assert pinned == {r.name: floor_of(r) for r in declared()}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_each_dependency_has_a_minimum(extra):
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        assert requirement.name == PROJECT["name"] or floor_of(requirement)


def test_tested_set_is_what_may_be_installed():
    pins = read_pins(ROOT / "constraints.txt")
    for requirement in declared():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_workflow_runs_the_script_on_each_declared_python():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["versions"]
    matrix = job["strategy"]["matrix"]
    prefix = "Programming Language :: Python :: 3."
    pythons = [f"3.{c.removeprefix(prefix)}" for c in PROJECT["classifiers"] if prefix in c]
    assert matrix["python"] == pythons
    assert PROJECT["requires-python"] == f">={OLDEST_PYTHON}" == f">={pythons[0]}"
    assert matrix["set"] == ["oldest", "newest"]
    assert any("python -m tests.versions" in step.get("run", "") for step in job["steps"])


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[\w.]*)\] - (\d{4}-\d{2}-\d{2})$", changelog, re.MULTILINE)
    version, date = released[0]
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert Version(sklrp.__version__) >= Version(version)
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{version}]")
    assert Version(sklrp.__version__) == Version(version) or "dev" in sklrp.__version__


def test_citation_names_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    urls = [reference["url"] for reference in citation["references"]]
    bibliography = (ROOT / "docs" / "bibliography.md").read_text(encoding="utf-8")
    assert sorted(urls) == sorted(PROJECT["urls"].values())
    assert all(f"({url})" in bibliography for url in urls)
