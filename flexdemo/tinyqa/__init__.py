"""Boundary: facts, question templates, training and evaluation of the small model that ships in `assets/tinyqa`."""
