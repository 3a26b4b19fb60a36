"""The V model.

config              the settings of the model and its objective
model               the variational autoencoder
networks            the paper's encoder and decoder
digit_networks      encoders and decoders for MNIST
posterior           q(z|x)
likelihoods         p(x|z), and errors
gradient            the gradient of the objective, in several threads if that is faster
noise               random numbers of a training step
philox              random numbers that every device computes the same
inputs              checks of the model's inputs
labelled_frames     frames and their classes as one value
metrics             measures of a model: SSE, KL, ELBO, IWAE, ...
ssim                structural similarity of images
baselines           simple predictions to compare with: the mean frame, principal components
standardise         changes a model so that z has mean 0 and variance 1
latent_observation  Gymnasium environments that observe z
fast/               the same functions, faster
"""
