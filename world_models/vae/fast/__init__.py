"""Faster forms of the V model's functions. The model chooses the form; its callers need not know which one runs.

forms           the forms, and the choice for a device
prepared        weights that are prepared once for inference
winograd        strided convolutions in C (`_winograd.c`), as autograd functions
winograd_layer  the sizes and arrays of one such convolution
winograd_chain  several such convolutions in a row, without gradients
onnx_encoder    the encoder by ONNX Runtime, for machines where the C library was not built
"""
