"""Arrays in, pictures out: events, PCA, similarity, overlays, reports.

In come event tensors, frames and features, as arrays of any network; out go uint8 pictures, for the
pictures of a validation, the topics of a node and the report on a bag.
"""
