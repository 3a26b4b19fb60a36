"""The dataset card of an export: README.md with a YAML header, as the Hugging Face Hub shows it."""

import json
from collections import Counter
from typing import TYPE_CHECKING

import yaml

from world_models.data.latents import Latents
from world_models.data.rollouts import Rollouts
from world_models.runtime.terminal import printable
from world_models.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
"""The Hub's names for numbers of lines, each ten times as large as the one before."""

MEANINGS = {
    "episode": "number of the episode in the data set",
    "step": "number of the frame in the episode, from 0",
    "is_final": "whether this is the episode's final frame, which has no action",
    "seed": "seed of the episode's environment",
    "policy": "name of the policy that drove",
    "reward": "reward of the action",
    "terminated": "whether the action terminated the episode",
    "truncated": "whether the action truncated the episode",
    "action": "action that was chosen after seeing this line's frame",
    "mu": "mean of the posterior q(z\\|x) of this line's frame",
    "logvar": "log variance of the same posterior",
    "frame": "frame, 64x64 RGB, as PNG",
}
TELEMETRY = "simulator state at this frame; the name holds the unit"

ALIGNMENT = """An episode of T steps has T + 1 lines. The line of step t < T holds the frame x_t, the action a_t that
was chosen after seeing x_t, and the reward and ends that a_t caused. The line of step T holds the final frame:
`is_final` is true, the action and the reward are zeros, both ends are false. A memory model learns
(x_t, a_t) -> x_{t+1}."""

READING = """```python
from datasets import load_dataset

data = load_dataset("parquet", data_files="data/*.parquet", split="train")
```

`pandas.read_parquet("data")`, `polars.read_parquet("data/*.parquet")` and DuckDB's
`SELECT * FROM 'data/*.parquet'` read the same files."""


def text(data: Rollouts | Latents, schema: "pa.Schema") -> str:
    """The card.

    Args:
        data: the data set that was exported.
        schema: names and types of the Parquet files' columns.
    """
    name = printable(data.path.name)
    what, facts = _of_rollouts(data) if isinstance(data, Rollouts) else _of_latents(data)
    policies = ", ".join(f"{printable(policy)} ({count:,})" for policy, count in sorted(Counter(data.policies).items()))
    facts = {
        "episodes": f"{len(data):,}",
        "lines": f"{data.num_rows:,}",
        **facts,
        "policies (episodes)": policies,
        "preprocess": f"`{json.dumps(data.preprocess)}`",
        "sha256 of the columns": f"`{data.digest()}`",
    }
    columns = [f"| `{printable(field.name)}` | {_kind(field)} | {_meaning(field.name)} |" for field in schema]
    parts = [
        f"---\n{_header(name, data.num_rows)}---",
        f"# {name}",
        f"{what} Written by world_models {__version__}.",
        "\n".join(["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in facts.items())]),
        "## Lines",
        ALIGNMENT,
        "\n".join(["| column | type | meaning |", "|---|---|---|", *columns]),
        "## Reading",
        READING,
    ]
    return "\n\n".join(parts) + "\n"


def _header(name: str, num_lines: int) -> str:
    files = [{"split": "train", "path": "data/*.parquet"}]
    size = next((size for power, size in enumerate(SIZES, 3) if num_lines < 10**power), "n>1B")
    return yaml.safe_dump(
        {
            "pretty_name": name,
            "tags": ["world-models", "reinforcement-learning"],
            "task_categories": ["reinforcement-learning"],
            "size_categories": [size],
            "configs": [{"config_name": "default", "data_files": files}],
        },
        sort_keys=False,
    )


def _of_rollouts(data: Rollouts) -> tuple[str, dict[str, str]]:
    return f"Rollouts of {printable(data.env)}: frames, actions, rewards, ends and telemetry.", {
        "environment": printable(data.env),
        "action space": f"`{json.dumps(data.action_space)}`",
    }


def _of_latents(data: Latents) -> tuple[str, dict[str, str]]:
    what = "Latents: mean and log variance of a VAE's posterior for each frame, with actions, rewards and ends."
    return what, {"z_dim": str(data.z_dim), "sha256 of the VAE's weights": f"`{printable(data.vae_sha256)}`"}


def _kind(field: "pa.Field") -> str:
    """The type of a column, in words."""
    import pyarrow as pa

    if isinstance(field.type, pa.FixedSizeListType):
        return f"{field.type.list_size} x float32"
    return "image" if pa.types.is_struct(field.type) else str(field.type).replace("float", "float32")


def _meaning(name: str) -> str:
    return MEANINGS.get(name, TELEMETRY)


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")
