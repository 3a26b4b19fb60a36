"""Numbers to pictures and pages.

grids        pictures as arrays, and how they are written: grids of frames, contact sheets, clips
charts       numbers as curves, bars, points and maps
model_views  what a V model sees and dreams
digit_views  the same of a model of MNIST
pages        HTML pages from the templates in templates/
"""
