"""How well a memory model predicts z: it is trained on latents and predicts frames of held-out episodes.

memory  the paper's memory model, in two forms
codes   the codes that it predicts: the V model's z, or principal components
study   trains memory models, and measures the errors of their predictions
"""
