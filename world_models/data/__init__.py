"""Data on disk, and from there into batches.

shards/           HDF5 files of flat columns: the format, its reader and its writer
rollouts          shards of frames, actions, rewards, ends and telemetry
episode           one episode of rollouts, in memory
several           several data sets of rollouts as one
latents           shards of mu and logvar instead of frames
step_tables       a pandas table of the rows of rollouts or latents
latent_rows       rows of latents by number, in memory or in blocks
latent_summary    latents.json: the counts and moments of latents
discrete_actions  discrete actions as one column for each action
sequences         windows of latents, as a memory model reads them
mnist             handwritten digits
split             episodes for training and for validation
frames            frames by position, in the order of training
weighted          frames of several data sets, drawn by weight
batch             one batch of frames on the device
batches           the batches of a training, in order
"""
