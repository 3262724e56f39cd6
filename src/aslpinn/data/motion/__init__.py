"""How a head moved during a series: whether that has to be corrected, and the correction.

`need` decides and is what a series is read with, `correct` corrects; both by `image`, the head without its motion, and
`rigid`.
"""
