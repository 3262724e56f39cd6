"""Brains whose CBF and ATT are known.

`simulate` scans an `anatomy` by one of the `protocols`, `bids` writes it as a subject, and `unkind` gives it what real
series have and a plain phantom has not.
"""
