"""The V model's functions in faster forms; whoever calls the model need not know which one runs.

forms           the forms, and which one a device gets
prepared        weights that are prepared once for inference
winograd        strided convolutions in C (`_winograd.c`), as functions that autograd knows
winograd_layer  sizes and arrays of one such layer
winograd_chain  several of them one after the other, without gradients
onnx_encoder    the encoder by ONNX Runtime, where the C library was not built
"""
