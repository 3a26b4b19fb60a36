"""The settings of an evaluation."""

import dataclasses

from world_models.runs import layout, tracking
from world_models.runtime.distributed import Device
from world_models.runtime.errors import require_bounds
from world_models.runtime.paths import LINK, PATH, one_or_several, resolve_fields


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to score, and on what.

    Attributes:
        data: folder of rollouts that the model was not trained on; null takes rollouts/heldout. Several data sets as
            '[a,b]' are scored together, and each by itself. For a model of digits, the folder of MNIST; null takes the
            folder that was used in training.
        vae: folder of a train_vae run; the results go there.
        weights: best (lowest validation loss) or last.
        train_data: rollouts on which probes and the memory model are fitted, and with which dreams are compared, or
            several data sets of them; null takes the run's training data.
        compare_with: folders of other runs to show in the rate-distortion chart; for digits, in the chart over beta,
            and with samples of the same z.
        foresight: also train the paper's memory model on the latents, in two forms, and score its predictions as
            frames; takes four to five minutes on two cores.
        drive: also train five linear controllers on mu, and let the mean of their weights drive 100 tracks of
            CarRacing; takes four minutes on two cores.
        drive_seed: seed of the tracks on which the controllers are trained.
        max_frames: largest number of frames that are scored, evenly spread; of digits all are scored.
        num_iwae_frames: number of frames for the importance-weighted bounds.
        device: auto takes a GPU if there is one.
        wandb: Weights & Biases, off by default; logs the scores and figures as a separate run.
    """

    data: tuple[str, ...] | str | None = dataclasses.field(default=None, metadata=PATH)
    vae: str = dataclasses.field(default="runs/vae", metadata=PATH)
    weights: layout.Weights = "best"
    train_data: tuple[str, ...] | str | None = dataclasses.field(default=None, metadata=PATH)
    compare_with: tuple[str, ...] = dataclasses.field(default=(), metadata=LINK)
    foresight: bool = False
    drive: bool = False
    drive_seed: int = 0
    max_frames: int = 20_000
    num_iwae_frames: int = 1000
    device: Device = "auto"
    wandb: tracking.WandbConfig = dataclasses.field(default_factory=lambda: tracking.WandbConfig("disabled"))

    def __post_init__(self):
        resolve_fields(self)
        for name in ("data", "train_data"):
            if (paths := getattr(self, name)) is not None:
                object.__setattr__(self, name, one_or_several(paths, name))
        require_bounds(
            self, drive_seed=(0, 1_000_000), max_frames=(2, 1_000_000_000), num_iwae_frames=(1, 1_000_000_000)
        )
