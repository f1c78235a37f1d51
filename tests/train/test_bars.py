"""A bar is seen where a reader waits, and nowhere else: not under nbval, in the website's build, or in a script."""

import os
import pty
import subprocess
import sys
import termios
import textwrap

import pytest
from jupyter_client.manager import start_new_kernel

TRAIN = textwrap.dedent(
    """
    import time, torch
    from torch import nn
    from gmbook.core.model import Model
    from gmbook.train import bars, train

    bars.PATIENCE, bars.tqdm.monitor_interval = 0.05, 0

    class Slow(Model):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(()))

        def loss(self, x):
            time.sleep(0.02)
            return self.w.square()

    steps = sum(1 for _ in train(Slow(), [(torch.ones(2),)], steps=30, lr=1e-3))
    print("steps", steps)
    """
)


@pytest.fixture(scope="module")
def kernel():
    manager, client = start_new_kernel()
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def outputs(kernel, **asked):
    """What a cell shows, in order: (type of message, text)."""
    seen = []

    def note(message):
        content = message["content"]
        if message["msg_type"] in {"stream", "display_data", "update_display_data", "error"}:
            text = content.get("text") or content.get("data", {}).get("text/plain", "") or content.get("evalue", "")
            seen.append((message["msg_type"], text))

    kernel.execute_interactive(TRAIN, output_hook=note, timeout=120, **asked)
    return seen


def test_a_reader_sees_steps_and_loss_and_then_nothing(kernel):
    seen = outputs(kernel, allow_stdin=True)
    bars = [text for kind, text in seen if kind in {"display_data", "update_display_data"}]
    assert [kind for kind, _ in seen].count("display_data") == 1  # one output, redrawn in place
    assert any("/30" in text for text in bars) and any("loss 0.9" in text for text in bars)
    assert bars[-1] == ""  # it vanishes
    assert [text for kind, text in seen if kind == "stream"] == ["steps 30\n"]


def test_nobody_looks_on_under_nbval_and_nbclient(kernel):
    assert outputs(kernel, allow_stdin=False) == [("stream", "steps 30\n")]


def test_a_script_without_a_terminal_prints_what_it_prints():
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("steps 30\n", "")


def test_a_terminal_has_a_bar_that_is_wiped():
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    os.set_blocking(reader, False)
    done = subprocess.run([sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, stderr=writer, text=True, check=True)
    shown = os.read(reader, 100_000).decode()
    os.close(writer)
    os.close(reader)
    assert done.stdout == "steps 30\n"
    assert "/30" in shown and "loss 0.9" in shown
    assert shown.rsplit("\r", 2)[-2].strip() == ""  # the last thing drawn is an empty line
