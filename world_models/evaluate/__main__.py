"""Run the command: python -m world_models.evaluate."""

from world_models.evaluate import main

if __name__ == "__main__":
    main()
