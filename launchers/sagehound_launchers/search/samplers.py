"""Optuna's samplers and pruners for hpo.sampler and hpo.pruner."""

import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

ADAPTIVE = ("tpe",)  # samplers whose proposals depend on results

_FEWEST = 10  # trials that an importance needs


def make_sampler(name: str, seed: int, before: int, space: Mapping[str, BaseDistribution]) -> BaseSampler:
    """The sampler of a study that resumes after ``before`` trials, whose points it must not repeat."""
    if name == "tpe":
        return TPESampler(seed=seed + before)
    if name == "qmc":
        return Sobol(seed, space)
    return RandomSampler(seed + before)


class Sobol(QMCSampler):
    """Points of one scrambled Sobol sequence; the study stores how many were used.

    Optuna's own sampler draws the first point at random, because it learns the space from the first trial.
    """

    def __init__(self, seed: int, space: Mapping[str, BaseDistribution]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed)
        self._space = dict(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Optuna's hook: the hyperparameters that the sequence samples."""
        return {key: distribution for key, distribution in self._space.items() if not distribution.single()}


def make_pruner(name: str, epochs: int) -> BasePruner:
    """The pruner of trials with ``epochs`` epochs; the first is epoch 1.

    median: prunes a trial whose best is worse than the median of the others after as many epochs, once five trials and
    a fifth of the epochs are done. hyperband: a third of the trials continues after 1, 3, 9, ... epochs (Li et al.
    2018), in brackets, some of which start later. diagnosis: the debugger of each trial, see diagnosis.py.
    """
    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, -(-epochs // 5)))
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return NopPruner()


def importance(study: optuna.Study) -> str:
    """The importance of each hyperparameter for being in the best tenth; empty for fewer than ten trials.

    By PED-ANOVA (Watanabe et al. 2023).
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _FEWEST or len({t.value for t in complete}) == 1 or len(complete[0].params) == 1:
        return ""
    shares = optuna.importance.get_param_importances(study)
    return ", ".join(f"{key} {share:.0%}" for key, share in shares.items())
