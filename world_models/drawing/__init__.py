"""Draws pictures and pages.

grids        pictures as arrays and files: grids of frames, contact sheets, clips
charts       charts: curves, bars, points and maps
model_views  pictures of a V model: reconstructions, samples, interpolations, ...
digit_views  the same for a model of MNIST
pages        HTML pages, made from the templates in templates/
"""
