"""The old names of what stood in `gmbook.lab`: each import still works and warns. They go with the next release."""

import importlib
import sys
import warnings

MOVED = {
    "batches": "gmbook.data.batches",
    "checkpoint": "gmbook.train.checkpoint",
    "checks": "gmbook.notebook",
    "classifier": "gmbook.metrics.classifier",
    "data": "gmbook.data",
    "download": "gmbook.data.download",
    "efficientnet": "gmbook.metrics.efficientnet",
    "fid": "gmbook.metrics.fid",
    "grids": "gmbook.laws.pairs",
    "letters": "gmbook.laws.letters",
    "metrics": "gmbook.metrics",
    "optimizers": "gmbook.train.optimizers",
    "plan": "gmbook.train.plan",
    "plots": "gmbook.plots",
    "processes": "gmbook.train.processes",
    "toys": "gmbook.laws.plane",
    "training": "gmbook.train",
}

warnings.warn("gmbook.lab has moved: CHANGELOG.md says where each module is now", DeprecationWarning, stacklevel=2)
for _old, _new in MOVED.items():
    _module = importlib.import_module(_new)
    sys.modules[f"{__name__}.{_old}"] = _module
    globals()[_old] = _module
