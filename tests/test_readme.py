"""The README's code runs as it stands, block after block."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_code_blocks_run(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    accuracy, share = map(float, capsys.readouterr().out.split())
    assert accuracy > 0.8
    # The box has 4.4 % of the ocean cells; a map of nothing would give it about that much.
    assert share > 0.06
    assert namespace["relevance"].shape == namespace["X"].shape
    assert namespace["rule"].get_params()["conv__gamma"] == 0.5
    assert "relevance__rule" in namespace["search"].param_grid


def test_files_that_it_names_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    missing = [link for link in links if not (README.parent / link).exists()]
    assert not missing
