"""Pictures of events and features, overlays, and reports.

In: event tensors, frames and features of any network, as arrays. Out: uint8 pictures, for
validations, topics of a node and reports.
"""
