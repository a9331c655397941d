"""Backbones (teacher, student), heads and checkpoints."""
