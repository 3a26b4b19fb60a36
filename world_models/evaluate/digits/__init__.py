"""The evaluation of a model of MNIST.

evaluation  from images to files
scores      likelihoods, what mu tells of the digit, and how good samples are
page        report.html
"""
