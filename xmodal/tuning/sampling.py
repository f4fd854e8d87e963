"""What to try next, and what isn't worth going on with: Optuna's TPE sampler and median pruner.

Optuna keeps nothing here. Before each trial a study is made from the trials so far, and its sampler is seeded by the
number of the next one; so what is tried depends on the seed and on earlier results alone, and a search that is
continued tries what it would have tried undisturbed.
"""
from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xmodal.config import WHOLE
from xmodal.features.packages import required
from xmodal.metrics import PRIMARY
from xmodal.ranges import Choices, Range, holds, tidy
from xmodal.tuning.trial import Trial

#: The worst value there is. Failed trials have it, so that the sampler stays away from where they were.
WORST = -math.inf if PRIMARY.high_is_better else math.inf
#: Trials that are drawn at random before the sampler learns from them.
RANDOM_TRIALS = 10
#: Trials that have to have been done, and to have got as far, for one to be compared with them while it is trained.
UNPRUNED_TRIALS = 5
#: Trials that there have to be for the importance of the fields to be more than noise.
TRIALS_FOR_IMPORTANCE = 10


class Candidate:
    """What to try next, and whether to go on with it."""

    def __init__(self, trial: Any, params: dict[str, Any]) -> None:
        self._trial, self.params = trial, params

    def is_hopeless(self, epoch: int, value: float) -> bool:
        """Books the value after an epoch; whether the best one so far is below the median of the others then."""
        self._trial.report(value, epoch)
        return bool(self._trial.should_prune())


def next_candidate(space: Mapping[str, Choices], trials: Sequence[Trial], *, seed: int, defaults: Mapping[str, Any],
                   prune_after: int) -> Candidate:
    """What to try after ``trials``.

    Args:
        space: what each field is searched in.
        trials: those that have ended.
        seed: of the search.
        defaults: the model file's own values, which the first trial takes where the space holds them.
        prune_after: the number of epochs that every trial has.
    """
    optuna = _optuna()
    number = len(trials) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Optuna calls experimental
        sampler = optuna.samplers.TPESampler(seed=_stream(seed, number), n_startup_trials=RANDOM_TRIALS,
                                             multivariate=True)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS, n_min_trials=UNPRUNED_TRIALS,
                                             n_warmup_steps=prune_after + 1)
        study = _study(space, trials, sampler=sampler, pruner=pruner)
        own = {name: defaults[name] for name, choices in space.items() if holds(choices, defaults[name])}
        if number > 1:
            own = {}
        elif own:
            study.enqueue_trial(own)
        trial = study.ask(_distributions(space))
    return Candidate(trial, {name: own.get(name, _readable(choices, name, trial.params[name]))
                             for name, choices in space.items()})


def importance(space: Mapping[str, Choices], trials: Sequence[Trial]) -> dict[str, float] | None:
    """How much of the differences each field accounts for (PED-ANOVA, Watanabe et al. 2023), largest first, sum 1.

    Pruned trials count with what they had reached, which tells that they were worse than the others.

    None where too few trials have a value, or where they are all as good.
    """
    done = [dataclasses.replace(trial, state="done") for trial in trials if trial.state in ("done", "pruned")]
    if len(done) < TRIALS_FOR_IMPORTANCE:
        return None
    optuna = _optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            found = optuna.importance.get_param_importances(_study(space, done), evaluator=evaluator)
        except (RuntimeError, ValueError):
            return None
    shares = {name: float(share) for name, share in found.items()}
    return shares if all(map(math.isfinite, shares.values())) and sum(shares.values()) > 0 else None


def _optuna() -> Any:
    optuna = required("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _stream(seed: int, number: int) -> int:
    """A seed for the sampler of one trial, unlike those of its neighbours."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _study(space: Mapping[str, Choices], trials: Sequence[Trial], **how: Any) -> Any:
    optuna = _optuna()
    study = optuna.create_study(direction="maximize" if PRIMARY.high_is_better else "minimize", **how)
    distributions = _distributions(space)
    states = {"done": optuna.trial.TrialState.COMPLETE, "failed": optuna.trial.TrialState.COMPLETE,
              "pruned": optuna.trial.TrialState.PRUNED}
    for trial in trials:
        study.add_trial(optuna.trial.create_trial(
            state=states[trial.state], value=WORST if trial.state == "failed" else trial.value, params=trial.params,
            distributions=distributions,
            intermediate_values={} if trial.state == "failed" else dict(enumerate(trial.curve, 1))))
    return study


def _distributions(space: Mapping[str, Choices]) -> dict[str, Any]:
    optuna = _optuna()

    def distribution(name: str, choices: Choices) -> Any:
        if not isinstance(choices, Range):
            return optuna.distributions.CategoricalDistribution(list(choices))
        kind = optuna.distributions.IntDistribution if name in WHOLE else optuna.distributions.FloatDistribution
        return kind(choices.low, choices.high, log=choices.log)

    return {name: distribution(name, choices) for name, choices in space.items()}


def _readable(choices: Choices, name: str, value: Any) -> Any:
    return tidy(choices, value) if isinstance(choices, Range) and name not in WHOLE else value
