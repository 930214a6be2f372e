"""GPU kernels of the trainers, in Triton, which PyTorch brings along where it supports CUDA.

Modules of this folder are imported where they are used only, since there is no Triton elsewhere.
"""
