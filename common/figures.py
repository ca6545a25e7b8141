"""How every figure of this package looks, and how it is written: whole or not at all.

* Only matplotlib's object interface: no pyplot, so no global figure, no display, and threads do not meet.
* Colours are Okabe and Ito's, told apart by colour-blind readers too.
"""

import base64
from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .files import replace_file

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#8C8C8C", "#222222"
GREEN, PURPLE = "#009E73", "#CC79A7"


def new_figure(
    title: str = "", subtitle: str = "", *, rows: int = 1, height: float = 4.8, width: float = 9.0
) -> tuple[Figure, list[Axes]]:
    """`rows` axes under one another; sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    all_axes = list(figure.subplots(rows, 1, squeeze=False)[:, 0])
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=BLACK, labelsize=9)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=BLACK)
    if subtitle:
        all_axes[0].set_title(subtitle, loc="left", fontsize=9, color="#555555", pad=10)
    return figure, all_axes


def save_figure(figure: Figure, path: str | Path) -> Path:
    replace_file(path, lambda unfinished: figure.savefig(unfinished, format="png"))
    return Path(path)


def embedded(figure: Figure) -> str:
    """The picture itself as the address of an image, for a page that lies alone."""
    target = BytesIO()
    figure.savefig(target, format="png")
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def drawn(figure: Figure) -> str:
    """As `embedded`, but as lines and letters: sharp at any size, without paper, and the same bytes every time."""
    target = BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tsf-llm"}):
        figure.savefig(target, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(target.getvalue()).decode("ascii")
