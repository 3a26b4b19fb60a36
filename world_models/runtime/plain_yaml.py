"""Reads YAML for settings. A name may occur only once. None is null too, because W&B's agents write it so."""

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
"""Numbers as in YAML 1.2, which accepts 1e-4."""


class _Loader(yaml.SafeLoader):
    """Refuses a name that occurs twice. PyYAML would silently take the later value."""

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
                    raise yaml.YAMLError(f"{name.value} occurs twice, again in line {line}; keep one of them")
                seen.add(name.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^None$"), ["N"])


def load(text: str) -> Any:
    """Read a YAML text.

    Raises:
        ValueError: it is not YAML, has a name twice, or has something that `untrusted.check_yaml` refuses.
    """
    try:
        untrusted.check_yaml(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"not YAML ({line}{error.problem}); write lines of name: value") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"not YAML ({error.reason} at {error.position}); write lines of name: value") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except ValueError as error:  # for example a number with more digits than Python allows
        raise ValueError(f"not YAML ({error}); write lines of name: value") from None
    except RecursionError:
        raise ValueError("nested too deeply for settings; write lines of name: value") from None
