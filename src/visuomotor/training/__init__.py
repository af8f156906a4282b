"""From batches to weights: the loop, the optimizer, the checkpoint of a run, logs and curves."""
