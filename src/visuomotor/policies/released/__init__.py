"""Weights that others released, for families whose tables of names are long."""
