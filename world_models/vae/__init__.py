"""The V model.

model               the variational autoencoder
networks            the paper's encoder and decoder
digit_networks      those of MNIST
posterior           q(z|x)
likelihoods         p(x|z), and errors
gradient            the gradient of the objective, in several threads where that is faster
noise               random numbers of a training step
inputs              checks of what the model is given
metrics             what is measured of a model
baselines           what it has to beat: the mean frame, principal components
standardise         z brought to mean 0 and variance 1
latent_observation  Gymnasium environments that observe z
fast/               the same functions, faster
"""
