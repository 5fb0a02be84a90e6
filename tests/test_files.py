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
import xarray as xr

import sklrp
from sklrp import MLPClassifier, _files, _stored
from sklrp._files import claim, replacing
from sklrp._kept import Kept
from sklrp._memory import hold_lock
from sklrp.cli import samples
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
    (path / ".zarray").touch()
    (path / name).write_text(name)


# A file takes another's place


WRITING = """
import sys
from pathlib import Path
from sklrp._files import replacing
with replacing(sys.argv[1], is_store=sys.argv[1].endswith(".zarr")) as part:
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
    with replacing(path, is_store=name.endswith(".zarr")) as part:
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


@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
@pytest.mark.parametrize(
    "content", ["thesis.txt", "zarr.json/thesis", ".zgroup thesis.txt", ".zgroup sub/a"]
)
def test_a_folder_of_the_user_is_not_replaced(content, name, is_link, tmp_path):
    folder = tmp_path / ("mine" if is_link else name)
    for file in content.split():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("mine")
    if is_link:
        (tmp_path / name).symlink_to(folder)
    before = files(folder)
    field = xr.DataArray(X, dims=("time", "lat", "lon"), name="x")
    with pytest.raises((IsADirectoryError, ValueError), match="choose another name"):
        sklrp.geo.write(field, tmp_path / name)
    assert files(folder) == before
    assert (tmp_path / name).is_symlink() == is_link


def test_what_may_take_the_place_of_what(tmp_path):
    field = xr.DataArray(X, dims=("time", "lat", "lon"), name="x")
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "link.zarr").symlink_to("out.zarr")
    for zarr_format in (2, 3):
        for name in ("out.zarr", "link.zarr"):
            sklrp.geo.write(field, tmp_path / name, zarr_format=zarr_format, consolidated=False)
    assert (tmp_path / "link.zarr").is_symlink()
    (tmp_path / "file.zarr").write_text("mine")
    with pytest.raises(ValueError, match=r"file\.zarr is there, as something else"):
        sklrp.geo.write(field, tmp_path / "file.zarr")
    (tmp_path / "out.nc").mkdir()
    with pytest.raises(IsADirectoryError, match=r"out\.nc is a folder"):
        sklrp.geo.write(field, tmp_path / "out.nc")
    for name in ("out.zarr", "empty.zarr"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / ".DS_Store").write_text("of macOS, which showed the folder")
        sklrp.geo.write(field, tmp_path / name)
    (tmp_path / "out.zarr" / "x" / "c").mkdir(exist_ok=True)
    (tmp_path / "out.zarr" / "thesis.txt").write_text("mine")
    with pytest.raises(IsADirectoryError, match=r"that holds 'thesis\.txt', which is no part"):
        sklrp.geo.write(field, tmp_path / "out.zarr")


FOREIGN = [
    *("2024/thesis.txt", "20240101", "c1/photo.png", "x/notes.txt", "x/2024/thesis.txt"),
    *("x/mine/.zgroup", "zarr.json.bak", ".zattrs_old", "0/.zattrs", "c/0/0"),
    *("Thumbs.db/thesis.txt", "x/Thumbs.db/thesis.txt"),
]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_the_user_put_into_a_store_is_not_removed(name, zarr_format, tmp_path):
    field = xr.DataArray(X, dims=("time", "lat", "lon"), name="x")
    options = {"zarr_format": zarr_format, "consolidated": False}
    store = sklrp.geo.write(field, tmp_path / "out.zarr", **options)
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    (store / name).write_text("mine")
    with pytest.raises(IsADirectoryError, match=r"a zarr store that holds '.*', which is no part"):
        sklrp.geo.write(field, store)
    assert (store / name).read_text() == "mine"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("separator", [".", "/"])
def test_what_zarr_puts_into_a_store_may_be_replaced(separator, zarr_format, tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(tmp_path / "out.zarr", zarr_format=zarr_format)
    encodings = [{"name": "v2", "separator": separator}]
    if zarr_format == 3:
        encodings.append({"name": "default", "separator": separator})
    for k, encoding in enumerate(encodings):
        for shape in ((), (5,), (5, 6)):
            name = f"sub/{k}/x{len(shape)}"
            chunks = (2,) * len(shape) or "auto"
            options = {"shape": shape, "chunks": chunks, "chunk_key_encoding": encoding}
            group.create_array(name, dtype="f4", **options)[...] = 1.0
    field = xr.DataArray(X, dims=("time", "lat", "lon"), name="x")
    sklrp.geo.write(field, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr" / "sub").exists()


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
    with replacing(path, is_store=True) as part:
        store(part, "1")
    assert files(path) == [".zarray", "1"]
    assert files(tmp_path) == ["out.zarr"]
    assert seen
    assert all(seen)


@pytest.mark.parametrize("dies", [False, True])
def test_a_store_where_the_system_has_no_exchange(dies, tmp_path, monkeypatch):
    """The old one is moved aside, and is put back by who comes next."""
    path = tmp_path / "out.zarr"
    store(path, "1")
    monkeypatch.setattr(_files, "_swap_folders", lambda one, other: False)
    move = os.replace
    if dies:  # a KeyboardInterrupt would be put in order at once: a real death is not

        def die(source, target):
            if Path(source).name == "out.zarr" and Path(source).parent != tmp_path:
                raise SystemExit
            return move(source, target)

        monkeypatch.setattr(os, "replace", die)
        monkeypatch.setattr(_files.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(SystemExit), replacing(path, is_store=True) as part:
            store(part, "2")
        monkeypatch.undo()
        [left] = [name for name in files(tmp_path) if name.endswith("sklrp-part")]
        move(path, tmp_path / left / "old")  # as if nothing had been put back either
        (tmp_path / left / "lock").touch()  # which filelock removes when it is let go
    with replacing(path, is_store=True) as part:
        assert (path / "1").exists()
        store(part, "2")
    assert files(path) == [".zarray", "2"]
    assert files(tmp_path) == ["out.zarr"]


def test_another_error_of_the_exchange_is_raised(tmp_path):
    with pytest.raises(OSError, match="No such file") as caught:
        _files._swap_folders(tmp_path / "a", tmp_path / "b")
    assert caught.value.errno == errno.ENOENT


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "out.txt").symlink_to("other.txt")
    (tmp_path / "other.txt").symlink_to("out.txt")
    with (
        pytest.raises(OSError, match=r"symbolic links.*out\.txt"),
        replacing(tmp_path / "out.txt"),
    ):
        pass
    assert files(tmp_path) == ["other.txt", "out.txt"]
    assert (tmp_path / "out.txt").is_symlink()


# Where a file system has no locks, as Lustre without flock


def test_without_locks_nothing_is_left_and_nothing_is_waited_for(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", fail)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "lock").write_text("4711\nanother-machine\n")
    out = tmp_path / "out.txt"
    with claim(out), hold_lock(tmp_path / "memory"), replacing(out) as part:
        part.write_text("whole")
    assert files(tmp_path) == ["memory", "out.txt"]


# A full disk


@pytest.fixture
def full_disk(monkeypatch):
    """Let no file grow beyond a kilobyte; what that says is what a full disk says."""
    resource = pytest.importorskip("resource")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, ignored)


def test_what_is_there_stays_when_the_disk_is_full(clf, folder, full_disk):
    data = xr.DataArray(X, dims=("time", "lat", "lon"), name="x").chunk(time=10)
    stores = {
        "model.safetensors": lambda path: sklrp.save(clf, path),
        "fields.nc": lambda path: sklrp.geo.write(data, path),
        "fields.zarr": lambda path: sklrp.geo.write(data, path),
    }
    for name, write in stores.items():
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(OSError, match=name):
            write(name)
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert after == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no fallocate")
def test_room_is_set_aside_for_the_rows_of_a_mapped_file(tmp_path):
    path = tmp_path / "out.npy"
    out = np.lib.format.open_memmap(path, "w+", "float32", (4, 512, 512))
    out[0] = 1
    out.flush()
    before = path.stat()
    if before.st_blocks * 512 > out.nbytes // 2:
        pytest.skip("the file system has no holes")
    _stored.reserve_room(out[2:3])
    after = path.stat()
    assert after.st_size == before.st_size
    grown = (after.st_blocks - before.st_blocks) * 512
    assert grown == pytest.approx(out[0].nbytes, abs=2**14)
    assert out[0].all()
    assert not out[1:].any()


def test_a_full_disk_under_a_mapped_file_is_an_error_and_no_signal(clf, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_stored, "reserve", fail)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", "float32", X.shape)
    for given in (X, iter([X])):
        with pytest.raises(OSError, match=r"No space left on device: '.*out\.npy'"):
            clf.explain(given, out=out)
    monkeypatch.setattr(_stored, "MEMORY_BYTES", 100)
    with pytest.raises(OSError, match="No space left on device: '"):
        _stored.make_zeros((100, 100), "float32")


def test_rows_that_a_store_does_not_take_are_named(clf, tmp_path, full_disk):
    zarr = pytest.importorskip("zarr")
    options = {"chunks": (10, 10, 10), "dtype": "float32", "compressors": None}
    out = zarr.create_array(tmp_path / "out.zarr", shape=X.shape, **options)
    with pytest.raises(OSError, match=r"out\.zarr") as caught:
        clf.explain(X, out=out)
    assert caught.value.__notes__ == ["while rows 0 to 40 of out were written"]


def test_results_that_cannot_be_kept_leave_nothing_and_are_made_again(tmp_path, full_disk):
    kept = Kept(tmp_path, lambda: {"a": 1})
    content = np.random.default_rng(0).bytes(5000)
    for _ in range(2):
        with pytest.warns(UserWarning, match="(?s)cannot be kept.*Make room there") as said:
            assert kept.get(["b"], lambda: content) == content
        assert len(said) == 1
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left - {".gitignore"} == {"lock"}  # older joblib writes no .gitignore
    assert kept.get(["c"], lambda: 2) == 2
    assert kept.get(["c"], lambda: 3) == 2


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


def test_what_is_done_is_told_when_the_result_has_no_room(folder, monkeypatch):
    """The file takes the rights of the one that it replaces."""
    np.savez("samples.npz", X)
    Path("out.npz").write_text("old")
    Path("out.npz").chmod(0o600)
    call = ["samples.npz", "-o", "out.npz"]

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(samples, "_write_npz", fail)
        message = explain(*call, status=1)
    assert "No space left on device: 'out.npz' (40 of 40 samples are done; --resume" in message
    assert Path("out.npz").read_text() == "old"
    explain(*call, "--resume")
    assert files(folder) == sorted(
        ["labels.txt", "model.safetensors", "out.npz", "samples.npy", "samples.npz"]
    )
    Path("out.npy").write_text("old")
    Path("out.npy").chmod(0o600)
    explain("samples.npy", "-o", "out.npy")
    for name in ("out.npz", "out.npy"):
        assert Path(name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", ["explain", "diagnose"])
def test_links_that_lead_nowhere_are_refused_by_name(command, folder):
    out = "out.npy" if command == "explain" else "out.html"
    args = ["model.safetensors", "samples.npy", "-o", out]
    args += ["--labels", "labels.txt"] if command == "diagnose" else []
    Path(out).symlink_to(out)
    assert f"{out} is a link to itself" in run(command, *args, status=2)
    Path(out).unlink()
    Path(out).symlink_to(Path("nowhere", out))
    assert "nowhere is no folder" in run(command, *args, status=2)
    assert not Path("nowhere").exists()


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


IMPORTED = """
import os, signal, time
os.kill(os.getpid(), signal.SIGTERM)
deadline = time.monotonic() + 0.2
while time.monotonic() < deadline:
    pass
print("imported")
"""


@pytest.mark.parametrize("where", ["import", "destructor"])
def test_signals_wait_where_nothing_can_be_raised(where, tmp_path):
    """Python called from C++, as of torch while it is imported, aborts; a destructor goes on."""
    (tmp_path / "slow_module.py").write_text(IMPORTED)
    code = """
import os, signal, sys, time
import sklrp._signals as signals
class Ending:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
signals.leave_at_signals()
signals.raise_at_signals()
sys.path.insert(0, sys.argv[1])
print("ready", flush=True)
try:
    if sys.argv[2] == "import":
        import slow_module
    else:
        Ending()
    time.sleep(60)
except KeyboardInterrupt as stop:
    print(stop.number)
"""
    process = python(code, tmp_path, where)
    assert process.communicate() == ("imported\n15\n" if where == "import" else "15\n", "")


def test_a_signal_after_the_work_changes_nothing():
    """While Python ends, its handlers are gone, and the signal would kill it."""
    code = """
import os, signal
import sklrp._signals as signals
signals.leave_at_signals()
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 15)
last = Last()
print("ready", flush=True)
"""
    process = python(code)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


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
