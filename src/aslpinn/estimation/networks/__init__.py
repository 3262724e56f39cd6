"""Estimator `pinn`: networks on hash encodings, trained with the paper's loss or a better one.

`config` has every setting, `objectives` what is minimized, `train` the loop; an engine takes the steps: `autograd` by
PyTorch, on any device, or `compiled`, on a CPU. `fit` trains the members of an ensemble and combines their maps.

The compiled engine is three files, of which Python sees the first: `compiled` holds the arrays and calls the loops,
`compiled_step` walks through a batch as `autograd` does, `compiled_physics` has what `objectives` has, by hand:
residuals and their gradients. The networks' own loops are `fields.compiled`.
"""
