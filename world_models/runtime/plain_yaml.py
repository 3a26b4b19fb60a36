"""YAML as settings are written in: each name once, and null also as None, as W&B's agents write it."""

import re
from typing import Any, ClassVar

import yaml

from world_models.runtime import untrusted

FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
"""As in YAML 1.2, which also takes 1e-4."""


class _Loader(yaml.SafeLoader):
    """Refuses a name that stands twice, of which the later one would win in silence."""

    yaml_implicit_resolvers: ClassVar = {
        letter: [(tag, pattern) for tag, pattern in known if not tag.endswith((":float", ":timestamp"))]
        for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in seen:
                    line = name.start_mark.line + 1
                    raise yaml.YAMLError(f"{name.value} stands there twice, again in line {line}; keep one of them")
                seen.add(name.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


def load(text: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        ValueError: it is no YAML, or says something twice.
    """
    try:
        untrusted.check_yaml(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"no YAML ({line}{error.problem}); write lines of name: value") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"no YAML ({error.reason} at {error.position}); write lines of name: value") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except ValueError as error:  # such as a number of more digits than Python takes
        raise ValueError(f"no YAML ({error}); write lines of name: value") from None
    except RecursionError:
        raise ValueError("no settings, since it is nested too deeply; write lines of name: value") from None
