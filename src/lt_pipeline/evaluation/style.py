"""The style that all figures share, and how words from users get into them.

The colours are Okabe and Ito's, which people with any kind of colour blindness can tell apart; shot groups differ by marker as well. Text from
users is escaped, because plotly reads a subset of HTML.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = {"all": "#7A7F87", "many": "#0072B2", "medium": "#009E73", "few": "#D55E00"}
SYMBOLS = {"all": "square", "many": "circle", "medium": "diamond", "few": "triangle-up"}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7F87")
SOFT = "rgba(122,127,135,0.35)"
_INK, _GRID = "#23272F", "#E3E6EB"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"


def styled(title: str, figure: go.Figure | None = None) -> go.Figure:
    """Return ``figure``, a new one by default, with the title and in the style that all figures share."""
    import plotly.graph_objects as go

    figure = go.Figure() if figure is None else figure
    axis = {"gridcolor": _GRID, "linecolor": _GRID, "zeroline": False, "automargin": True, "title": {"standoff": 8, "font": {"size": 13}}}
    figure.update_layout(
        template="none",
        title={"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 18}},
        font={"family": _FONT, "size": 13, "color": _INK},
        paper_bgcolor="white",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 16, "t": 56, "b": 48},
        height=380,
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "itemsizing": "constant"},
        hoverlabel={"font": {"family": _FONT, "size": 13}},
        modebar={"bgcolor": "rgba(0,0,0,0)"},
    )
    figure.update_xaxes(**axis, showgrid=False, showline=True, ticks="outside", tickcolor=_GRID)
    figure.update_yaxes(**axis, showgrid=True)
    return figure


def captioned(figure: go.Figure, caption: str) -> go.Figure:
    """Return the figure with a sentence on how to read it."""
    return figure.update_layout(meta={"caption": caption})


def escaped(names: pd.Series) -> list[str]:
    """Return words from users as plotly may show them."""
    return [html.escape(str(name)) for name in names]


def shortened(name: object, length: int = 22) -> str:
    """Return a word from a user, escaped, at most ``length`` letters of it."""
    text = str(name)
    return html.escape(text if len(text) <= length else text[: length - 1] + "…")
