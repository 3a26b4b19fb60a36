"""Run the command: python -m world_models.evaluate."""

from world_models.evaluate import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.evaluate")
    main()
