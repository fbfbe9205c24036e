"""Tensors only: load, mask, read, decode. Knows no methods, pages or files."""
