"""Names of our CarRacing: ids and renderers. They have a separate module, because it imports fast."""

from typing import Literal

FAST_CAR_RACING = "world_models/CarRacing-v3"
FASTER = {"CarRacing-v3": FAST_CAR_RACING}
"""Gymnasium's ids, and the ids of our faster environments that give the same results and also take `renderer`."""

RendererName = Literal["auto", "c", "pygame", "gymnasium"]
