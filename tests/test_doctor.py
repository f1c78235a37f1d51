"""The doctor sees what is there, and what is not."""

from __future__ import annotations

import torch

from gmbook import cli, doctor
from gmbook.data import download
from gmbook.train import device as train_device


def test_this_environment_is_well(capsys):
    """Flows and Jacobian oracles stand on batched LU: a machine where it is wrong must not pass."""
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("[ok] ", "[missing] ")) for line in lines)
    assert any(line.startswith("[ok] determinants") for line in lines)
    for name in ("Python", "torch", "threads", "jupyterlab", "jupytext", "mnist", "cifar10", "text8", "GB free"):
        assert any(name in line for line in lines), name


def test_wrong_determinants_are_seen(monkeypatch, capsys):
    class Wrong:
        logabsdet = torch.zeros(4, dtype=torch.float64)

    monkeypatch.setattr(torch.linalg, "slogdet", lambda matrices: Wrong())
    assert doctor.main() == 1
    assert "[missing] determinants" in capsys.readouterr().out


def test_the_doctor_and_gmbook_data_agree_where_data_lie_and_what_is_wrong(nowhere, capsys):
    """A set with one file missing is not [ok], nor is another set under its file names; each says which file."""
    absent = doctor.dataset("text8")
    assert not absent.ok and not absent.required and "gmbook data text8" in absent.line
    for home in (nowhere, nowhere.with_name("cache")):
        folder = home / "text8"
        folder.mkdir(parents=True)
        (folder / "text8").write_bytes(b" anarchism originated as a term of abuse" * 100)
        assert doctor.dataset("text8") == (True, f"text8: found in {home}", False)
        (folder / "text8").unlink()
    (nowhere / "mnist").mkdir()
    files = [nowhere / file for file in download.entry("mnist").files]
    for file in files[:3]:
        file.write_bytes(b"another set")
    incomplete = doctor.dataset("mnist")
    assert not incomplete.ok and f"mnist/{files[3].name} is missing in {nowhere}" in incomplete.line
    files[3].write_bytes(b"another set")
    other = doctor.dataset("mnist")
    assert not other.ok and f"{files[0]} is damaged or belongs to another set" in other.line
    assert cli.main(["data"]) == 0
    listed = capsys.readouterr().out
    for name in doctor.DATASETS:
        assert download.look(name)[1] in listed and download.look(name)[1] in doctor.dataset(name).line


def test_apples_gpu_is_not_used_and_the_doctor_says_so(monkeypatch):
    """It has no float64. Where a run computes and what the doctor says of it are one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert train_device.device() == torch.device("cpu")
    finding = doctor.device()
    assert finding.ok and "on CPU: Apple's GPU is not used" in finding.line and "float64" in finding.line
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some Card")
    assert train_device.device() == torch.device("cuda") and "on GPU Some Card" in doctor.device().line


def test_a_missing_package_says_what_to_do():
    finding = doctor.package("no-such-package", "for nothing")
    assert not finding.ok and "make setup" in finding.line
