"""Writes the result files in a study's folder, and creates the table at the end of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from nntrain.config.door import write_runnable, write_table, write_yaml
from nntrain.config.redact import redact_override, redact_text
from nntrain.core.names import RUN_UID
from nntrain.sweeps.report.best import best_trials
from nntrain.sweeps.report.savings import controls, saved_s, seconds
from nntrain.sweeps.spec.plan import SweepPlan
from nntrain.sweeps.study.trials import MESSAGE, OUTCOME, counted, folder_of

SHOWN_BEST = 5
"""The maximum number of best trials in the final table; a Pareto front may have more."""

RESULTS, TRIALS, BEST, REPORT = (
    "optimization_results.yaml",
    "trials.csv",
    "best.yaml",
    "report.html",
)


def write_results(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> None:
    """Writes the best parameters to `RESULTS`, and a table of all trials to `TRIALS`.

    `RESULTS` has the same keys as the file of Hydra's Optuna sweeper.
    """
    best = best_trials(plan, trials)
    found: dict[str, Any] = {"name": "nntrain"}
    if len(plan.directions) > 1:
        found["solutions"] = [
            {"params": dict(trial.params), "values": list(trial.values)} for trial in best
        ]
    elif best:
        found |= {"best_params": dict(best[0].params), "best_value": best[0].values[0]}
    write_yaml(plan.folder / RESULTS, found)
    head, rows = trials_table(plan, trials)
    write_table(plan.folder / TRIALS, [head, *rows])


def trials_table(
    plan: SweepPlan, trials: Sequence[FrozenTrial]
) -> tuple[list[str], list[list[Any]]]:
    """Returns the column names and the rows of the table of all trials."""
    params = sorted({name for trial in trials for name in trial.params})
    values = value_names(plan)
    head = [
        "number",
        "state",
        "outcome",
        *values,
        *params,
        "last_step",
        "seconds",
        "run",
        "message",
        "folder",
    ]
    rows = []
    for trial in trials:
        attrs = trial.user_attrs
        results = list(trial.values or ()) + [""] * (len(values) - len(trial.values or ()))
        row = [trial.number, trial.state.name, attrs.get(OUTCOME, ""), *results]
        row += [trial.params.get(name, "") for name in params]
        row += ["" if trial.last_step is None else trial.last_step, round(seconds(trial), 3)]
        folder = folder_of(plan.folder, trial.number)
        rows.append(
            [
                *row,
                attrs.get(RUN_UID, ""),
                attrs.get(MESSAGE, ""),
                str(folder) if folder.is_dir() else "",
            ]
        )
    return head, rows


def write_best(plan: SweepPlan, config: DictConfig) -> None:
    """Writes the configuration of the best trial to `BEST`, ready to run.

    The file is a complete configuration and needs no overrides but for secrets, which it asks for;
    see `write_runnable`. For Hydra's own config groups, such as `hydra/job_logging`, it selects the
    same options as the sweep.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    hydra = plain.pop("hydra")
    choices = {
        name: choice
        for name, choice in hydra["runtime"]["choices"].items()
        if name.startswith("hydra/")
    }
    kept = {"hydra/help", "hydra/job_logging", "hydra/hydra_logging", "hydra/output", "hydra/env"}
    defaults: list[Any] = [
        {f"override {name}": choice}
        for name, choice in choices.items()
        if name in kept and choice not in (None, "default")
    ]
    job = {
        "run": hydra["run"],
        "output_subdir": hydra["output_subdir"],
        "job": {"chdir": hydra["job"]["chdir"]},
    }
    runnable = {"defaults": [*defaults, "_self_"], "hydra": job, **plain}
    write_runnable(plan.folder / BEST, runnable, f"the best trial of {plan.study_name}")


def final_table(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> list[str]:
    """Returns the lines of the table at the end of a sweep."""
    mine = counted(trials)
    states = Counter(trial.state for trial in mine)
    outcomes = Counter(
        trial.user_attrs.get(OUTCOME, "lost") for trial in mine if trial.state is TrialState.FAIL
    )
    failed = f"{states[TrialState.FAIL]} failed" + (f" ({_causes(outcomes)})" if outcomes else "")
    rows = [("study", plan.study_name)]
    done = f"{states[TrialState.COMPLETE]} completed, {states[TrialState.PRUNED]} pruned, {failed}"
    waiting, running = states[TrialState.WAITING], states[TrialState.RUNNING]
    done += (f", {waiting} waiting" if waiting else "") + (
        f", {running} running elsewhere" if running else ""
    )
    rows.append(("trials", done))
    for trial in best_trials(plan, trials)[:SHOWN_BEST]:
        values = ", ".join(
            f"{name}={value:.6g}"
            for name, value in zip(value_names(plan), trial.values, strict=True)
        )
        overrides = " ".join(map(redact_override, plan.space.overrides(trial.params)))
        rows.append(("best", f"{values} (trial {trial.number}): {overrides}"))
    if states[TrialState.PRUNED]:
        rows.append(("pruning", _pruning(plan, trials)))
    rows.append(("files", str(plan.folder)))
    return [redact_text(f"{name + ':':<17}{text}") for name, text in rows]


def value_names(plan: SweepPlan) -> list[str]:
    """Returns the names of a trial's values."""
    if plan.objectives:
        return list(plan.objectives)
    return (
        ["value"]
        if len(plan.directions) == 1
        else [f"value_{i}" for i in range(len(plan.directions))]
    )


def _causes(outcomes: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items()))


def _pruning(plan: SweepPlan, trials: Sequence[FrozenTrial]) -> str:
    spent = sum(seconds(trial) for trial in trials)
    saved = saved_s(trials)
    text = f"saved about {saved:.0f} s, spent {spent:.0f} s"
    if len(plan.directions) == 1 and (found := controls(trials, plan.directions[0])).n:
        text += (
            f"; of {found.n} control trials, {found.n_wrong} ended in the best quarter and "
            f"{found.n_best} became the best trial"
        )
    return text
