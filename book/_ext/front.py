"""The moving picture of the front page: noise becomes a pinwheel along the exact probability flow.

Nothing is trained: the law is a mixture of Gaussians, so its velocity field is known, and the grey behind the points is
the exact density at that time. The frames are drawn once and kept until the code that draws them changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from book._ext import Drawn
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DRAWN_BY = ("book/_ext/front.py", "src/gmbook/laws/plane.py", "src/gmbook/plots/*.py", "src/gmbook/core/**/*.py")
WORDS = "Points that begin as a round cloud of noise flow into the five curved arms of a pinwheel."


def moving_picture(cache: Path, root: Path = ROOT) -> str:
    """The animation as HTML, from the cache if nothing that draws it has changed."""
    files = sorted(path for pattern in DRAWN_BY for path in root.glob(pattern))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    kept = cache / f"front-{key}.html"
    if not kept.exists():
        for old in cache.glob("front-*.html"):
            old.unlink()
        cache.mkdir(parents=True, exist_ok=True)
        kept.write_text(draw(), encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def draw(frames: int = 20, points: int = 700) -> str:
    """Twenty moments between noise and data, as an animation in HTML that stands alone."""
    import torch

    from gmbook import plots
    from gmbook.core.denoiser import ideal
    from gmbook.core.paths import LinearPath
    from gmbook.core.solvers import rk4
    from gmbook.laws import plane

    torch.manual_seed(0)
    law, path = plane.pinwheel(), LinearPath()
    truth = ideal(law, path)
    times = torch.linspace(0.995, 0.005, frames)
    start = torch.randn(points, 2)
    states = [start, *rk4(lambda x, t: truth.predict("velocity", x, t), start, times)]
    pictures = (
        plots.samples([x], [law.diffused(path.alpha(t), path.sigma(t))], limits=(-3.5, 3.5))
        for x, t in zip(states, times)
    )
    return plots.animate(pictures, times.tolist(), description=WORDS, interval=120)._repr_html_()


class MovingPicture(Drawn):
    """`{moving-picture}`."""

    def html(self) -> str:
        """The animation."""
        return moving_picture(ROOT / "book" / "_build").replace("\n", " ")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive."""
    app.add_directive("moving-picture", MovingPicture)
    return {"parallel_read_safe": True}
