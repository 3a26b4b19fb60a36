"""HTML pages from the templates in `templates/`. A page is one file that contains its style and its pictures."""

import functools

import jinja2

from world_models.drawing import grids


def render(template: str, **values: object) -> str:
    """Make a page from a template. Text in the values is escaped.

    Args:
        template: name of a file in `templates/`.
        values: values for the template; in it, `scores.sse` reads a key of a mapping or a field of a dataclass.

    Raises:
        jinja2.UndefinedError: the template uses a name that does not exist.
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
    """A number as text, with commas between thousands; a float has `digits` decimals, an integer has none."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def percent(share: float | int, digits: int = 0) -> str:
    """A share between 0 and 1 as text, in percent."""
    return f"{share:.{digits}%}"


def picture_url(picture: grids.Picture | bytes) -> str:
    """A data URL of the picture: a PNG for an array, a GIF for bytes."""
    if isinstance(picture, bytes):
        return grids.data_url(picture, "image/gif")
    return grids.data_url(grids.png(picture), "image/png")
