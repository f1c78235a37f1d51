"""pytest on chapters: nbval passes over what a check cell measured, whoever calls it."""

from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Give nbval the rules of nbval.cfg, unless the command line names others."""
    if config.pluginmanager.hasplugin("nbval"):
        rules = Path(__file__).with_name("nbval.cfg")
        config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(rules)
