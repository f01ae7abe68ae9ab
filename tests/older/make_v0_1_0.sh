#!/usr/bin/env bash
# Makes the files of version 0.1.0 that tests/older/test_v0_1_0.py reads.
#
#     tests/older/make_v0_1_0.sh SITE VENV
#
# SITE is a folder with version 0.1.0 (pip install --no-deps --target SITE ...), and VENV is an
# environment with its dependencies. The script needs Linux and root: it works in /home/me on a host
# named "host", so that the files do not name the machine that made them.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
if [ "$(hostname)" != host ]; then
    mkdir /home/me # fails if such a user exists, so that their files are not removed
    export MADE_IN
    MADE_IN=$(mktemp -d)
    trap 'rm -rf /home/me "$MADE_IN"' EXIT
    ln -s "$(realpath "$1")" /home/me/site
    ln -s "$(realpath "$2")" /home/me/venv
    unshare --uts bash -c "hostname host && exec '$0'"
    rm -rf "$here/v0.1.0"/{run,journal,study}
    cp -r "$MADE_IN"/{run,journal,study} "$here/v0.1.0"
    exit
fi

# The kernels decide the last bits of a loss, and these are the same on every x86-64.
export ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1
export PYTHONPATH=/home/me/site:/home/me/lib HOME=/home/me USER=me LOGNAME=me MPLBACKEND=agg
export WANDB_MODE=offline PYTHONDONTWRITEBYTECODE=1
python=/home/me/venv/bin/python
export TMPDIR=/home/me/tmp
mkdir /home/me/{lib,work,tmp}
cd /home/me/work

cat > /home/me/lib/interrupted.py <<'PYTHON'
"""Runs nntrain.run and sends a signal at training batch N: interrupted.py SIGNAL N ARGS..."""
import runpy
import signal
import sys

from nntrain.callbacks import StopOnSignal

signum, n = signal.Signals[sys.argv.pop(1)], int(sys.argv.pop(1))
stop = StopOnSignal.after_batch


def after_batch(self, learn):
    if learn.training and learn.train_iter == n:
        signal.raise_signal(signum)
    stop(self, learn)


StopOnSignal.after_batch = after_batch
runpy.run_module("nntrain.run", run_name="__main__", alter_sys=True)
PYTHON

cat > /home/me/lib/mine.py <<'PYTHON'
"""A user's callback that logs every kind of record."""
from matplotlib.figure import Figure
from nntrain import Callback


class Logs(Callback):
    def after_epoch(self, learn):
        learn.tracker.log_metrics({"mine/epoch": learn.epoch + 0.5})

    def after_fit(self, learn):
        with open("report.txt", "w") as file:
            file.write("a report\n")
        figure = Figure(figsize=(1, 1))
        figure.add_subplot().plot([0, 1], [0, 1])
        learn.tracker.log_figure(figure, "plots/mine.png")
        learn.tracker.log_table("worst.json", ["item", "loss"], [[17, 4.25], ["eight", 3.5]])
        learn.tracker.log_artifact("report.txt", "reports/report.txt", aliases=["latest"])
PYTHON

# The figures of a run take 400 KB, and the tests do not need their content.
thumbnails() {
    $python -c 'import sys
from PIL import Image
for path in sys.argv[1:]:
    Image.open(path).convert("P").resize((32, 24)).save(path)' "$@"
}

# --- a run that SIGTERM ended in the middle of its third epoch, and the same run uninterrupted

run=(data=digits model=mlp model.hidden=4 n_epoch=4 tracker.offline=true device=cpu
     'callbacks=[default,early_stopping,ema]' callbacks.activation_stats.every=5)
code=0
$python /home/me/lib/interrupted.py SIGTERM 55 "${run[@]}" hydra.run.dir=run || code=$?
[ $code = 143 ]
$python -m nntrain.run "${run[@]}" hydra.run.dir=alone
$python - <<'PYTHON'
import json
import platform

import torch

points = {}
for line in open("alone/journal.jsonl"):
    record = json.loads(line)
    if record["kind"] == "metrics":
        for key, values in record["values"].items():
            if not key.startswith("time/"):
                points.setdefault(key, []).extend(zip(record["step"], values))
made = {"torch": torch.__version__.split("+")[0], "machine": platform.machine(), "points": points}
text = json.dumps(made).replace(', "', ',\n"')  # one key per line
open("run/expected.json", "w").write(text + "\n")
PYTHON
rm run/previous.ckpt run/run.log
thumbnails run/files/*.png
cp -r run "$MADE_IN"

# --- a run that was recorded offline for MLflow and W&B and has not been delivered

$python -m nntrain.run data=digits model=mlp model.hidden=4 n_epoch=2 device=cpu \
    'tracker=[mlflow,wandb]' tracker.offline=true tracker.mlflow.log_model=true \
    +tracker.mlflow.tags.team=ours 'tracker.wandb.tags=[ours]' tracker.wandb.mode=offline \
    'trusted_targets=[mine]' +callbacks.mine._target_=mine.Logs hydra.run.dir=journal
thumbnails journal/files/000[3-7]*.png
rm -r journal/{last,previous}.ckpt journal/{best.pt,run.log,.hydra}
cp -r journal "$MADE_IN"
$python -m nntrain.sync journal # this writes the state that says that everything is delivered
mkdir "$MADE_IN/journal/delivered"
cp journal/delivery/*.json "$MADE_IN/journal/delivered"

# --- a study of four trials, whose fifth trial Ctrl-C ended

study=(-m data=digits model=mlp n_epoch=3 tracker=none device=cpu
       'lr=tag(log,interval(1e-3,1e-1))' 'model.hidden=choice(4,8)' hydra.sweeper.sampler.seed=9
       hydra.sweeper.pruner.n_startup_trials=1 hydra.sweeper.study_name=older)
$python -m nntrain.run "${study[@]}" hydra.sweeper.n_trials=4
cp -r multirun/older alone-study
code=0
$python /home/me/lib/interrupted.py SIGINT 30 "${study[@]}" hydra.sweeper.n_trials=5 || code=$?
[ $code = 130 ]
$python -m nntrain.run "${study[@]}" hydra.sweeper.n_trials=5 hydra.sweep.dir=alone-study
cd multirun/older
$python - <<'PYTHON'
import json
import platform

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

storage = JournalStorage(JournalFileBackend("../../alone-study/study.jsonl"))
trial = optuna.load_study(study_name="older", storage=storage).trials[4]
made = {"torch": torch.__version__.split("+")[0], "machine": platform.machine()}
made |= {"params": trial.params, "values": trial.values}
open("expected.json", "w").write(json.dumps(made, indent=1) + "\n")
PYTHON
rm report.html .claim ?/run.log [0-3]/{last,previous}.ckpt [0-3]/best.pt 4/previous.ckpt
cp -r . "$MADE_IN/study"
