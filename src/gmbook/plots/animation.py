"""Animations without a kernel and without a network: frames as PNG, a slider and a button, in plain HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from PIL import Image, ImageChops

from gmbook.plots.style import PAPER, RC, Picture, compressed

DETAIL = 130  # dots per inch at which frames are drawn, once
# Dots per inch and colours, best first.
TIERS = ((130, 64), (130, 32), (110, 32), (95, 32), (80, 32), (70, 24))

STYLE = (
    ".gm-frames{margin:0;max-width:720px;background:#FCFCFC;color:#1A1A1A;padding:6px;border-radius:4px}"
    ".gm-frames img{max-width:100%;display:block;margin:0 auto}"
    ".gm-frames img[hidden]{display:none}"
    ".gm-frames .gm-bar{display:flex;gap:8px;align-items:center;font:14px sans-serif}"
    ".gm-frames input{flex:1;min-width:0}"
    ".gm-frames button{width:4.5em;font:inherit}"
    ".gm-frames output{min-width:6em;text-align:right;font-variant-numeric:tabular-nums}"
    "@media print{.gm-frames .gm-bar{display:none}"
    ".gm-frames img,.gm-frames img[hidden]{display:inline-block!important;width:24%}}"
)
# Inline handlers need no identifiers, so that any number of animations live on one page.
SHOW = (
    "const f=this.closest('.gm-frames'),m=f.querySelectorAll('img'),i=+this.value;"
    "m.forEach((e,k)=>e.hidden=k!==i);f.querySelector('output').textContent=m[i].dataset.label;"
    "this.setAttribute('aria-valuetext',m[i].dataset.label)"
)
PLAY = (
    "const b=this,s=b.parentNode.querySelector('input');"
    "const stop=()=>{clearInterval(b.timer);b.timer=0;b.textContent='Play'};"
    "const go=v=>{s.value=v;s.dispatchEvent(new Event('input'))};"
    "if(b.timer){stop()}else{if(+s.value>=+s.max)go(0);b.textContent='Pause';"
    "b.timer=setInterval(()=>{if(!b.isConnected||+s.value>=+s.max){stop()}else go(+s.value+1)},INTERVAL)}"
)


class Animation:
    """Frames with a slider and a play button: `animate` makes it; a notebook and a static page show it.

    Attributes:
        frames: the PNG files, one palette for all of them.
        labels: what the slider says at each frame.
        description: one sentence for those who cannot see it.
        width: of a frame on the page, in CSS pixels, whatever its resolution.
        interval: milliseconds per frame.
    """

    def __init__(
        self,
        frames: Sequence[bytes],
        labels: Sequence[str],
        description: str,
        width: int,
        interval: int = 200,
    ):
        self.frames, self.labels, self.description = list(frames), list(labels), description
        self.width, self.interval = width, interval

    def _repr_html_(self) -> str:
        """Self-contained HTML. The slider obeys the arrow keys; print shows all frames as a contact sheet."""
        last, described = len(self.frames) - 1, html.escape(self.description, quote=True)
        images = []
        for i, (frame, label) in enumerate(zip(self.frames, self.labels)):
            text, data = html.escape(label, quote=True), base64.b64encode(frame).decode()
            images.append(
                f'<img src="data:image/png;base64,{data}" alt="{described} {text}" data-label="{text}" '
                f'width="{self.width}"{"" if i == last else " hidden"}>'
            )
        label = html.escape(self.labels[-1], quote=True)
        bar = (
            f'<div class="gm-bar"><button type="button" aria-label="Play or pause" '
            f'onclick="{PLAY.replace("INTERVAL", str(self.interval))}">Play</button>'
            f'<input type="range" min="0" max="{last}" value="{last}" step="1" aria-label="frame" '
            f'aria-valuetext="{label}" oninput="{SHOW}"><output>{label}</output></div>'
        )
        return (
            f'<figure class="gm-frames" role="group" aria-label="{described}"><style>{STYLE}</style>'
            f"{''.join(images)}{bar}</figure>"
        )

    def contact_sheet(self, most: int = 8) -> bytes:
        """At most `most` frames, evenly chosen with the first and the last, on one PNG in rows of four; frames that
        are wide and low, such as lines of text, one below the other."""
        count = min(most, len(self.frames))
        chosen = [round(i * (len(self.frames) - 1) / max(count - 1, 1)) for i in range(count)]
        images = [Image.open(io.BytesIO(self.frames[i])).convert("RGB") for i in chosen]
        width, height = images[0].size
        columns = 1 if width > 4 * height else min(4, count)
        sheet = Image.new("RGB", (columns * width, -(-count // columns) * height), PAPER)
        for i, image in enumerate(images):
            sheet.paste(image, ((i % columns) * width, (i // columns) * height))
        return compressed(sheet, 64)

    def _repr_png_(self) -> bytes:
        return self.contact_sheet()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        sheet = base64.b64encode(self.contact_sheet()).decode()
        return {"text/html": self._repr_html_(), "image/png": sheet, "text/plain": self.description}


def animate(
    pictures: Iterable[Picture],
    times: Iterable[float],
    *,
    label: str = "t",
    description: str = "",
    budget: int = 150_000,
    interval: int = 200,
) -> Animation:
    """Figures as the frames of an animation: animate((plots.samples([x], law) for x in states), times).

    Resolution and number of colours go down together until all frames fit into the budget.

    Args:
        pictures: one figure per time, all of one size: at most 30.
        times: what the slider says, as "label = 0.50".
        description: by default that of the first figure.
        budget: bytes of all PNG files together.
        interval: milliseconds per frame while it plays.

    Raises:
        ValueError: no figure or more than 30, not as many times as figures, different sizes, or the frames
            do not fit into the budget.
    """
    drawn, labels = list(pictures), [f"{label} = {time:.2f}" for time in times]
    if not 1 <= len(drawn) <= 30:
        raise ValueError(f"an animation has 1 to 30 frames, got {len(drawn)}: take every k-th")
    if len(drawn) != len(labels):
        raise ValueError(f"need one time per figure: {len(drawn)} figures, {len(labels)} times")
    images = trimmed([render(picture) for picture in drawn])
    width = images[0].width * 100 // DETAIL
    probe = images[:: max(len(images) // 4, 1)]  # a few frames tell which tiers are worth all of them
    for dpi, colours in TIERS:
        if sum(map(len, quantised(probe, dpi, colours))) * len(images) / len(probe) > 1.1 * budget:
            continue
        frames = quantised(images, dpi, colours)
        if sum(map(len, frames)) <= budget:
            return Animation(frames, labels, description or drawn[0].description, width, interval)
    size = sum(map(len, quantised(images, *TIERS[-1])))
    raise ValueError(f"{len(drawn)} frames need {size:,} bytes, more than {budget:,}: draw fewer points or frames")


def render(picture: Picture) -> Image.Image:
    """The whole page of a figure at DETAIL dots per inch, uncropped, so that all frames have one geometry."""
    stream = io.BytesIO()
    with matplotlib.rc_context(RC):
        picture.savefig(stream, format="png", dpi=DETAIL)
    return Image.open(stream).convert("RGB")


def trimmed(images: Sequence[Image.Image]) -> list[Image.Image]:
    """The images without the margins that all of them share.

    Raises:
        ValueError: the images differ in size.
    """
    if len({image.size for image in images}) > 1:
        raise ValueError("figures of one animation must have one size: give them equally many panels")
    paper = Image.new("RGB", images[0].size, PAPER)
    boxes = [ImageChops.difference(image, paper).getbbox() or (0, 0, *image.size) for image in images]
    left, top, right, bottom = zip(*boxes)
    low = max(min(left) - 6, 0), max(min(top) - 6, 0)
    high = min(max(right) + 6, paper.width), min(max(bottom) + 6, paper.height)
    return [image.crop((*low, *high)) for image in images]


def quantised(images: Sequence[Image.Image], dpi: int, colours: int) -> list[bytes]:
    """The images, drawn at DETAIL, as PNG at `dpi` with one palette for all, so that nothing flickers."""
    width, height = (side * dpi // DETAIL for side in images[0].size)
    strip = Image.new("RGB", (width, height * len(images)))
    for i, image in enumerate(images):
        strip.paste(image.resize((width, height), Image.Resampling.LANCZOS), (0, i * height))
    # An octree keeps the hues of few pixels (points), where a median cut favours the background.
    strip = strip.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    frames = [strip.crop((0, i * height, width, (i + 1) * height)) for i in range(len(images))]
    return [compressed(frame, None) for frame in frames]
