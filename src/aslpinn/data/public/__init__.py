"""Public data of real brains: `fetch` brings them over the network, checksummed, and `build` makes BIDS of them."""
