"""The evaluation of a model of MNIST.

evaluation  what is measured and drawn
scores      likelihoods, what mu tells of the digit, and how good samples are
page        report.html
"""
