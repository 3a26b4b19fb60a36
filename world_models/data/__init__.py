"""Data on disk, and from there into batches.

shards/      HDF5 files of flat columns: the format, its reader and its writer
rollouts     frames, actions, rewards, ends, telemetry
several      several data sets of rollouts as one
latents      mu and logvar in the frames' place
latent_rows  rows of latents by number, in memory or in blocks
latent_summary  latents.json: the counts and moments of latents
sequences    windows of latents, as a memory model reads them
mnist        handwritten digits
split        episodes for training and for validation
frames       frames by position, in the order of training
weighted     frames of several data sets, drawn by weight
batches      batches of frames on the device
"""
