"""Run the command: python -m world_models.compare."""

from world_models.compare import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.compare")
    main()
