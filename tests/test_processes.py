"""What the pipeline starts ends with it, at once, whatever ends it; two runs leave each other alone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from test_pipeline import FAKE_RUN

from lib.errors import KEPT, InputError
from lib.pipeline import children, kernels, measuring
from lib.pipeline.locking import HELD, locked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and process groups are POSIX's")
WITHIN = 2  # seconds
HOLDS_THE_GIL = "import re; re.match('(a+)+$', 40 * 'a' + 'b')"

# The command line of the pipeline over other notebooks.
DRIVER = """
import pathlib, sys
from lib.pipeline.children import stop_on_signals
stop_on_signals()
from lib.pipeline import commands, notebooks
notebooks.NOTEBOOKS = pathlib.Path(sys.argv[1])
commands.check_model = lambda *_: None
commands.main(sys.argv[2:])
"""


@pytest.fixture
def notebook(tmp_path, build):
    """Writes a synthetic section `a` that notes its kernel's id in `pids`, then does as it is told."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE_RUN)

    def write(body):
        pid = f"import os\nwith open({str(tmp_path / 'pids')!r}, 'a') as file:\n    print(os.getpid(), file=file)"
        cells = [
            nbformat.v4.new_code_cell('profile = "embedded"\nseed = 10', metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell('from fake import Run\nrun = Run("a", globals())'),
            nbformat.v4.new_code_cell(f"{pid}\n{body}\nrun.finish(value=1)", metadata={"tags": ["measure"]}),
            nbformat.v4.new_code_cell("data = run.data"),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "a.ipynb")
        return folder

    return write


def start(folder):
    words = [sys.executable, "-c", DRIVER, folder, "run", "--profile", "smoke"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kernel_of(folder, number=1):
    """The id of the kernel that notes itself as the `number`-th."""
    path, deadline = folder.parent / "pids", time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.is_file() and len(path.read_text().split()) >= number:
            return int(path.read_text().split()[number - 1])
        time.sleep(0.05)
    pytest.fail("no kernel in time")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc").is_dir()


def seconds_until_gone(pid, longest=30.0):
    began = time.monotonic()
    while is_running(pid) and time.monotonic() < began + longest:
        time.sleep(0.02)
    return time.monotonic() - began


def leftovers(pid):
    return list(Path(kernels.tempfile.gettempdir()).glob(f"{kernels.PREFIX}{pid}-*"))


@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGINT] * 3, [signal.SIGTERM]], ids=["once", "thrice", "terminated"]
)
@pytest.mark.parametrize("body", ["import time; time.sleep(600)", HOLDS_THE_GIL], ids=["waiting", "holding"])
def test_a_signal_while_a_cell_computes(notebook, numbers, body):
    folder = notebook(body)
    process = start(folder)
    kernel = kernel_of(folder)
    began = time.monotonic()
    for number in numbers:
        process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert time.monotonic() - began < WITHIN
    assert process.returncode == 128 + numbers[0]
    assert said.strip().endswith(children.STOPPED) and "Traceback" not in said
    assert seconds_until_gone(kernel) < WITHIN
    assert not leftovers(process.pid)


def test_a_signal_that_another_thread_is_given_while_the_main_one_waits():
    driver = (
        "import signal, threading; from lib.pipeline.children import stop_on_signals; stop_on_signals();"
        "other = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT);"
        "threading.Timer(0.2, other).start(); threading.Event().wait()"
    )
    done = subprocess.run([sys.executable, "-c", driver], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr.strip() == children.STOPPED


@pytest.mark.parametrize("after", [0.4, 0.8, 1.6, 3.2])
def test_a_signal_while_it_starts(notebook, after):
    process = start(notebook("import time; time.sleep(600)"))
    time.sleep(after)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - began < WITHIN
    assert process.returncode in (128 + signal.SIGINT, -signal.SIGINT)
    assert not leftovers(process.pid)


@pytest.mark.parametrize("body", ["import time; time.sleep(600)", HOLDS_THE_GIL], ids=["waiting", "holding"])
def test_kernels_end_with_a_killed_pipeline(notebook, body):
    folder = notebook(body)
    process = start(folder)
    kernel = kernel_of(folder)
    process.kill()
    assert seconds_until_gone(kernel) < WITHIN
    process.communicate()
    assert leftovers(process.pid)
    kernels.remove_leftovers()
    assert not leftovers(process.pid)


def test_a_child_ends_with_its_parent_where_the_system_sends_no_signal():
    child = "import os, sys; sys.platform = 'other'; from lib.pipeline import child; child.end_with(os.getppid());"
    child += " print(os.getpid(), flush=True); import time; time.sleep(600)"
    parent = "import subprocess, sys, time; from lib.pipeline import children\nwith children.lifeline() as stdin:\n"
    parent += f"    subprocess.Popen([sys.executable, '-c', {child!r}], stdin=stdin)\n    time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    kernel = int(process.stdout.readline())
    assert is_running(kernel)
    process.kill()
    assert seconds_until_gone(kernel) < WITHIN
    process.communicate()


def test_two_runs_in_one_folder(notebook, tmp_path):
    folder = notebook(f"import time\nwhile not os.path.exists({str(tmp_path / 'go')!r}):\n    time.sleep(0.05)")
    first = start(folder)
    kernel_of(folder)
    second = start(folder)
    assert second.stderr.readline() == f"smoke: process {first.pid} is at work there; waiting until it ends\n"
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=120) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert "done in" in said[0][0] and "done in" not in said[1][0]
    assert len((tmp_path / "pids").read_text().split()) == 1


def test_the_second_run_goes_on_where_the_first_was_killed(notebook, tmp_path):
    folder = notebook(
        f"import time\nwhile len(open({str(tmp_path / 'pids')!r}).readlines()) == 1:\n    time.sleep(0.05)"
    )
    first = start(folder)
    kernel_of(folder)
    second = start(folder)
    assert "waiting until it ends" in second.stderr.readline()
    first.kill()
    first.communicate()
    said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert "done in" in said[0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.kill(os.getpid(), 9)", r"a: its kernel was killed, most likely for want of memory \(.* GiB\); see "),
        ("import ctypes; ctypes.string_at(0)", r"a: its kernel died of a native fault \(SIGSEGV; .* GiB\); see "),
        ("os._exit(3)", r"a: its kernel ended by itself \(exit status 3\); see "),
    ],
)
def test_a_kernel_that_dies(notebook, body, said):
    process = start(notebook(body))
    line = process.communicate(timeout=120)[1].strip().splitlines()[-1]
    assert process.returncode == 1
    assert re.match(f"error: {said}.*; {KEPT}$", line)
    assert start(notebook("pass")).wait(timeout=120) == 0


def test_a_kernel_that_does_not_answer_is_started_again(monkeypatch):
    monkeypatch.setattr(kernels, "transport", lambda: "tcp")
    started, begin = [], kernels.start

    def start_dead(task):
        kernel = begin(task)
        started.append(kernel.process.pid)
        if len(started) == 1:
            children.kill(kernel.process.pid)
        return kernel

    monkeypatch.setattr(kernels, "start", start_dead)
    kernel = kernels.answering(kernels.start("redraw"), "redraw")
    assert len(started) == 2
    assert kernel.manager.transport == "tcp" and kernels.answers(kernel)
    kernel.stop()
    assert not any(map(is_running, started))


def test_no_port_is_opened_where_there_are_sockets():
    kernel = kernels.start()
    try:
        assert kernels.answers(kernel)
        assert kernel.manager.transport == "ipc"
        folder = Path(kernel.manager.connection_file).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(list(folder.glob("k-ipc-*"))) == 5
    finally:
        kernel.stop()
    assert not folder.exists()


def test_a_section_that_a_notebook_cannot_have_measured(build, capsys):
    """The pipeline's own line comes back, from its own process."""
    with pytest.raises(InputError, match=r"^notebook: given 'V44' \(did you mean V4\?\), allowed: setup, "):
        measuring.have_measured("V44", "smoke")
    assert "error: notebook: given 'V44'" in capsys.readouterr().out


def test_what_a_run_starts_works_on_its_behalf_and_waits_for_nobody(build):
    """A section that has another one measured meets the lock of the very run that it belongs to."""
    program = "from lib.pipeline.locking import locked\nwith locked('smoke'):\n    print('mine')"
    with locked("smoke"):
        words = {"env": children.environment(), "capture_output": True, "text": True, "timeout": 60}
        inside = subprocess.run([sys.executable, "-c", program], **words)
    assert (inside.stdout, inside.stderr) == ("mine\n", "")
    assert "smoke" not in os.environ[HELD].split("/")


def test_a_notebook_run_by_hand_waits_for_the_pipeline(notebook, tmp_path, monkeypatch):
    folder = notebook(f"import time\nwhile not os.path.exists({str(tmp_path / 'go')!r}):\n    time.sleep(0.05)")
    first = start(folder)
    kernel_of(folder)
    by_hand = "from lib.pipeline.locking import locked\nwith locked('smoke'):\n    print('mine')"
    monkeypatch.delenv("EXPERIMENT10_PIPELINE")
    second = subprocess.Popen(
        [sys.executable, "-c", by_hand], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert second.stderr.readline() == f"smoke: process {first.pid} is at work there; waiting until it ends\n"
    (tmp_path / "go").touch()
    assert second.communicate(timeout=120)[0] == "mine\n"
    first.communicate(timeout=120)


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")
def test_kernels_are_forked_from_one_process_and_lead_their_own_groups(monkeypatch):
    monkeypatch.setattr(kernels, "GPUS", ())
    monkeypatch.setattr(kernels, "heights", {0})
    first, second = kernels.start("redraw"), kernels.start("redraw")
    try:
        pids = [kernel.process.pid for kernel in (first, second)]
        assert parent_of(pids[0]) == parent_of(pids[1]) != os.getpid()
        assert [os.getpgid(pid) for pid in pids] == pids
        assert kernels.answers(first) and kernels.answers(second)
    finally:
        first.stop()
        assert is_running(pids[1])
        second.stop()
    assert not any(map(is_running, pids))
    assert max(kernels.heights) > 2**26


def test_where_a_gpu_is_kernels_are_processes_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "GPUS", (str(tmp_path),))
    assert kernels.prepare("redraw") == {}
    kernel = kernels.start("redraw")
    try:
        assert isinstance(kernel.process, subprocess.Popen)
        assert kernels.answers(kernel)
    finally:
        kernel.stop()


def test_what_a_redraw_imports_ahead_does_not_import_torch():
    imports = ", ".join(kernels.PRELOADED["redraw"])
    code = f"import sys, {imports}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
