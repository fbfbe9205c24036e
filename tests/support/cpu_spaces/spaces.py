"""Stands in for the package `spaces` where there is no GPU: calls run in forked processes, and the model stays put.

On the path of `python app.py` with SPACES_ZERO_GPU set, the page does all that it does on ZeroGPU but use a GPU.
"""

from forking import Forking

from flexdemo.serve import zerogpu

GPU = Forking().GPU
zerogpu.DEVICE = "cpu"
