"""Segmentation, depth, flow: head, loss and metrics for each."""
