"""The explorer's page: one HTML file with its style, its scripts and its arrays.

A browser runs no script and takes no style whose sha256 is not in the page's Content-Security-Policy, and it loads
nothing from elsewhere. So the names and texts of a run cannot do anything, and the page needs no network.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from world_models.explore.blobs import Blob
from world_models.runtime.typed_json import Json

HERE = Path(__file__).parent
SCRIPTS = (
    *("networks", "worker", "engine"),
    *("state", "draw", "stage", "sliders", "player", "plots", "episode", "scatter", "path", "map"),
    *("brushes", "paint", "directions", "compare", "digits", "app"),
)
"""The scripts in `js/`, in the order in which the page runs them."""


class Script(NamedTuple):
    """A script of the page: its name and its text."""

    name: str
    source: Markup


def render(contents: Mapping[str, Json], blobs: Mapping[str, Blob]) -> str:
    """Make the page.

    Args:
        contents: what the page shows; `title` is the page's title.
        blobs: the arrays that `contents` names.
    """
    style = _source("explorer.css")
    scripts = [Script(name, _source(f"js/{name}.js")) for name in SCRIPTS]
    heads: Json = {name: blob.head for name, blob in blobs.items()}
    return (
        _environment()
        .get_template("explorer.html")
        .render(
            title=contents["title"],
            contents=contents,
            csp=_policy(style, scripts),
            style=style,
            scripts=scripts,
            data=_data({**contents, "blobs": heads}, blobs),
        )
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _source(name: str) -> Markup:
    """The text of one of our files. It goes into the page as it is, so that its sha256 is that of the file."""
    text = (HERE / name).read_text(encoding="utf-8")
    assert "</s" not in text and "<!--" not in text, f"{name} would end its element in the page"
    return Markup(text)


def _policy(style: Markup, scripts: list[Script]) -> str:
    """The Content-Security-Policy: our scripts and our style, pictures that a script made, and nothing else."""
    allowed = " ".join(_hash(script.source) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data: blob:; worker-src blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(contents: Mapping[str, Json], blobs: Mapping[str, Blob]) -> Markup:
    """The contents and the arrays as elements that a browser does not run."""
    text = json.dumps(contents, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    elements = [f'<script type="application/json" id="explorer-contents">{text}</script>']
    elements += [
        f'<script type="application/octet-stream" id="blob-{name}">{blob.text}</script>' for name, blob in blobs.items()
    ]
    return Markup("\n".join(elements))
