"""What a controller can do with mu: it learns from the expert, then drives tracks that nobody has seen.

lockstep     many tracks side by side, whose frames are read at once
imitation    how a linear controller learns from the expert
measurement  who drives what, and the scores
track_map    the driven tracks as small maps
"""
