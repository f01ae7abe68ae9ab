"""The study of a sweep in Optuna: storage, trials, sampler and pruner."""
