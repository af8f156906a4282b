"""Worlds to act in: the contract, the embedded suite, and the Gymnasium adapter."""
