"""Pictures drawn by matplotlib without touching its global state, in light and in dark."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHART_INCHES = (4.8, 3.5)  # text of 9 points then reads on a phone as in print
WIDE_INCHES = (9.8, 3.6)  # a chart that has its row for itself
DPI = 200
TEXT_POINTS = 9.0


class Theme(NamedTuple):
    """Colours of one picture; `first` and `second` keep apart for all kinds of colour blindness.

    Source of the pair: Okabe and Ito 2008. Line style, marker or hatch tell them apart as well.
    """

    paper: str
    ink: str
    faint: str
    first: str
    second: str


LIGHT = Theme("#ffffff", "#1b2129", "#c9d0d8", "#0072b2", "#d55e00")
DARK = Theme("#161b22", "#e4e9ef", "#3b444f", "#56b4e9", "#e69f00")

Draw = Callable[["Axes", Theme], None]


class Chart(NamedTuple):
    """One picture: its title, what it says in words, and what draws it."""

    title: str
    says: str
    draw: Draw
    inches: tuple[float, float] = CHART_INCHES

    @property
    def is_wide(self) -> bool:
        """Whether it wants a row for itself."""
        return self.inches[0] > CHART_INCHES[0]


def missing_library() -> str | None:
    """The name of the library without which no picture can be drawn; None when it is there."""
    try:
        import matplotlib.figure  # noqa: F401 (only whether it is there)
    except ModuleNotFoundError as error:
        return error.name
    return None


def png(chart: Chart, theme: Theme) -> bytes:
    """The chart alone, without its title."""
    figure = new_figure(chart.inches, theme)
    draw(chart, figure.add_subplot(), theme)
    return png_bytes(figure)


def new_figure(inches: tuple[float, float], theme: Theme) -> "Figure":
    """A figure that belongs to nobody else."""
    from matplotlib.figure import Figure

    return Figure(inches, dpi=DPI, facecolor=theme.paper, layout="constrained")


def draw(chart: Chart, axes: "Axes", theme: Theme) -> None:
    """The chart in the theme's colours."""
    axes.set_facecolor(theme.paper)
    chart.draw(axes, theme)
    style(axes, theme)


def style(axes: "Axes", theme: Theme) -> None:
    """Colours and sizes; set here, since rcParams belong to the whole process."""
    axes.set_facecolor(theme.paper)
    if axes.images:
        axes.grid(visible=False)  # it would run through the middle of what is shown
    else:
        axes.grid(color=theme.faint, lw=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.ink, labelsize=TEXT_POINTS, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.ink)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.ink, size=TEXT_POINTS)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=TEXT_POINTS - 0.5)


def png_bytes(figure: "Figure") -> bytes:
    """The same bytes for the same picture: no date and no version in them."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), metadata={"Software": None}
    )
    return buffer.getvalue()
