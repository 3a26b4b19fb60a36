"""The evaluation of a model of MNIST.

evaluation  the evaluation: its measures and figures
scores      likelihoods, classification of digits by mu, and quality of samples
page        report.html
"""
