"""Run the command: python -m world_models.compare."""

from world_models.compare import main

if __name__ == "__main__":
    main()
