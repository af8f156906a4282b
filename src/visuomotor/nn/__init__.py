"""Building blocks that know no robot: every file is one mechanism with one paper."""
