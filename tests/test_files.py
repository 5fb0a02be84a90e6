"""Files written whole or not at all: two at once, deaths, links, signals."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import sklrp
from sklrp import MLPClassifier, _files
from sklrp._files import claim, replacing
from sklrp.cli.runs import PartialRun
from sklrp.datasets import make_squares
from tests.test_cli import ENVIRONMENT, explain, files, run

X, Y, _ = make_squares(n_per_class=20, size=10, random_state=0)
SETTINGS = {"shape of the data": X.shape}
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no signals, and other locks")


@pytest.fixture(scope="module")
def clf():
    return MLPClassifier((4,), max_epochs=2, random_state=0).fit(X, Y)


@pytest.fixture
def folder(clf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sklrp.save(clf, "model.safetensors")
    np.save("samples.npy", X)
    Path("labels.txt").write_text("".join(f"{label}\n" for label in Y), encoding="utf-8")
    return tmp_path


def python(code, *args):
    """Start a process, whose stdout says that it has come to where it waits."""
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def store(path, name):
    path.mkdir()
    (path / name).write_text(name)


# A file takes another's place


WRITING = """
import sys
from pathlib import Path
from sklrp._files import replacing
with replacing(sys.argv[1]) as part:
    part.mkdir() if sys.argv[1].endswith(".zarr") else part.write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
    if not part.is_dir():
        part.write_text("whole")
"""


@pytest.mark.parametrize("name", ["out.txt", "out.zarr", f"{'ä' * 120}.txt"])
def test_what_a_dead_process_left_is_cleared_and_what_a_living_one_has_is_not(name, tmp_path):
    path = tmp_path / name
    foreign = [tmp_path / f".{name}.mine", tmp_path / ".out.txt.sklrp-part"]
    for file in foreign:
        file.write_text("mine")
    dead, living = python(WRITING, path), python(WRITING, path)
    dead.kill()
    dead.communicate()
    assert len(files(tmp_path)) == 4
    with replacing(path) as part:
        part.mkdir() if name.endswith(".zarr") else part.write_text("new")
    assert len(files(tmp_path)) == 4  # the file itself instead of the dead one's
    living.communicate("")
    assert living.returncode == 0
    assert files(tmp_path) == sorted([name, *(file.name for file in foreign)])
    assert path.is_dir() or path.read_text() == "whole"


def test_links_that_look_like_what_was_left_are_not_followed(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "lock").touch()
    (tmp_path / ".out.txt.abc.sklrp-part").symlink_to("theirs")
    os.utime(tmp_path / "theirs", (0, 0))
    with replacing(tmp_path / "out.txt") as part:
        part.write_text("new")
    assert files(tmp_path) == [".out.txt.abc.sklrp-part", "out.txt", "theirs"]
    assert files(tmp_path / "theirs") == ["lock"]


@pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="no exchange")
def test_a_store_is_there_at_every_moment(tmp_path, monkeypatch):
    path = tmp_path / "out.zarr"
    store(path, "0")
    move, remove, seen = os.replace, _files.shutil.rmtree, []

    def watch(call):
        def watched(*args, **kwargs):
            call(*args, **kwargs)
            seen.append(path.exists())

        return watched

    monkeypatch.setattr(os, "replace", watch(move))
    monkeypatch.setattr(_files.shutil, "rmtree", watch(remove))
    with replacing(path) as part:
        store(part, "1")
    assert files(path) == ["1"]
    assert files(tmp_path) == ["out.zarr"]
    assert seen
    assert all(seen)


@pytest.mark.parametrize("dies", [False, True])
def test_a_store_where_the_system_has_no_exchange(dies, tmp_path, monkeypatch):
    """The old one is moved aside, and is put back by who comes next."""
    path = tmp_path / "out.zarr"
    store(path, "old")
    monkeypatch.setattr(_files, "_swap_folders", lambda one, other: False)
    move = os.replace
    if dies:  # a KeyboardInterrupt would be put in order at once: a real death is not

        def die(source, target):
            if Path(source).name == "out.zarr" and Path(source).parent != tmp_path:
                raise SystemExit
            return move(source, target)

        monkeypatch.setattr(os, "replace", die)
        monkeypatch.setattr(_files.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(SystemExit), replacing(path) as part:
            store(part, "new")
        monkeypatch.undo()
        [left] = [name for name in files(tmp_path) if name.endswith("sklrp-part")]
        move(path, tmp_path / left / "old")  # as if nothing had been put back either
        (tmp_path / left / "lock").touch()  # which filelock removes when it is let go
    with replacing(path) as part:
        assert (path / "old").exists()
        store(part, "new")
    assert files(path) == ["new"]
    assert files(tmp_path) == ["out.zarr"]


def test_another_error_of_the_exchange_is_raised(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        _files._swap_folders(tmp_path / "a", tmp_path / "b")
    assert caught.value.errno == errno.ENOENT


# Two commands on one output


CLAIMING = """
import sys
from sklrp._files import claim
with claim(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_claim_ends_with_its_process(tmp_path):
    path = tmp_path / "out.npy"
    other = python(CLAIMING, path)
    (tmp_path / "link.npy").symlink_to("out.npy")
    for same in (path, tmp_path / "link.npy", tmp_path / "." / ".." / tmp_path.name / "out.npy"):
        with pytest.raises(ValueError, match="being written by another run"), claim(same):
            pass
    with claim(tmp_path / "other.npy"):
        pass
    other.kill()
    other.communicate()
    with claim(path), pytest.raises(ValueError, match="another run"), claim(path):
        pass
    assert files(tmp_path) == ["link.npy"]


@pytest.mark.parametrize("command", ["explain", "diagnose", "demo"])
def test_a_second_command_on_one_output_is_refused_by_name(command, folder):
    out = {"explain": "out.npy", "diagnose": "out.html", "demo": "demo"}[command]
    Path("demo").mkdir()
    args = {
        "explain": ["model.safetensors", "samples.npy", "-o", out],
        "diagnose": ["model.safetensors", "samples.npy", "--labels", "labels.txt", "-o", out],
        "demo": ["--out", out],
    }[command]
    with claim("demo/model.safetensors" if command == "demo" else out):
        before = files(folder)
        message = run(command, *args, status=2)
        assert out in message
        assert "being written by another run" in message
        assert files(folder) == before


@pytest.mark.slow
def test_of_many_commands_at_once_each_leaves_its_own_file_or_fails(folder):
    """What status 0 says holds: the file is that of the run, or of one that began later."""
    code = (
        "import sys; from sklrp.cli import main; print('ready', flush=True); sys.stdin.read(1); "
    )
    code += "main(sys.argv[1:])"
    rules = ["zero", "z_plus"]
    runs = [
        python(code, "explain", "model.safetensors", "samples.npy", "-o", "out.npy", "--rule", r)
        for r in rules
    ]
    for process in runs:
        process.stdin.write("x")
        process.stdin.flush()
    done = [process.communicate()[1] for process in runs]
    expected = [explain("samples.npy", "-o", f"{r}.npy", "--rule", r) for r in rules]
    statuses = [process.returncode for process in runs]
    assert 0 in statuses
    for status, stderr in zip(statuses, done, strict=True):
        assert status == 0 or "being written by another run" in stderr
    assert expected == ["", ""]
    if sorted(statuses) == [0, 2]:
        rule = rules[statuses.index(0)]
        np.testing.assert_array_equal(np.load("out.npy"), np.load(f"{rule}.npy"))
    assert not [name for name in files(folder) if name.startswith((".", "out.npy."))]


# What is done in part


def make_part(kind, name):
    path = Path(name)
    if kind == "link":
        Path("theirs.txt").write_text("theirs")
        path.symlink_to("theirs.txt")
    elif kind == "dangling link":
        path.symlink_to("nowhere.txt")
    elif kind == "second name":
        Path("theirs.txt").write_text("theirs")
        os.link("theirs.txt", path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "array":
        np.save("theirs.npy", np.ones((len(X) + 1, 2)))
        Path("theirs.npy").rename(path)
    else:
        path.write_text("theirs")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["out.npy.part", "out.npy.part.json"])
@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "second name", "pipe", "folder", "array", "text"]
)
def test_nothing_is_written_through_or_over_what_others_put_there(kind, name, resume, folder):
    make_part(kind, name)
    before = {file: Path(file).read_bytes() for file in files(folder) if Path(file).is_file()}
    with pytest.raises(ValueError, match=name):
        PartialRun(Path("out.npy"), SETTINGS, resume)
    explain("samples.npy", "-o", "out.npy", *["--resume"] * resume, status=2)
    after = {file: Path(file).read_bytes() for file in files(folder) if Path(file).is_file()}
    assert after == before
    assert not Path("nowhere.txt").exists()


def test_a_file_put_there_later_is_not_opened_either(folder):
    partial = PartialRun(Path("out.npy"), SETTINGS, False)
    Path("theirs.txt").write_text("theirs")
    partial._write_sidecar(0, "")
    Path("out.npy.part").symlink_to("theirs.txt")
    with pytest.raises(ValueError, match="is a link"):
        _files.check_own(Path("out.npy.part"))
    with mock.patch.object(PartialRun, "finish"), pytest.raises(FileExistsError):
        partial._open((2, 3), np.dtype(float))
    assert Path("theirs.txt").read_text() == "theirs"


# Signals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("when", ["at the first line", "at work"])
def test_signals_end_a_command_with_one_line(number, status, word, when, folder):
    """Before `sklrp.cli` is imported, and while a file is written."""
    code = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def wait(*args, **kwargs):
    print("ready", flush=True)
    time.sleep(60)

class Slow:
    def find_spec(self, name, path, target=None):
        if name == "sklrp.cli":
            wait()

import sklrp.__main__
when = {when!r}
if when == "at the first line":
    sys.meta_path.insert(0, Slow())
else:
    from sklrp.cli.runs import PartialRun
    from sklrp._files import replacing
    def write(self, *args):
        with replacing(self._sidecar) as part:
            wait()
    PartialRun._write_sidecar = write
sklrp.__main__.main()
"""
    before = files(folder)
    process = python(code, "explain", "model.safetensors", "samples.npy", "-o", "out.npy")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert stderr == f"error: {word}\n"
    assert files(folder) == before


@pytest.mark.slow
def test_a_signal_that_something_swallows_is_told_all_the_same(folder):
    code = """
import os, signal
import sklrp.__main__
import sklrp.cli.explain_command as explain
def load(*args):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        return original(*args)
original, explain.load_model = explain.load_model, load
print("ready", flush=True)
sklrp.__main__.main()
"""
    process = python(code, "explain", "model.safetensors", "samples.npy", "-o", "out.npy")
    assert process.communicate()[1] == "error: terminated\n"
    assert process.returncode == 143


def test_signals_that_are_ignored_stay_so_and_a_second_one_ends_at_once(folder):
    code = """
import signal, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
import sklrp._signals as signals
signals.leave_at_signals()
signals.raise_at_signals()
try:
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt as stop:
    assert stop.number == signal.SIGTERM == signals.came()
    print("ready", flush=True)
    time.sleep(60)
"""
    process = python(code)
    process.terminate()
    assert process.communicate()[1] == "error: terminated\n"
    assert process.returncode == 143


def test_the_command_takes_signals_before_it_imports_what_takes_time():
    code = "import sys, sklrp.__main__; print([m for m in ('torch', 'numpy', 'typing', 'click') "
    code += "if m in sys.modules])"
    # -S: the environment's own files may import typing before anything of this package is read.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.stdout == "[]\n", done.stderr
    started = time.monotonic()
    assert "MLPClassifier" in dir(sklrp)
    assert time.monotonic() - started < 60
    with pytest.raises(AttributeError, match="has no attribute 'MLPClasifier'"):
        sklrp.MLPClasifier  # noqa: B018
