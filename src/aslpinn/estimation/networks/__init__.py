"""Estimator `pinn`: networks on hash encodings, trained with the paper's loss or a better one.

`config` has every setting, `objectives` what is minimized, `train` the loop; an engine takes the steps: `autograd` by
PyTorch, on any device, or `compiled`, on a CPU. `fit` trains the members of an ensemble and combines their maps.
"""
