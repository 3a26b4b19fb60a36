"""The folder of a run, runs/<name>/, and where its numbers go.

layout           the names of its files
description      model.json: a model's architecture, and what it was trained on; without torch
checkpoints      weights and baselines, and the model that they are of
resume           the learner's state, and whether a run is the one that is asked for
scores           eval.json: what an evaluation has found; without torch
score_parts      its parts that hold several numbers
records          what the folder says of a run, finished or still training; without torch
provenance       what a model was trained on
rate_distortion  KL against SSE, from the records of runs
tracking         metrics.jsonl, Weights & Biases, TensorBoard; wandb_* keep W&B in a process of its own
artifacts        which data set, model and latents were made from which
"""
