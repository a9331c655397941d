"""Bags and shards in, training samples out: alignment, windows, augmentation, shards."""
