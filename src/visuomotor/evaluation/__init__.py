"""Measured success: seeded episodes in parallel, probes, honest statistics, videos, and the report."""
