"""What a search may choose from, what it tries next, and that it goes on as if nobody had disturbed it."""
from __future__ import annotations

import dataclasses
import json
import math
import signal
from pathlib import Path

import pytest
import torch

from xmodal.config import TrainConfig, load_experiment
from xmodal.errors import CheckpointError, ExperimentError, NumericalError
from xmodal.ranges import Range, as_plain, describe, holds, parse_search, range_problems, tidy
from xmodal.trainer import loop as trainer_loop
from xmodal.tuning import Search, Stopped, Trial, TuneFolder, best_of, importance, without_test
from xmodal.tuning import loop as tuning_loop
from xmodal.tuning.sampling import next_candidate

pytest.importorskip("optuna")

SPACE = {"learning_rate": Range(1e-4, 1e-1, log=True), "batch_size": Range(10, 100), "alpha": ["auto", 1.0],
         "gamma": Range(0.1, 1.0)}
DEFAULTS = dataclasses.asdict(TrainConfig(learning_rate=1e-3, batch_size=20))

FILE = '''"""A toy."""
from xmodal import CCALayer, PairwiseRanking, Range, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=4, batch_size=40, max_epochs=3, learning_rate=1e-2, alpha="auto")
SEARCH = {"learning_rate": Range(1e-4, 1e-1, log=True), "batch_size": Range(20, 100, log=True), "gamma": [0.2, 0.5]}

def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [], CONFIG.dim_latent), mlp(view2_shape, [], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1, alpha=CONFIG.alpha))

def build_objective():
    return PairwiseRanking(margin=CONFIG.gamma)
'''


@pytest.fixture
def model_file(tmp_path):
    def write(text: str = FILE) -> Path:
        path = tmp_path / "toy.py"
        path.write_text(text, encoding="utf-8")
        return path
    return write


def searching(search: str) -> str:
    return FILE.replace(FILE[FILE.index("SEARCH = "):FILE.index("\n\ndef build_model")], f"SEARCH = {search}")


def message_of(path: Path, **kwargs) -> str:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(path, **kwargs)
    return str(caught.value)


# -- what a search may choose from -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("search", "expected"), [
    ("3", "SEARCH must be a dictionary"),
    ("{1: [1, 2]}", "SEARCH must be a dictionary"),
    ('{"learning_rat": [1, 2]}', "SEARCH: unknown field 'learning_rat': did you mean learning_rate?"),
    ('{"gamma": 0.5}', "SEARCH: gamma must be a Range(low, high) or a list of values, got 0.5"),
    ('{"gamma": "0.1, 0.5"}', "SEARCH: gamma must be a Range"),
    ('{"gamma": []}', "SEARCH: gamma must list at least two values, got []"),
    ('{"gamma": [0.5]}', "at least two values"),
    ('{"gamma": [0.5, 0.5]}', "SEARCH: gamma must list different values"),
    ('{"gamma": [0.5, {}]}', "must list numbers, texts, True, False or None, got {}"),
    ('{"gamma": [0.5, -1]}', "SEARCH: gamma must be a number of at least 0, got -1"),
    ('{"gamma": Range(1.0, 0.1)}', "SEARCH: gamma must range from a lower to a higher number, got 1.0 and 0.1"),
    ('{"gamma": Range(0.1, 0.1)}', "from a lower to a higher number"),
    ('{"gamma": Range(0, 1, log=True)}', "SEARCH: gamma must begin above 0 where log=True, got 0"),
    ('{"gamma": Range(0.1, 1, log=3)}', "must have log=True or log=False, got 3"),
    ('{"gamma": Range("a", 1)}', "must range between two numbers, got 'a' and 1"),
    ('{"gamma": Range(0.1, float("nan"))}', "must range between two numbers"),
    ('{"gamma": Range(0.1, 10**400)}', "must range between two numbers"),
    ('{"alpha": Range(0.1, 2.0)}', "SEARCH: alpha must be 'auto' or a number above 0 and at most 1, got 2.0"),
    ('{"batch_size": Range(10.5, 100)}', "SEARCH: batch_size must be a whole number of at least 2, got 10.5"),
    ('{"batch_size": Range(1, 100)}', "SEARCH: batch_size must be a whole number of at least 2, got 1"),
    ('{"schedule": Range(0, 1)}', "SEARCH: schedule must be 'constant' or 'cosine', got 0"),
    ('{"weight_tno": [0.1, 0.5]}', "SEARCH: weight_tno has no effect: nothing in the file reads CONFIG.weight_tno"),
])
def test_a_mistake_in_search_is_said(model_file, search, expected):
    assert expected in message_of(model_file(searching(search)))


def test_all_mistakes_in_search_are_reported_together(model_file):
    text = message_of(model_file(searching('{"gamma": [0.5], "batch_size": Range(1, 2.5), "rT": [0.1, 0.2]}')),
                      overrides={"weight_tno": 0.5})
    assert "5 mistakes: weight_tno has no effect" in text and text.count("SEARCH: ") == 4


def test_an_experiment_with_a_search_trains_as_without(model_file):
    plain = load_experiment(model_file(searching("{}")))
    experiment = load_experiment(model_file())
    assert plain.search == {} and experiment.config == plain.config
    assert experiment.search == {"learning_rate": Range(1e-4, 1e-1, log=True), "gamma": [0.2, 0.5],
                                 "batch_size": Range(20, 100, log=True)}


def test_what_is_set_is_not_searched_and_a_command_may_search_more(model_file):
    experiment = load_experiment(model_file(), {"gamma": 0.3}, search={"r1": Range(1e-4, 1e-1, log=True)})
    assert list(experiment.search) == ["learning_rate", "batch_size", "r1"] and experiment.config.gamma == 0.3
    assert "SEARCH: l2 must be a number" in message_of(model_file(), search={"l2": [0, "x"]})
    everything = dataclasses.asdict(experiment.config)  # as run folders have it
    assert load_experiment(model_file(), everything).search == {}


@pytest.mark.parametrize(("text", "expected"), [
    ("l2=1e-6:1e-2:log", ("l2", Range(1e-6, 1e-2, log=True))), ("gamma = 0.1:1", ("gamma", Range(0.1, 1))),
    ("batch_size=50:800", ("batch_size", Range(50, 800))), ("alpha=auto,1", ("alpha", ["auto", 1])),
    ("decoupled=True, False", ("decoupled", [True, False])), ("l2=3", ("l2", [3])), ("l2=a:b", ("l2", Range("a", "b"))),
    ("l2=[1],2", ("l2", ["[1]", 2]))])
def test_parse_search(text, expected):
    assert parse_search(text) == expected


@pytest.mark.parametrize("text", ["", "l2", "=1:2", "l2=1:2:lin", "l2=1:2:log:3"])
def test_parse_search_says_what_it_needs(text):
    with pytest.raises(ExperimentError, match=r"--search (l2 )?needs"):
        parse_search(text)


@pytest.mark.parametrize(("choices", "value", "expected"), [
    (Range(1e-4, 1e-1, log=True), 0.00123456, 0.00123), (Range(1e-4, 1e-1, log=True), 1.00001e-4, 1e-4),
    (Range(0.12345, 0.2, log=True), 0.12346, 0.12345), (Range(0.1, 1.0), 0.123456, 0.123),
    (Range(0, 100), 12.3456, 12.0), (Range(0.99, 0.999), 0.9951234, 0.99512)])
def test_tidy_values_are_near_and_inside(choices, value, expected):
    assert tidy(choices, value) == pytest.approx(expected, abs=1e-12) and holds(choices, tidy(choices, value))


def test_choices_in_words_and_in_json():
    assert describe(Range(1e-4, 1, log=True)) == "0.0001 to 1 (log)" and describe(["auto", 1]) == "auto, 1"
    assert json.loads(json.dumps(as_plain(SPACE)))["gamma"] == {"low": 0.1, "high": 1.0, "log": False}
    assert not range_problems(SPACE["alpha"]) and not holds(SPACE["gamma"], True) and not holds(SPACE["gamma"], "x")


# -- what is tried next ----------------------------------------------------------------------------------------------

def trials_of(n: int, value=lambda params: -abs(math.log10(params["learning_rate"]) + 2), seed: int = 1) -> list[Trial]:
    """As many trials as asked for, with a known best: a learning rate of 0.01."""
    trials: list[Trial] = []
    for number in range(1, n + 1):
        candidate = next_candidate(SPACE, trials, seed=seed, defaults=DEFAULTS, prune_after=0)
        trials.append(Trial(number, "done", candidate.params, seed, value(candidate.params), 1, (0.5,)))
    return trials


def test_the_first_trial_takes_the_files_own_values_where_the_search_holds_them():
    first = next_candidate(SPACE, [], seed=1, defaults=DEFAULTS, prune_after=0).params
    assert (first["learning_rate"], first["batch_size"], first["alpha"], first["gamma"]) == (1e-3, 20, 1.0, 0.5)
    outside = {**DEFAULTS, "batch_size": 1000}
    assert 10 <= next_candidate(SPACE, [], seed=1, defaults=outside, prune_after=0).params["batch_size"] <= 100


def test_what_is_tried_is_inside_whole_where_it_must_be_and_better_with_time():
    trials = trials_of(40)
    for trial in trials:
        assert all(holds(SPACE[name], value) for name, value in trial.params.items())
        assert type(trial.params["batch_size"]) is int
        assert TrainConfig(**trial.params)
    late = [abs(math.log10(trial.params["learning_rate"]) + 2) for trial in trials[25:]]
    early = [abs(math.log10(trial.params["learning_rate"]) + 2) for trial in trials[1:11]]
    assert sum(late) / len(late) < sum(early) / len(early)
    assert trials == trials_of(40) != trials_of(40, seed=2)


def test_the_field_that_matters_is_said_to():
    trials = trials_of(40)
    shares = importance(SPACE, trials)
    assert shares.keys() == SPACE.keys() and sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "learning_rate"
    assert importance(SPACE, trials[:9]) is None
    assert importance(SPACE, [dataclasses.replace(trial, state="failed") for trial in trials]) is None


def test_the_sampler_keeps_away_from_what_fails():
    failing = [dataclasses.replace(trial, state="failed", value=None, curve=()) if trial.params["alpha"] == "auto"
               else trial for trial in trials_of(20)]
    assert {trial.state for trial in failing} == {"done", "failed"}
    tried = [next_candidate(SPACE, failing, seed=seed, defaults=DEFAULTS, prune_after=0).params["alpha"]
             for seed in range(10)]
    assert tried.count("auto") <= 2


def test_hopeless_is_what_is_below_the_median_of_five_after_its_first_epochs():
    curve = (0.1, 0.2, 0.3, 0.4)
    trials = [dataclasses.replace(trial, curve=curve) for trial in trials_of(5)]
    bad = next_candidate(SPACE, trials, seed=1, defaults=DEFAULTS, prune_after=2)
    assert [bad.is_hopeless(epoch, 0.05) for epoch in (1, 2, 3)] == [False, False, True]
    good = next_candidate(SPACE, trials, seed=1, defaults=DEFAULTS, prune_after=2)
    assert not any(good.is_hopeless(epoch, value) for epoch, value in enumerate((0.1, 0.5, 0.0, 0.0), 1))
    few = next_candidate(SPACE, trials[:4], seed=1, defaults=DEFAULTS, prune_after=2)
    assert not any(few.is_hopeless(epoch, 0.0) for epoch in range(1, 5))
    assert not any(good.is_hopeless(epoch, 0.0) for epoch in range(5, 9))  # where none of the others got


def test_the_best_is_the_first_of_the_best_that_came_to_their_end():
    def trial(number, state, value):
        return Trial(number, state, {}, 0, value)

    trials = [trial(1, "failed", None), trial(2, "done", 0.3), trial(3, "done", 0.5), trial(4, "pruned", 0.9),
              trial(5, "done", 0.5)]
    assert best_of(trials) is trials[2] and best_of(trials[:1]) is None


# -- the search ------------------------------------------------------------------------------------------------------

@pytest.fixture
def search(model_file, correlated_pairs, tmp_path) -> Search:
    experiment, folder = load_experiment(model_file()), TuneFolder(tmp_path / "toy-tune")
    folder.begin({"data": {"fingerprint": "f"}}, experiment.source)
    return Search(experiment, {}, without_test(correlated_pairs), folder, seed=5, prune_after=10,
                  device=torch.device("cpu"))


def run(search: Search, total: int) -> list[Trial]:
    trials = search.folder.trials(search.experiment.search)
    search.run(trials, total, ended=lambda trial: None)
    return trials


def known(trials: list[Trial]) -> list[Trial]:
    """Without what depends on the clock, or on who ended the process."""
    return [dataclasses.replace(trial, seconds=0.0, attempts=1) for trial in trials]


def test_trials_are_trained_as_any_other_and_kept(search):
    trials = run(search, 3)
    assert [(trial.number, trial.state, trial.seed, trial.epochs) for trial in trials] == [
        (1, "done", 5, 3), (2, "done", 6, 3), (3, "done", 7, 3)]
    assert trials[0].params == {"learning_rate": 1e-2, "batch_size": 40, "gamma": 0.5}
    assert all(trial.value == max(trial.curve) == trial.curve[trial.best_epoch - 1] for trial in trials)
    assert search.folder.trials(search.experiment.search) == trials
    experiment = load_experiment(search.folder.file(TuneFolder.EXPERIMENT), trials[1].params)
    torch.manual_seed(6)
    model = experiment.build_model(search.data.view1_shape, search.data.view2_shape)
    alone = trainer_loop.fit(model, experiment.build_objective(), search.data, experiment.config, seed=6)
    assert alone.best_value == trials[1].value
    table = search.folder.file(TuneFolder.TABLE).read_text().splitlines()
    assert table[0].startswith("number,state,value,") and len(table) == 4


def test_several_seeds_count_by_their_mean(search, monkeypatch):
    alone = run(search, 1)[0]
    search.folder.begin({"data": {"fingerprint": "f"}}, search.experiment.source)
    trials = run(dataclasses.replace(search, seeds=3), 2)
    assert [trial.seed for trial in trials] == [5, 8]
    assert all(len(trial.values) == 3 and trial.value == pytest.approx(sum(trial.values) / 3) for trial in trials)
    assert trials[0].values[0] == alone.value and len(set(trials[0].values)) == 3
    assert trials[0].curve == alone.curve and trials[0].best_epoch == alone.best_epoch


def test_the_last_value_counts_where_the_last_weights_are_kept(search):
    last = dataclasses.replace(search, fixed={"keep": "last"})
    assert all(trial.value == trial.curve[-1] for trial in run(last, 2))


def test_a_search_in_parts_is_the_search_at_once(search, tmp_path):
    run(search, 2)
    run(search, 2)
    in_parts = run(search, 13)  # 10 trials are random
    other = dataclasses.replace(search, folder=TuneFolder(tmp_path / "at-once"))
    other.folder.begin({"data": {"fingerprint": "f"}}, search.experiment.source)
    assert known(in_parts) == known(run(other, 13))


class Killed(BaseException):
    """As kill -9: nothing is tidied up."""


def kill_in_trial(monkeypatch, number: int):
    def fit(*args, seed, **kwargs):
        if seed == 5 + number - 1:
            raise Killed
        return trainer_loop.fit(*args, seed=seed, **kwargs)

    monkeypatch.setattr(tuning_loop, "fit", fit)


def test_a_killed_trial_is_begun_again_and_fails_the_second_time(search, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        kill_in_trial(patch, 2)
        with pytest.raises(Killed):
            run(search, 4)
    stored = search.folder.trials(search.experiment.search)
    assert [trial.state for trial in stored] == ["done", "running"]
    assert search.folder.file(TuneFolder.TABLE).read_text().count("\n") == 2  # of trials that have ended
    with monkeypatch.context() as patch:
        kill_in_trial(patch, 3)
        for _ in range(2):
            with pytest.raises(Killed):
                run(search, 4)
    trials = run(search, 4)
    assert [(trial.number, trial.state, trial.attempts) for trial in trials] == [
        (1, "done", 1), (2, "done", 2), (3, "failed", 2), (4, "done", 1)]
    assert "killed in the middle of it, twice" in trials[2].reason
    other = dataclasses.replace(search, folder=TuneFolder(tmp_path / "undisturbed"))
    other.folder.begin({"data": {"fingerprint": "f"}}, search.experiment.source)
    assert known(run(other, 2)) == known(trials[:2])


def test_a_trial_that_diverges_fails_with_its_reason_and_the_search_goes_on(search, monkeypatch):
    def fit(*args, seed, **kwargs):
        if seed == 6:
            raise NumericalError("training stopped in epoch 1: the loss is nan")
        if seed == 7:
            raise MemoryError
        return trainer_loop.fit(*args, seed=seed, **kwargs)

    monkeypatch.setattr(tuning_loop, "fit", fit)
    trials = run(search, 4)
    assert [(trial.state, trial.reason) for trial in trials] == [
        ("done", ""), ("failed", "training stopped in epoch 1: the loss is nan"), ("failed", "out of memory"),
        ("done", "")]
    assert "the loss is nan" in search.folder.file(TuneFolder.TABLE).read_text()
    assert run(search, 4) == trials


def test_values_that_make_no_experiment_fail_and_bugs_are_raised(search, monkeypatch):
    source = search.experiment.source.replace("    return TwoTower", "    assert CONFIG.gamma != 0.2, 'no'\n"
                                                                     "    return TwoTower")
    search.folder.begin({"data": {"fingerprint": "f"}}, source)
    trials = run(search, 6)
    assert {trial.state for trial in trials} == {"done", "failed"}
    assert all((trial.params["gamma"] == 0.2) == ("AssertionError: no" in trial.reason) for trial in trials)
    monkeypatch.setattr(tuning_loop, "fit", lambda *args, **kwargs: [][0])
    with pytest.raises(IndexError):
        run(search, 20)


def test_a_hopeless_trial_is_pruned_but_not_in_its_last_epoch(search, monkeypatch):
    monkeypatch.setattr(tuning_loop.Candidate, "is_hopeless", lambda self, epoch, value: epoch == 2)
    trial, = run(search, 1)
    assert (trial.state, trial.epochs, trial.value) == ("pruned", 2, max(trial.curve))
    monkeypatch.setattr(tuning_loop.Candidate, "is_hopeless", lambda self, epoch, value: epoch == 3)
    assert run(search, 2)[1].state == "done"


def test_a_signal_drops_the_running_trial(search, monkeypatch):
    def fit(*args, seed, **kwargs):
        if seed == 6:
            signal.raise_signal(signal.SIGTERM)
        return trainer_loop.fit(*args, seed=seed, **kwargs)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(tuning_loop, "fit", fit)
    with pytest.raises(Stopped) as stopped:
        run(search, 3)
    assert stopped.value.number == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    monkeypatch.undo()
    assert [trial.state for trial in search.folder.trials(search.experiment.search)] == ["done"]
    assert [trial.attempts for trial in run(search, 2)] == [1, 1]


def test_a_signal_within_training_ends_the_search(search, monkeypatch):
    step = trainer_loop._Training._end_epoch
    monkeypatch.setattr(trainer_loop._Training, "_end_epoch",
                        lambda self: (signal.raise_signal(signal.SIGINT), step(self))[1])
    with pytest.raises(Stopped):
        run(search, 3)
    assert search.folder.trials(search.experiment.search) == []


@pytest.mark.parametrize(("seeds", "kept"), [(1, 1), (2, 0)])
def test_a_signal_in_a_training_s_last_moment_ends_the_search_too(search, monkeypatch, seeds, kept):
    """A trial that is done then counts; one whose other seeds are not trained yet is begun again."""
    validate = trainer_loop._Training._validate

    def last(self):
        line = validate(self)
        if self.progress.epoch + 1 == self.config.max_epochs:
            signal.raise_signal(signal.SIGINT)
        return line

    monkeypatch.setattr(trainer_loop._Training, "_validate", last)
    search = dataclasses.replace(search, seeds=seeds)
    with pytest.raises(Stopped) as stopped:
        run(search, 3)
    trials = search.folder.trials(search.experiment.search)
    assert stopped.value.number == signal.SIGINT and [trial.state for trial in trials] == ["done"] * kept
    monkeypatch.undo()
    assert [trial.state for trial in run(search, 2)] == ["done"] * 2


def test_without_test_there_is_no_test_split(captioned_pictures):
    data = without_test(captioned_pictures)
    assert data.test is data.valid and data.further == () and data.train is captioned_pictures.train
    assert data.fingerprint == captioned_pictures.fingerprint


# -- the folder ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("damage", [
    lambda lines: [lines[0][:40]], lambda lines: lines[1:], lambda lines: ["3", *lines],
    lambda lines: [lines[0].replace('"done"', '"finished"')],
    lambda lines: [lines[0].replace('"seed": 5', '"seed": "5"')],
    lambda lines: [lines[0].replace('"gamma": 0.5', '"gamma": 7')],
    lambda lines: [lines[0].replace('"gamma"', '"gama"')],
    lambda lines: [lines[0].replace('"done"', '"running"'), lines[1]], lambda lines: ["[" * 100_000],
    lambda lines: [lines[0].replace('"curve": [', '"curve": ["x", ')],
])
def test_damaged_trials_are_refused(search, damage):
    run(search, 2)
    path = search.folder.file(TuneFolder.TRIALS)
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(CheckpointError, match=r"trials\.jsonl is damaged .*--overwrite starts again"):
        search.folder.trials(search.experiment.search)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"data": 3}', '{"data": {"fingerprint": 3}}'])
def test_a_damaged_description_is_refused(search, content):
    search.folder.file(TuneFolder.SEARCH).write_text(content)
    with pytest.raises(CheckpointError, match=r"search\.json is damaged .*--overwrite starts again"):
        search.folder.about()


def test_one_search_at_a_time(search):
    with search.folder.taken(), pytest.raises(CheckpointError, match="another process is searching in"), \
            search.folder.taken():
        pass
