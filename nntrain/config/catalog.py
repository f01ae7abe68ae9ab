"""The names that a configuration may use as a `_target_` without anybody's trust.

Each entry is explicit: a name, or a module whose public classes of one kind are meant to be
configured. A package is never trusted as a whole, because it also holds code that loads files,
downloads models or runs other programs.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Exports:
    """The public classes of one kind in a module.

    Args:
        module: the module that exports the classes.
        base: the dotted path of the class that they derive from.
        package: the package that must define them.
        excluded: classes that load code or data from elsewhere, or that are no use in a config.
    """

    module: str
    base: str
    package: str
    excluded: tuple[str, ...] = ()

    def accepts(self, found: Any) -> bool:
        """Returns whether an object is a class of this kind, defined in the package."""
        module, _, name = self.base.rpartition(".")
        base = getattr(importlib.import_module(module), name)
        return (
            isinstance(found, type)
            and issubclass(found, base)
            and _is_in(found.__module__, self.package)
            and found.__name__ not in self.excluded
        )


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


_DOWNLOADS = (
    "ARNIQA",
    "BERTScore",
    "CLIPImageQualityAssessment",
    "CLIPScore",
    "DeepImageStructureAndTextureSimilarity",
    "DeepNoiseSuppressionMeanOpinionScore",
    "FrechetInceptionDistance",
    "InceptionScore",
    "InfoLM",
    "KernelInceptionDistance",
    "LambdaInputTransformer",
    "LearnedPerceptualImagePatchSimilarity",
    "LipVertexError",
    "MemorizationInformedFrechetInceptionDistance",
    "NonIntrusiveSpeechQualityAssessment",
    "PerceptualPathLength",
    "ROUGEScore",
    "SacreBLEUScore",
    "VideoMultiMethodAssessmentFusion",
)
"""Metrics that download a model or a tokenizer, or that call any function."""

_TORCHMETRICS = (
    "torchmetrics",
    "torchmetrics.aggregation",
    "torchmetrics.audio",
    "torchmetrics.classification",
    "torchmetrics.clustering",
    "torchmetrics.detection",
    "torchmetrics.image",
    "torchmetrics.nominal",
    "torchmetrics.regression",
    "torchmetrics.retrieval",
    "torchmetrics.segmentation",
    "torchmetrics.shape",
    "torchmetrics.text",
    "torchmetrics.wrappers",
)

OPTUNA: tuple[Exports, ...] = (
    Exports("optuna.samplers", "optuna.samplers.BaseSampler", "optuna.samplers"),
    Exports("optuna.samplers.nsgaii", "optuna.samplers.nsgaii.BaseCrossover", "optuna.samplers"),
    Exports("optuna.pruners", "optuna.pruners.BasePruner", "optuna.pruners"),
)
"""The samplers and pruners of a sweep."""

EXPORTS: Mapping[str, Exports] = {
    one.module: one
    for one in (
        Exports("torch.nn", "torch.nn.Module", "torch.nn", ("Container", "Module")),
        Exports("torch.optim", "torch.optim.Optimizer", "torch.optim", ("Optimizer",)),
        Exports(
            "torch.optim.lr_scheduler",
            "torch.optim.lr_scheduler.LRScheduler",
            "torch.optim",
            ("LRScheduler",),
        ),
        *(
            Exports(module, "torchmetrics.Metric", "torchmetrics", ("Metric", *_DOWNLOADS))
            for module in _TORCHMETRICS
        ),
        *OPTUNA,
    )
}
"""The modules whose public classes a configuration may use, by name."""

_NNTRAIN: Mapping[str, str] = {
    "nntrain.app.study_run": "StudyRun",
    "nntrain.callbacks": "CastToTensor Checkpoint DeviceCallback EMA EarlyStopping EventTrace "
    "GradientAccumulation GradientClip LRScheduler MixUp Progress ReduceLROnPlateau SaveModel "
    "ShortEpoch SingleBatch StopOnNaN StopOnSignal TimeLimit TrainEvalCallback",
    "nntrain.data": "DataLoaders ImageCollate TensorLoader Unlabelled autoencode diabetes digits "
    "fashion_mnist sine",
    "nntrain.integrations": "MLflowTracker MemoryTracker TensorBoardTracker WandbTracker",
    "nntrain.integrations.memory": "MemoryTracker",
    "nntrain.integrations.mlflow": "MLflowTracker",
    "nntrain.integrations.tensorboard": "TensorBoardTracker",
    "nntrain.integrations.wandb": "WandbTracker",
    "nntrain.losses": "MultiLoss",
    "nntrain.metrics": "AccumMetric AvgLoss AvgMetric AvgSmoothLoss AvgSmoothMetric accuracy "
    "accuracy_multi error_rate mae mse r2_score rmse skm_to_fastai top_k_accuracy",
    "nntrain.models": "Autoencoder ResBlock autoencoder cnn conv_block mlp resnet",
    "nntrain.schedule": "FlatCos OneCycle ParamScheduler SGDR combine_scheds combined_cos "
    "sched_cos sched_exp sched_lin sched_no sched_poly",
    "nntrain.statistics": "ActivationStats GradientStats UpdateStats WeightStats",
    "nntrain.sweeps": "PruningCallback",
}

_FUNCTIONS: Mapping[str, str] = {
    "torch.nn.functional": "binary_cross_entropy binary_cross_entropy_with_logits celu "
    "cosine_embedding_loss cosine_similarity cross_entropy ctc_loss elu gaussian_nll_loss gelu glu "
    "hardshrink hardsigmoid hardswish hardtanh hinge_embedding_loss huber_loss kl_div l1_loss "
    "leaky_relu log_softmax logsigmoid margin_ranking_loss mish mse_loss multi_margin_loss "
    "multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize one_hot "
    "pairwise_distance poisson_nll_loss relu relu6 selu sigmoid silu smooth_l1_loss "
    "soft_margin_loss softmax softmin softplus softshrink softsign tanh tanhshrink "
    "triplet_margin_loss",
    "torch.nn.init": "constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ "
    "orthogonal_ sparse_ trunc_normal_ uniform_ xavier_normal_ xavier_uniform_ zeros_",
    "sklearn.metrics": "accuracy_score adjusted_mutual_info_score adjusted_rand_score auc "
    "average_precision_score balanced_accuracy_score brier_score_loss calinski_harabasz_score "
    "class_likelihood_ratios classification_report cohen_kappa_score completeness_score "
    "confusion_matrix coverage_error d2_absolute_error_score d2_brier_score d2_log_loss_score "
    "d2_pinball_score d2_tweedie_score davies_bouldin_score dcg_score explained_variance_score "
    "f1_score fbeta_score fowlkes_mallows_score hamming_loss hinge_loss "
    "homogeneity_completeness_v_measure homogeneity_score jaccard_score "
    "label_ranking_average_precision_score label_ranking_loss log_loss matthews_corrcoef "
    "max_error mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance "
    "mean_pinball_loss mean_poisson_deviance mean_squared_error mean_squared_log_error "
    "mean_tweedie_deviance median_absolute_error mutual_info_score ndcg_score "
    "normalized_mutual_info_score precision_recall_curve precision_recall_fscore_support "
    "precision_score r2_score rand_score recall_score roc_auc_score roc_curve "
    "root_mean_squared_error root_mean_squared_log_error silhouette_score top_k_accuracy_score "
    "v_measure_score zero_one_loss",
}


def _paths(names: Mapping[str, str]) -> Iterator[str]:
    for module, text in names.items():
        yield from (f"{module}.{name}" for name in text.split())


NAMES: frozenset[str] = frozenset((*_paths(_NNTRAIN), *_paths(_FUNCTIONS)))
"""The functions and classes that a configuration may use, by their dotted path."""

_HOMES: Mapping[str, tuple[str, ...]] = {
    "nntrain": ("nntrain",),
    "sklearn": ("sklearn.metrics",),
    "torch": ("torch.nn", "torch._C"),
}
"""The packages that define the `NAMES`, by the first part of the name."""

_COMPILED = ("builtins", "torch")
"""The modules of compiled functions of torch, such as `torch.nn.functional.cosine_similarity`."""

HYDRA_NAMES: frozenset[str] = frozenset(
    (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_ax_sweeper.ax_sweeper.AxSweeper",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_nevergrad_sweeper.nevergrad_sweeper.NevergradSweeper",
        "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
        "hydra_plugins.hydra_ray_launcher.ray_aws_launcher.RayAWSLauncher",
        "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
        "hydra_plugins.hydra_rq_launcher.rq_launcher.RQLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "hydra_plugins.nntrain_sweeper.sweeper.NntrainSweeper",
        "nntrain.app.study_run.StudyRun",
    )
)
"""The launchers, sweepers and study callbacks that the key `hydra` may name."""


def exports_of(target: str) -> Exports | None:
    """Returns the exports that a target belongs to, such as those of `torch.nn`."""
    module, _, name = target.rpartition(".")
    found = EXPORTS.get(module)
    return found if found is not None and name not in found.excluded else None


def is_known(target: str) -> bool:
    """Returns whether the catalog contains a target."""
    return target in NAMES or exports_of(target) is not None


def accepts(target: str, found: Any) -> bool:
    """Returns whether what was imported for a target is what the catalog means by it."""
    if target not in NAMES:
        exports = exports_of(target)
        return exports is not None and exports.accepts(found)
    first, home = target.split(".")[0], getattr(found, "__module__", None) or type(found).__module__
    return any(_is_in(home, package) for package in _HOMES[first]) or (
        first == "torch" and home in _COMPILED
    )


def is_known_to_hydra(target: str) -> bool:
    """Returns whether the key `hydra` may name a target."""
    return target in HYDRA_NAMES or exports_of(target) in OPTUNA


def siblings(target: str) -> list[str]:
    """Returns the names in the catalog beside a target, to suggest the closest match."""
    module = target.rpartition(".")[0]
    return sorted(name.rpartition(".")[2] for name in NAMES if name.rpartition(".")[0] == module)
