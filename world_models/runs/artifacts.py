"""W&B artifacts show which data set, model and latents were made from which.

An artifact holds one small file with the digest of the contents. Nothing larger is uploaded. So equal data on two
machines are the same version of an artifact. W&B shows which run made it and which runs read it.
"""

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from world_models.runtime.typed_json import Json

DIGEST_OF = {"dataset": "data_digest", "model": "vae_sha256", "latents": "latents_digest"}


@dataclasses.dataclass(frozen=True)
class Product:
    """A data set, a model or latents on disk, which a stage reads or makes.

    Attributes:
        kind: which of the three it is.
        path: its folder.
        digest: digest of its contents.
        facts: further metadata.
        parts: the data sets that it is made of, if there are several. Each of them is an artifact then.
    """

    kind: Literal["dataset", "model", "latents"]
    path: str
    digest: str
    facts: Mapping[str, Json] = dataclasses.field(default_factory=dict)
    parts: "Sequence[Product]" = ()

    @property
    def hashes(self) -> dict[str, str]:
        """The digest, by its name in model.json and latents.json."""
        return {DIGEST_OF[self.kind]: self.digest}

    def artifact(self) -> Any:
        """The W&B artifact, not yet logged."""
        import wandb

        name = re.sub(r"[^\w.-]", "_", Path(self.path).resolve().name, flags=re.ASCII)
        artifact = wandb.Artifact(f"{name}-{self.kind}", self.kind, metadata={"path": self.path, **self.facts})
        with artifact.new_file("digest.txt") as file:
            file.write(self.digest)
        return artifact


def declare(
    run: Any, product: Product, verb: Literal["use_artifact", "log_artifact"], say: Callable[[str], None]
) -> threading.Thread:
    """Record that a W&B run reads or makes a product: put the digest into its config, and declare an artifact online.

    Args:
        run: the W&B run.
        product: the product that it reads or makes.
        verb: `use_artifact` if it reads the product, `log_artifact` if it makes it.
        say: called with one line if it fails.

    Returns:
        The thread that declares the artifact. W&B may wait for its server without a limit, and metrics must not wait.
    """
    run.config.update(product.hashes, allow_val_change=True)

    def send() -> None:
        try:
            if not run.offline:  # W&B refuses use_artifact offline
                for each in product.parts or [product]:
                    getattr(run, verb)(each.artifact())
        except Exception as error:
            say(f"{product.path} could not be declared as an artifact ({' '.join(str(error).split())}).")

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread
