"""Numbers to pictures and pages.

figures      pictures as arrays and PNG files: grids, contact sheets, clips, charts
model_views  what a V model sees and dreams
digit_views  the same of a model of MNIST
html         parts of the HTML pages
"""
