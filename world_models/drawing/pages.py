"""HTML pages from the templates in `templates/`: each is one file that holds its style and its pictures in itself."""

import functools

import jinja2

from world_models.drawing import grids


def render(template: str, **values: object) -> str:
    """The page that a template makes of the values; what is text in them is escaped.

    Args:
        template: name of a file in `templates/`.
        values: what the template names; `scores.sse` reads a key of a mapping or a field of a dataclass.

    Raises:
        jinja2.UndefinedError: the template names what is not there.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("world_models.drawing"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "percent": percent, "grid": grids.grid, "picture_url": picture_url}
    return environment


def number(value: float | int, digits: int = 2) -> str:
    """A number with commas between thousands; a float has so many digits behind the point, a count has none."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(share: float | int, digits: int = 0) -> str:
    """A share of 1 in percent."""
    return f"{share:.{digits}%}"


def picture_url(picture: grids.Picture | bytes) -> str:
    """A URL that holds the picture itself, as a PNG; bytes are those of a GIF."""
    if isinstance(picture, bytes):
        return grids.data_url(picture, "image/gif")
    return grids.data_url(grids.png(picture), "image/png")
