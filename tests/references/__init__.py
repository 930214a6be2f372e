"""Plain NumPy references, written from the rules of the games and sharing no code with the kernels."""
