"""Run the command: python -m world_models.collect."""

from world_models.collect import main

if __name__ == "__main__":
    main()
