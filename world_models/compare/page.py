"""The page of several runs: a self-contained HTML file with their numbers, curves, and the same frames side by side."""

import html
from collections.abc import Sequence

from world_models.compare import table as comparison
from world_models.compare.frames import FrameRows
from world_models.drawing import grids
from world_models.drawing import html as page_parts
from world_models.runs.records import RunRecord

STYLE = """
body { max-width: 80rem }
.wide { overflow-x: auto }
th { text-align: left; font-weight: 600; padding: .25rem .8rem; border-bottom: 1px solid #ddd; vertical-align: top }
td { vertical-align: top }
table.numbers td, table.numbers th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
table.numbers td:first-child, table.numbers th:first-child { text-align: left }
table.frames th { vertical-align: middle; max-width: 14rem; overflow-wrap: anywhere }
table.frames td { padding: 0 }
table.origin td { overflow-wrap: anywhere }
.warning { border-left: .3rem solid #c60; padding: .5rem 1rem; background: #fff6ec }
h3 { overflow-wrap: anywhere }
"""


CURVES = (
    "Over the frames seen in training. Top right: what each run spends in nats against what it errs, by evaluate, or, "
    "hollow, by its last validation; left and low is better. Dashed: PCA with so many components."
)


def page(runs: Sequence[RunRecord], curves: grids.Picture, frames: FrameRows | None, notes: Sequence[str] = ()) -> str:
    """The comparison as HTML; `notes` says what is left out."""
    title = f"{len(runs)} runs side by side" if len(runs) > 1 else f"The run {runs[0].name}"
    warnings = [f'<p class="warning">Careful: {html.escape(line)}</p>' for line in comparison.conflicts(runs)]
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{page_parts.STYLE}{STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
        "<p>By rising squared error of the best validation, summed over a frame's values in [0, 1].</p>",
        *warnings,
        _table("numbers", comparison.table(runs)),
        f"<p>{_meanings(runs)}.</p>",
        _list(notes),
        "<h2>Curves</h2>",
        f'<figure><img src="{_url(curves)}" alt="curves"><figcaption>{CURVES}</figcaption></figure>',
        *_frames(frames),
        "<h2>Settings that differ</h2>",
        _settings(runs),
        "<h2>Where the runs come from</h2>",
        *map(_origin, runs),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _list(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _meanings(runs: Sequence[RunRecord]) -> str:
    columns = comparison.known_columns(runs)
    return "; ".join(f"<b>{html.escape(column.head)}</b>: {html.escape(column.meaning)}" for column in columns)


def _url(picture: grids.Picture) -> str:
    return grids.data_url(grids.png(picture), "image/png")


def _table(kind: str, rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body)
    return (
        f'<div class="wide"><table class="{kind}"><tr>{heads}</tr>'
        f"{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"
    )


def _settings(runs: Sequence[RunRecord]) -> str:
    rows = comparison.differences(runs)
    if not rows:
        return "<p>None: the settings are the same.</p>"
    return _table("settings", [["", *(run.name for run in runs)], *rows])


def _frames(frames: FrameRows | None) -> list[str]:
    if frames is None:
        return []
    rows = {"held-out frames": frames.originals, **frames.reconstructions}
    lines = [
        f"<tr><th>{html.escape(name)}</th>"
        f'<td><img class="frames" src="{_url(grids.grid([row]))}" alt="frames"></td></tr>'
        for name, row in rows.items()
    ]
    return [
        "<h2>The same frames</h2>",
        f"<p>Frames of {html.escape(frames.data)} that no run shown here was trained on, and what each run makes of "
        "them from z = mu.</p>",
        f'<div class="wide"><table class="frames">{"".join(lines)}</table></div>',
    ]


def _origin(run: RunRecord) -> str:
    facts = comparison.provenance(run)
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    return f'<h3>{html.escape(run.name)}</h3><table class="origin">{rows}</table>'
