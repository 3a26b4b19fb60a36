"""What a memory model can make of z: trained on latents, it foresees frames of held-out episodes.

memory  the paper's memory model, in two forms
codes   what it predicts: the V model's z, or principal components
study   training, and the errors of what is foreseen
"""
