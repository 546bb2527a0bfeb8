"""Reproducible training and evaluation of the networks."""
