"""A teacher that sees frames teaches a student that sees events: losses, step, trainer."""
