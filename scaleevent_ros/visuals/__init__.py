"""Arrays in, pictures out: events, PCA, similarity, overlays, reports."""
