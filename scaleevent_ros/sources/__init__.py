"""Everything else that holds events becomes a bag: recordings, data sets, videos."""
