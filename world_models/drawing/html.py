"""Parts of the HTML pages: their style, a row of a table, a figure that the page holds in itself."""

import html

from world_models.drawing import grids

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
td { padding: .25rem .8rem; border-bottom: 1px solid #ddd }
td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% }
img.frames { image-rendering: pixelated }
figure { margin: 2rem 0 }
figcaption { color: #555; max-width: 48rem }
"""


def row(label: str, *values: str) -> str:
    """A row of a table: a label, and values as they are shown."""
    cells = "".join(f'<td class="number">{value}</td>' for value in values)
    return f"<tr><td>{html.escape(label)}</td>{cells}</tr>"


def figure(key: str, picture: grids.Picture | bytes, caption: str, is_chart: bool) -> str:
    """A figure that the page holds in itself; frames, unlike charts, are enlarged pixel by pixel."""
    if isinstance(picture, bytes):
        url = grids.data_url(picture, "image/gif")
    else:
        url = grids.data_url(grids.png(picture), "image/png")
    kind = "" if is_chart else ' class="frames"'
    return f'<figure><img{kind} src="{url}" alt="{key}"><figcaption>{caption}</figcaption></figure>'
