"""Run the command: python -m world_models.collect."""

from world_models.collect import main
from world_models.runtime import host

if __name__ == "__main__":
    host.begin_command("world_models.collect")
    main()
