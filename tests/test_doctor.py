"""The doctor sees what is there, and what is not."""

from __future__ import annotations

import torch

from gmbook import doctor


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


def test_data_sets_are_looked_for_where_gmbook_data_points(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "data_folders", lambda: [tmp_path])
    assert not doctor.dataset("text8").ok and not doctor.dataset("text8").required
    (tmp_path / "text8").mkdir()
    (tmp_path / "text8" / "text8").write_text(" anarchism")
    assert doctor.dataset("text8").ok


def test_the_named_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("GMBOOK_DATA", str(tmp_path))
    first, second = doctor.data_folders()
    assert first == tmp_path and second.parts[-2:] == ("data", "cache")
    monkeypatch.delenv("GMBOOK_DATA")
    assert doctor.data_folders() == [second]


def test_a_missing_package_says_what_to_do():
    finding = doctor.package("no-such-package", "for nothing")
    assert not finding.ok and "make setup" in finding.line
