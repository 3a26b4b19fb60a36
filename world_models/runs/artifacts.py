"""Which data set, model and latents were made from which: W&B artifacts, named by their contents.

An artifact holds one small file, the digest; nothing larger is ever uploaded. Equal data is one version of it, on
whichever machine it lies, and W&B draws which run read it and which run made it.
"""

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from world_models.runtime.typed_json import Json

DIGEST_OF = {"dataset": "data_digest", "model": "vae_sha256", "latents": "latents_digest"}


@dataclasses.dataclass(frozen=True)
class Product:
    """Something on disk that a stage reads or makes.

    Attributes:
        kind: what it is.
        path: where it lies.
        digest: names its contents.
        facts: what else to say of it.
    """

    kind: Literal["dataset", "model", "latents"]
    path: str
    digest: str
    facts: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """The digest, under its name in model.json and latents.json."""
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
    """Tell a W&B run what it reads or makes: the hash in its config, and online an artifact.

    Args:
        run: the W&B run.
        product: what it reads or makes.
        verb: which of the two.
        say: what to do with a line about a failure.

    Returns:
        the thread that declares the artifact: W&B waits for its server, and may for ever, which metrics must not.
    """
    run.config.update(product.hashes, allow_val_change=True)

    def send() -> None:
        try:
            if not run.offline:  # where use_artifact is refused
                getattr(run, verb)(product.artifact())
        except Exception as error:
            say(f"{product.path} is not taken as an artifact ({' '.join(str(error).split())}).")

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread
