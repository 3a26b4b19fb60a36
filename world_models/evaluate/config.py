"""The settings of an evaluation."""

import dataclasses

from world_models.runs import layout, tracking
from world_models.runtime.distributed import Device
from world_models.runtime.errors import require_bounds
from world_models.runtime.paths import LINK, PATH, resolve_fields


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to score, and on what.

    Attributes:
        data: folder of rollouts the model was not trained on, rollouts/heldout when null; of a model of digits the
            folder of MNIST, where it was in training when null.
        vae: folder of a train_vae run; the results go there.
        weights: best (lowest validation loss) or last.
        train_data: rollouts that probes and the memory model are fitted on and dreams judged by; those the run was
            trained on when null.
        compare_with: folders of other runs, drawn beside this one in the rate-distortion plane; of digits, by beta and
            with samples of the same z.
        foresight: train the paper's memory model on the latents too, in two forms, and score in frames what it
            foresees; takes about six minutes on two cores.
        drive: have a linear controller learn on mu too, and drive 100 tracks of CarRacing; takes about
            three minutes on two cores.
        drive_seed: of the tracks that it practises on.
        max_frames: frames scored at most, spread evenly; of digits all.
        num_iwae_frames: frames of which the importance-weighted bounds are taken.
        device: auto takes a GPU if there is one.
        wandb: Weights & Biases, off unless asked for: the scores and figures, as a run of their own.
    """

    data: str | None = dataclasses.field(default=None, metadata=PATH)
    vae: str = dataclasses.field(default="runs/vae", metadata=PATH)
    weights: layout.Weights = "best"
    train_data: str | None = dataclasses.field(default=None, metadata=PATH)
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
        require_bounds(
            self, drive_seed=(0, 1_000_000), max_frames=(2, 1_000_000_000), num_iwae_frames=(1, 1_000_000_000)
        )
