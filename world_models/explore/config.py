"""The settings of an explorer's page."""

import dataclasses
from pathlib import Path

from world_models.runs import layout, tracking
from world_models.runtime.distributed import Device
from world_models.runtime.errors import require, require_bounds
from world_models.runtime.paths import LINK, PATH, resolve_fields

MAX_MODELS = 4


@dataclasses.dataclass(frozen=True)
class ExploreConfig:
    """What the page shows, and where it goes.

    Attributes:
        vae: folder of a train_vae run; its model is on the sliders.
        data: folder of rollouts whose episodes are shown; null takes rollouts/heldout. For a model of digits, the
            folder of MNIST; null takes the folder that was used in training.
        out: the page, a name that ends with .html.
        compare_with: folders of up to three other runs whose models are shown next to the first one.
        weights: best (lowest validation loss) or last.
        episodes: numbers of the episodes to show, the first one is 0; [] takes the first two that no model was trained
            on.
        max_frames: largest number of frames of an episode that are shown, from its beginning; of digits, the number of
            test images.
        device: auto takes a GPU if there is one.
        wandb: Weights & Biases, off by default; logs the page as a separate run.
    """

    vae: str = dataclasses.field(default="runs/vae", metadata=LINK)
    data: str | None = dataclasses.field(default=None, metadata=PATH)
    out: str = dataclasses.field(default="explorer.html", metadata=PATH)
    compare_with: tuple[str, ...] = dataclasses.field(default=(), metadata=LINK)
    weights: layout.Weights = "best"
    episodes: tuple[int, ...] = ()
    max_frames: int = 1001
    device: Device = "auto"
    wandb: tracking.WandbConfig = dataclasses.field(default_factory=lambda: tracking.WandbConfig("disabled"))

    def __post_init__(self):
        resolve_fields(self)
        require(Path(self.out).suffix == ".html", f"out is {self.out}; give a name that ends with .html")
        require(
            len(self.compare_with) < MAX_MODELS,
            f"compare_with names {len(self.compare_with)} runs; give {MAX_MODELS - 1} at most",
        )
        twice = next((each for each in self.episodes if self.episodes.count(each) > 1), None)
        require(twice is None, f"episodes names {twice} twice; name each episode once")
        require(all(each >= 0 for each in self.episodes), f"episodes is {list(self.episodes)}; give 0 or more")
        require_bounds(self, max_frames=(2, 10_000))
