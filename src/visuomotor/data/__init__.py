"""From episodes on disk to batches: reading, writing, caching, windowing, loading.

Modules are imported one by one (`from visuomotor.data.lerobot import LeRobotReader`), so that a
process that only writes demonstrations never imports torch.
"""
