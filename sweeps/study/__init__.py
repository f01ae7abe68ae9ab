"""The Optuna study of a sweep: storage, trials, sampler, and pruner."""
