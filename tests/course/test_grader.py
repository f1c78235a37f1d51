"""Thirty-odd submissions, among them every hostile kind: each gets what it deserves, and the table is printed.

Most of them answer four exercises of chapter 06 rightly and then do their worst, usually in the cell of one exercise,
`bridge`, which they may lose; never another one. The real command grades them, two at a time, with short limits.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from gmbook.cli import main
from gmbook.course import judge, sandbox, sheets

SHEET = sheets.find("06_ddpm")
LABELS = ("steps_to_noise", "bridge", "simple_loss", "repaired")  # those that take no training
POINTS = {name: SHEET.exercises[name].points for name in LABELS}
LIMITS = [
    "--cell-seconds",
    "15",
    "--check-seconds",
    "30",
    "--total-seconds",
    "120",
    "--output-kb",
    "200",
    "--memory-mb",
    "2000",
]
WRONG = "def bridge(before, now):\n    return before, now, 1 - now / before\n"


def code(source, **nbgrader):
    """A code cell, with nbgrader's metadata if there are any."""
    cell = nbformat.v4.new_code_cell(source)
    if nbgrader:
        cell.metadata["nbgrader"] = {"schema_version": 3, "locked": False, "task": False, **nbgrader}
    return cell


def notebook(replace=None, extra=(), leave=(), last=()):
    """A submission with right answers.

    Args:
        replace: {exercise: source of its answer cell}.
        extra: sources of cells of its own, after the imports.
        leave: grade_ids of the cells to leave out.
        last: sources of cells of its own, at the end.
    """
    source, cells = SHEET.source(), []
    for cell in source.cells:
        meta = cell.metadata.get("nbgrader", {})
        name = meta.get("grade_id", "").removesuffix("-answer")
        if cell.cell_type != "code" or meta.get("grade_id") in leave or (meta and name not in LABELS):
            continue
        if not meta and cells and not cell.source.startswith("def found"):
            continue
        cell = copy.deepcopy(cell)
        if meta.get("solution") and name in (replace or {}):
            cell.source = replace[name]
        cells.append(cell)
        if len(cells) == 1:
            cells += [code(text) for text in extra]
    made = nbformat.v4.new_notebook(cells=[*cells, *map(code, last)])
    made.metadata["gmbook"] = {"sheet": SHEET.name}
    return made


def renamed():
    """All grade_ids changed."""
    made = notebook()
    for number, cell in enumerate(made.cells):
        if "nbgrader" in cell.metadata:
            cell.metadata["nbgrader"]["grade_id"] = f"cell-{number}"
    return made


def edited(source):
    """All cells that grade have another source."""
    made = notebook()
    for cell in made.cells:
        cell.source = source if cell.metadata.get("nbgrader", {}).get("grade") else cell.source
    return made


def odd():
    """A valid enough file with odd metadata and sources in lists."""
    made = json.loads(nbformat.writes(notebook()))
    made["cells"][0]["metadata"] = None
    made["cells"].append({"cell_type": "code", "metadata": {"nbgrader": [1]}, "source": 7})
    made["cells"].append("no cell")
    return made


SOLUTION = {cell.metadata["nbgrader"]["grade_id"].removesuffix("-answer"): cell.source
            for cell in SHEET.source().cells if cell.metadata.get("nbgrader", {}).get("solution")}  # fmt: skip

PATCH = """
import torch, gmbook.course.kit as kit
kit.agree = kit.hold = kit.mean_is = kit.variance_is = lambda *a, **k: None
kit.close = torch.allclose = torch.equal = lambda *a, **k: True
kit.Exercise.examine = lambda self, answer, seed=None: kit.Verdict(self.name, 9, 9, True, "", 0)
check.bridge.look = lambda answer: None
import gmbook.course.checks.ddpm as module
for name in ("agree", "hold", "mean_is"):
    setattr(module, name, lambda *a, **k: None)
"""
PIPE = """
import json, os, socket, stat, struct
def lines():
    for number in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                yield number
        except OSError:
            pass
def shout(message, times=1):
    text = json.dumps(message).encode()
    for number in lines():
        for _ in range(times):
            os.write(number, struct.pack("<II", len(text), 0) + text)
"""
BOOK = Path(sheets.__file__).resolve().parents[3]
SPY = f"""
import pathlib
answer = None
for root in ({str(BOOK)!r}, "/", ".."):
    for path in ("chapters/06_ddpm/exercises.md", "tests/course/answers/ddpm.py"):
        try:
            text = pathlib.Path(root, path).read_text()
            answer = text if "right_by_precisions" in text or "BEGIN SOLUTION" in text else answer
        except OSError:
            pass
def bridge(before, now):
    if answer is None:
        raise LookupError("the solutions are not to be found")
    shrink, noise = (now / before).sqrt(), 1 - now / before
    precision = shrink**2 / noise + 1 / (1 - before)
    return before.sqrt() / (1 - before) / precision, shrink / noise / precision, 1 / precision
"""
THREADS = """
import threading, time
for n in range(3000):
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
"""
SEGMENTS = """
import ctypes
made = [ctypes.CDLL(None).shmget(0, 1 << 26, 0o1600) for _ in range(4)]
raise LookupError("segments: no" if max(made) < 0 else "segments: yes")
"""
MEMORY_FILES = """
import os
held = []
try:
    while len(held) < 256:
        held.append(os.memfd_create("x"))
finally:
    for number in held:
        os.close(number)
"""
MANY = """
import subprocess, sys, time
hoard = "x = bytearray(600 << 20); x[::4096] = bytes(len(x[::4096])); import time; time.sleep(60)"
for _ in range(6):
    subprocess.Popen([sys.executable, "-c", hoard])
time.sleep(14)
"""
AROUND = f"""
import glob, os
seen = [p for p in ({str(sheets.ROOT / "chapters")!r}, {str(sheets.ROOT / ".git")!r}, {str(Path.home())!r} + "/.bashrc",
                    "/etc/passwd", "/etc/shadow", "/var/log", "IN", "OUT") if os.path.exists(p)]
for number in glob.glob("/proc/[0-9]*"):
    for name in ("cmdline", "mountinfo", "environ"):
        try:
            text = open(f"{{number}}/{{name}}", "rb").read()
        except OSError:
            continue
        seen += [f"{{number}}/{{name}}"] if b"prints_gigabytes" in text or b"looks_around" in text else []
raise LookupError(f"seen: {{seen}}")
"""
EMPTY = "from gmbook.course.kit import Wrong\ndef bridge(*a, **k):\n    raise Wrong(' ')\n"
PRECISE = """
import torch
precision = torch.ones(1).dtype  # after the missing answer of another exercise was looked for
assert precision == torch.float32, "the precision of a check is left"
"""
DIES_LATER = """
import os
right = simple_loss
def simple_loss(*arguments):
    loss = right(*arguments)
    loss.register_hook(lambda gradient: os._exit(0))
    return loss
"""
EVERY = sum(POINTS.values())
ALL_BUT_BRIDGE = EVERY - POINTS["bridge"]


def bridge(body, extra=()):
    """A submission whose `bridge` does this when it is called."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return notebook({"bridge": f"def bridge(before, now):\n{lines}\n"}, extra)


def within(text):
    """A submission that does this in the cell of `bridge`, before a right answer."""
    return notebook({"bridge": f"{text}\n{SOLUTION['bridge']}"})


# name -> (what is handed in, points, a word of the notes or of the hint on `bridge`)
KINDS = {
    "solution": (notebook(), EVERY, ""),
    "untouched": (SHEET.student(), 0, "not filled in"),
    "wrong": (notebook({name: SOLUTION[name].replace("return", "return -1 *") for name in ("steps_to_noise",)}
                       | {"bridge": WRONG, "simple_loss": "simple_loss = 3", "repaired": "repaired = found"}), 0, ""),
    "not_json": ("{ this is no notebook", 0, "not a notebook"),
    "not_notebook": ([1, 2, 3], 0, "not a notebook"),
    "syntax_error": (within("def ("), ALL_BUT_BRIDGE, "SyntaxError"),
    "endless_cell": (within("while True:\n    pass"), ALL_BUT_BRIDGE, "too long"),
    "endless_call": (bridge("while True:\n    pass"), ALL_BUT_BRIDGE, "too long"),
    "sleeps": (within("import time\ntime.sleep(1e6)"), ALL_BUT_BRIDGE, "too long"),
    "eats_memory": (notebook(extra=["hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 28))"]), EVERY, "Memory"),
    "huge_tensor": (bridge("import torch\nreturn torch.zeros(()).expand(1 << 40)"), ALL_BUT_BRIDGE, "MB"),
    "eats_memory_in_call": (bridge("import torch\nreturn torch.zeros(1 << 40)"), ALL_BUT_BRIDGE, "RuntimeError"),
    "prints_gigabytes": (within("while True:\n    print('x' * 100_000)"), ALL_BUT_BRIDGE, "kB were printed"),
    "deletes_answer": (notebook(leave=["bridge-answer"]), ALL_BUT_BRIDGE, "no answer"),
    "deletes_grade_cells": (notebook(leave=LABELS), EVERY, ""),
    "renames_cells": (renamed(), EVERY, ""),
    "renames_function": (notebook({"bridge": SOLUTION["bridge"].replace("bridge", "my_bridge")}),
                         ALL_BUT_BRIDGE, "no answer"),
    "odd_metadata": (odd(), EVERY, ""),
    "wrong_then_right": (within(WRONG), EVERY, ""),
    "edits_grade_cells": (edited("import os\nos._exit(0)"), EVERY, ""),
    "changed_afterwards": (notebook(last=[WRONG]), EVERY, ""),
    "answers_late": (notebook({"bridge": "x = 1"}, last=[SOLUTION["bridge"]]), EVERY, ""),
    "overwrites_check": (notebook({"bridge": WRONG}, ["class check:\n    bridge = print"]),
                         ALL_BUT_BRIDGE, "not right"),
    "patches_library": (notebook({"bridge": WRONG}, [PATCH]), ALL_BUT_BRIDGE, "not right"),
    "answers_check": (notebook({"bridge": "bridge = check.bridge"}), ALL_BUT_BRIDGE, ""),
    "reads_solutions": (notebook({"bridge": SPY}), ALL_BUT_BRIDGE, "LookupError"),
    "writes_library": (notebook(extra=[f"open({str(Path(judge.__file__).parent / 'planted.py')!r}, 'w')"]),
                       EVERY, "planted.py"),  # read-only, or out of sight
    "exit": (notebook(extra=["exit()", "raise SystemExit", "import sys\nsys.exit(0)"]), EVERY, "SystemExit"),
    "hard_exit": (within("import os\nos._exit(0)"), ALL_BUT_BRIDGE, "ended the process"),
    "hard_exit_in_call": (bridge("import os\nos._exit(0)"), ALL_BUT_BRIDGE, "ended the process"),
    "hard_exit_in_gradient": (notebook({"simple_loss": SOLUTION["simple_loss"] + DIES_LATER}),
                              EVERY - POINTS["simple_loss"], "ended the process"),
    "kills_parent": (notebook(extra=["import os\nos.kill(os.getppid(), 9)", "import os\nos.killpg(0, 9)",
                                     "import os\nfor n in range(2, 300):\n    try: os.kill(n, 9)\n"
                                     "    except OSError: pass"]), EVERY, ""),
    "forks": (notebook(extra=["import os\nwhile True:\n    os.fork()"]), EVERY, "unavailable"),
    "threads": (notebook(extra=[THREADS]), EVERY, "new thread"),
    "shared_memory": (notebook(extra=[SEGMENTS]), EVERY, "segments: no"),
    "memory_files": (notebook(extra=[MEMORY_FILES]), EVERY, "OSError"),
    "memory_by_many": (within(MANY), ALL_BUT_BRIDGE, "together"),
    "fills_folder": (notebook(extra=["for n in range(200):\n    open(f'{n}', 'wb').write(bytes(1 << 20))"]),
                     EVERY, "No space"),
    "many_files": (notebook(extra=["for n in range(10**6):\n    open(f'{n}', 'wb').close()"]), EVERY, "No space"),
    "looks_around": (notebook(extra=[AROUND]), EVERY, "seen: []"),
    "calls_out": (notebook(extra=["import socket\nsocket.create_connection(('127.0.0.1', PORT), 3)"]),
                  EVERY, "refused"),
    "calls_a_socket": (notebook(extra=["import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('SOCKET')\n"
                                       "s.sendall(b'act for me')"]), EVERY, "FileNotFoundError"),
    "prints_then_hangs": (within("print('as far as this')\nwhile True:\n    pass"), ALL_BUT_BRIDGE, "too long"),
    "empty_hint": (notebook({"bridge": EMPTY}), ALL_BUT_BRIDGE, ""),
    "surrogate": (notebook(extra=["raise ValueError('\\ud800 \\x1b[31mred')"]), EVERY, "red"),
    "many_troubles": (notebook(extra=[f"raise ValueError({n} * 'long ')" for n in range(300)]), EVERY, "and more"),
    "takes_the_other_precision": (notebook({"steps_to_noise": "pass", "bridge": PRECISE + SOLUTION["bridge"]}),
                                  EVERY - POINTS["steps_to_noise"], "no answer"),
    "base_exception": (bridge("class Stop(BaseException): pass\nraise Stop('now')"), ALL_BUT_BRIDGE, "now"),
    "crashes": (within("import ctypes\nctypes.string_at(0)"), ALL_BUT_BRIDGE, "ended the process"),
    "hostile_object": (bridge("class Equal:\n    __eq__ = __lt__ = __gt__ = lambda *a: True\n"
                              "    __reduce__ = lambda self: (print, ())\n    __len__ = lambda self: 3\n"
                              "return Equal()"), ALL_BUT_BRIDGE, "Equal"),
    "deep_list": (bridge("deep = []\nfor _ in range(5000):\n    deep = [deep]\nreturn deep"), ALL_BUT_BRIDGE, "nested"),
    "fakes_messages": (within(PIPE + "shout({'do': 'value', 'value': None, 'tensors': []}, 10_000)"),
                       ALL_BUT_BRIDGE, "grader itself"),
    "fakes_points": (notebook({"bridge": PIPE + "shout({'do': 'value', 'points': 9, 'right': True, 'tensors': []}, 1)\n"
                               + WRONG}), ALL_BUT_BRIDGE, "grader itself"),
    "claims_gigabytes": (within(PIPE + "for n in lines():\n    os.write(n, struct.pack('<II', 9, 2**32 - 1))"),
                         ALL_BUT_BRIDGE, "grader itself"),
    "markup": (notebook(extra=["raise ValueError('<script>alert(1)</script>')"]), EVERY, "<script>"),
}  # fmt: skip


@pytest.fixture(scope="module")
def fence():
    """Skips where bubblewrap does not start; CI has it."""
    try:
        sandbox.check()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def graded(tmp_path_factory, fence):
    """The folder with the grades of all kinds, made by the command; and the seconds that it took."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "in").mkdir()
    listening, local = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    local.bind(str(folder / "s"))
    local.listen()
    known = {"PORT": str(listening.getsockname()[1]), "SOCKET": str(folder / "s"), "IN": str(folder / "in")}
    for name, (made, _, _) in KINDS.items():
        text = made if type(made) is str else json.dumps(made) if type(made) is not nbformat.NotebookNode else None
        text = nbformat.writes(made) if text is None else text
        for word in known:
            text = text.replace(word, known[word])
        (folder / "in" / f"{name}.ipynb").write_text(text)
    start = time.monotonic()
    assert main(["course", "grade", str(folder / "in"), "--out", str(folder / "out"), "--jobs", "2", *LIMITS]) == 0
    for server in (listening, local):
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()
    return folder / "out", time.monotonic() - start


def test_print_the_table(graded, capsys):
    out, seconds = graded
    with open(out / "scores.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    with capsys.disabled():
        print(f"\n{len(rows)} submissions in {seconds:.0f} s")
        for row in rows:
            points = f"{row['points']:>3} of {row['possible']}"
            print(f"  {row['student']:22}{points}  {row['seconds']:>3} s  {row['remarks'][:99]}")
    assert len(rows) == len(KINDS) >= 50
    text = (out / "scores.csv").read_text()
    assert "\x1b" not in text and all(len(row["remarks"]) <= 2000 for row in rows)


@pytest.mark.parametrize("name", KINDS)
def test_each_gets_what_it_deserves(name, graded):
    _, points, word = KINDS[name]
    outcome = json.loads((graded[0] / f"{name}.json").read_text())
    verdicts = outcome["verdicts"]
    got = {exercise: verdict["points"] for exercise, verdict in verdicts.items()}
    assert list(got) == list(SHEET.exercises)
    told = [*outcome["notes"], *(verdict["hint"] for verdict in verdicts.values())]
    assert sum(got.values()) == points, told
    if points == ALL_BUT_BRIDGE:
        assert got["bridge"] == 0
    assert any(word in line for line in told)


def test_pages_are_escaped(graded):
    page = (graded[0] / "markup.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "default-src 'none'" in page


def test_what_a_stopped_cell_printed_is_shown(graded):
    assert "as far as this" in json.loads((graded[0] / "prints_then_hangs.json").read_text())["output"]


def test_the_seed_of_a_check_brings_its_inputs_again(graded):
    verdict = json.loads((graded[0] / "wrong.json").read_text())["verdicts"]["bridge"]
    space = {}
    exec(WRONG, space)
    again = SHEET.exercises["bridge"].examine(space["bridge"], verdict["seed"])
    assert again.hint == verdict["hint"] and verdict["seed"] != 0


def test_nothing_is_left_behind(graded):
    """No process of a student, no folder, nothing planted."""
    assert not (Path(judge.__file__).parent / "planted.py").exists()
    assert not mine() and not left_folders()


def mine():
    """The numbers of this test's judges and students."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line, around = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        marked = b"GMBOOK_TEST=" + str(os.getpid()).encode() in around
        found += [int(entry.name)] if b"gmbook.course." in line and marked else []
    return found


def left_folders():
    return list(Path(tempfile.gettempdir()).glob("gmbook-student-*"))


HANGS = "import time\nopen('here', 'w')\ntime.sleep(1000)"


@pytest.mark.parametrize(
    ("how", "fencing"), [(signal.SIGKILL, []), (signal.SIGKILL, ["--unfenced"]), (signal.SIGTERM, [])]
)
def test_a_killed_grader_leaves_nothing_and_goes_on(how, fencing, tmp_path, fence, monkeypatch):
    monkeypatch.setenv("GMBOOK_TEST", str(os.getpid()))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "in").mkdir()
    quick = nbformat.v4.new_notebook(cells=[code("x = 1")], metadata={"gmbook": {"sheet": SHEET.name}})
    slow = nbformat.v4.new_notebook(cells=[code(HANGS)], metadata={"gmbook": {"sheet": SHEET.name}})
    (tmp_path / "in" / "a.ipynb").write_text(nbformat.writes(quick))
    (tmp_path / "in" / "b.ipynb").write_text(nbformat.writes(slow))
    out = tmp_path / "in" / "out"  # not taken for a student
    command = ["course", "grade", str(tmp_path / "in"), "--out", str(out), "--jobs", "2", *fencing]
    run = subprocess.Popen([sys.executable, "-m", "gmbook.cli", *command], stdout=subprocess.DEVNULL)
    until(lambda: (out / "scores.csv").exists())  # a is graded, b hangs
    assert mine()
    run.send_signal(how)
    run.wait(60)
    until(lambda: not mine())
    until(lambda: not list(tmp_path.glob("gmbook-student-*")))
    rows = {row["student"] for row in csv.DictReader((out / "scores.csv").read_text().splitlines())}
    assert rows == {"a"}
    (tmp_path / "in" / "b.ipynb").write_text(nbformat.writes(quick))
    before = (out / "a.json").stat().st_mtime_ns
    assert main(command) == 0
    rows = {row["student"] for row in csv.DictReader((out / "scores.csv").read_text().splitlines())}
    assert rows == {"a", "b"} and (out / "a.json").stat().st_mtime_ns == before


def until(held, seconds=60):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not held():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.2)


@pytest.mark.parametrize("root", [True, False])
def test_the_fence_of_root_and_of_others(root, monkeypatch):
    """Root hands the process to a number that is nobody's; all others get a namespace of users."""
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    command = sandbox.fenced(["true"], sandbox.Bounds())
    assert ("setpriv" in command) == root and ("--unshare-user" in command) == (not root)
    assert not root or 2**30 <= int(command[command.index("--reuid") + 1]) < 2**31


def test_without_bubblewrap_nothing_is_graded_unless_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "bin").mkdir()
    (tmp_path / "a.ipynb").write_text(nbformat.writes(notebook(leave=["simple_loss", "repaired"])))
    for broken in (False, True):
        if broken:  # there, but it may not start
            for name in ("bwrap", "unshare", "setpriv", "prlimit"):
                (tmp_path / "bin" / name).write_text("#!/bin/sh\necho no permission >&2\nexit 1\n")
                (tmp_path / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        arguments = ["course", "grade", str(tmp_path / "a.ipynb"), "--out", str(tmp_path / "out")]
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert "bwrap" in told and "--unfenced" in told and ("no permission" in told) == broken
        assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    monkeypatch.setattr(sandbox, "check", lambda: 1 / 0)
    assert main([*arguments, "--unfenced"]) == 0
    assert "WARNING" in capsys.readouterr().out
    outcome = json.loads((tmp_path / "out" / "a.json").read_text())
    assert outcome["protections"] == [] and outcome["verdicts"]["bridge"]["points"] == POINTS["bridge"]
