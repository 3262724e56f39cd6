"""In and out: BIDS, preprocessing, the phantom, public data."""
