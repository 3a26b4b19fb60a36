"""How well a controller drives with mu: it learns from the expert, then drives new tracks.

lockstep     drives several tracks at once, and reads their frames in one batch
imitation    trains a linear controller by imitation of the expert
measurement  the trainings and drives of a measurement, and the scores
track_map    draws the driven tracks as small maps
"""
