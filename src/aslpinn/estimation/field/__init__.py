"""The default estimator, a Gaussian-process field behind Buxton's closed form.

`prior` says what maps are likely, `likelihood` what the series says of them, `solver` joins the two, `iteration`
repeats this until nothing changes, and `fit` makes the estimate of it. It reads like any Gaussian process:

    prior = Prior(GaussianLevels(mask, voxel_size), variances)
    likelihood = Likelihood(precision, pull)
    posterior = condition(prior, likelihood)
    posterior.mean, sample(prior, likelihood, rng)
"""
