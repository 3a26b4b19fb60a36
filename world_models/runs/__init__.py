"""The folder of a run, runs/<name>/, and the tracking of its metrics.

layout           the names of its files
description      model.json: a model's architecture and its training data; without torch
checkpoints      weights and baselines; loads a model
resume           the learner's state, and the check that a run can be resumed with a config
scores           eval.json: the results of an evaluation; without torch
score_parts      parts of eval.json that hold several numbers
records          reads a run's folder, finished or still training; without torch
provenance       the training data of a model
rate_distortion  KL against SSE, from the records of runs
tracking         metrics.jsonl, Weights & Biases, TensorBoard; wandb_* run W&B in a separate process
artifacts        W&B artifacts: which data set, model and latents were made from which
"""
