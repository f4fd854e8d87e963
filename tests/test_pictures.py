"""Pictures by what is in their axes, what a CorrNet restores by its errors in a loop, the options of run_eval.py."""
from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from xmodal import pictures
from xmodal.checkpoint import RunFolder
from xmodal.cli import run_eval, run_train
from xmodal.cli.drawing import distinct_pairs
from xmodal.data import PairSplit, load_data
from xmodal.evaluator import embed, restoring_errors
from xmodal.networks import CorrNet
from xmodal.pictures import ViewStyle, filter_sheet, neighbour_sheet, pair_sheet, reconstruction_sheet, walk_strip
from xmodal.report import restoring_block
from xmodal.runs import load_model

TWO_TOWER = str(Path(__file__).parent.parent / "models" / "digits_ccal_tno.py")
CORRNET = '''"""A small CorrNet."""
from torch import nn
from xmodal import CorrNet, CorrNetObjective, TrainConfig

CONFIG = TrainConfig(dim_latent=6, max_epochs=1)

def build_model(view1_shape, view2_shape):
    return CorrNet(nn.Linear(*view1_shape, 6), nn.Linear(*view2_shape, 6), nn.Linear(6, *view1_shape),
                   nn.Linear(6, *view2_shape), nn.Sigmoid())

def build_objective():
    return CorrNetObjective()
'''


AUTOENCODERS = '''"""Small autoencoders."""
from torch import nn
from xmodal import Autoencoders, Reconstruction, TrainConfig

CONFIG = TrainConfig(dim_latent=6, max_epochs=1, judge="loss")

def build_model(view1_shape, view2_shape):
    return Autoencoders(nn.Linear(*view1_shape, 6), nn.Linear(*view2_shape, 6), nn.Linear(6, *view1_shape),
                        nn.Linear(6, *view2_shape))

def build_objective():
    return Reconstruction()
'''
VARIATIONAL = '''"""A small variational autoencoder."""
from torch import nn
from xmodal import EvidenceBound, TrainConfig, VariationalAutoencoder

CONFIG = TrainConfig(dim_latent=4, max_epochs=1, judge="loss")

def build_model(view1_shape, view2_shape):
    return VariationalAutoencoder(4, nn.Linear(*view1_shape, 8), nn.Linear(*view2_shape, 8),
                                  nn.Linear(4, *view1_shape), nn.Linear(4, *view2_shape), "mixture")

def build_objective():
    return EvidenceBound()
'''


def images_of(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]


def restored_values(n: int, *shape: int) -> list[torch.Tensor]:
    return list(torch.rand(4, n, *shape, generator=torch.Generator().manual_seed(n)))


# -- drawing -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("shape", "picture"), [((6,), (3, 2)), ((3, 2), None), ((1, 3, 2), None)])
def test_a_sheet_shows_each_item_and_its_three_restorings_in_a_row(shape, picture):
    view1, view2 = restored_values(3, *shape), restored_values(3, 2, 2)
    figure = reconstruction_sheet(view1, view2, [ViewStyle(0.0, 1.0, picture), ViewStyle(0.0, 1.0)])
    drawn = images_of(figure)
    assert len(drawn) == 3 * 8
    for row in range(3):
        for column in range(4):
            np.testing.assert_allclose(drawn[8 * row + column], view1[column][row].reshape(3, 2))
            np.testing.assert_allclose(drawn[8 * row + 4 + column], view2[column][row])
    titles = [text.get_text().replace("\n", " ") for text in figure.texts]
    assert titles == ["view 1", "view 1 from view 1 alone", "view 1 from view 2 alone", "view 1 from both",
                      "view 2", "view 2 from view 1 alone", "view 2 from view 2 alone", "view 2 from both"]


def test_one_scale_for_a_view_so_that_pale_looks_pale():
    figure = reconstruction_sheet(restored_values(2, 2, 2), restored_values(2, 4), [ViewStyle(-1, 3), ViewStyle(0, 7)])
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(-1.0, 3.0)}
    assert all(axes.get_ylim() == pytest.approx((-0.35, 7.35)) for axes in figure.axes if not axes.images)


def test_colours_are_clipped_to_the_scale():
    colours = torch.tensor([-1.0, 0.0, 5.0]).repeat_interleave(4).reshape(1, 3, 2, 2)
    style = ViewStyle(0.0, 2.0)
    drawn = images_of(reconstruction_sheet([colours] * 4, [colours] * 4, [style, style]))[0]
    np.testing.assert_allclose(drawn, np.tile([0.0, 0.0, 1.0], (2, 2, 1)))


def test_what_is_no_picture_is_drawn_as_bars_and_if_long_as_a_line():
    few, many = restored_values(2, 10), restored_values(2, 65)
    figure = reconstruction_sheet(few, many, [ViewStyle(0, 1), ViewStyle(0, 1)])
    for row in range(2):
        for column in range(4):
            bars, line = figure.axes[8 * row + column], figure.axes[8 * row + 4 + column]
            np.testing.assert_allclose([bar.get_height() for bar in bars.patches], few[column][row])
            np.testing.assert_allclose(line.lines[-1].get_ydata(), many[column][row])
    assert [len(axes.get_xticks()) for axes in figure.axes[:8]] == [0] * 8      # numbers below the last row only
    assert [len(axes.get_xticks()) for axes in figure.axes[8:]] == [10] * 4 + [0] * 4


def test_a_walk_shows_view_1_above_view_2():
    upper, lower = torch.rand(3, 2, 2), torch.rand(3, 4)
    figure = walk_strip(upper, lower, [0.0, 0.5, 1.0], [ViewStyle(0, 1), ViewStyle(0, 1, (2, 2))])
    np.testing.assert_allclose(images_of(figure), torch.cat([upper, lower.reshape(3, 2, 2)]))
    assert sorted(text.get_text() for text in figure.texts) == ["0.5", "1", "t = 0", "view 1", "view 2"]


# -- which pairs, and errors -------------------------------------------------------------------------------------

def test_distinct_pairs_share_no_item():
    pairs = torch.tensor([[0, 3], [1, 3], [1, 2], [2, 2], [2, 0], [3, 1]])
    split = PairSplit("test", torch.zeros(4, 1), torch.zeros(4, 1), pairs)
    assert distinct_pairs(split, 10).tolist() == [0, 2, 4, 5] and distinct_pairs(split, 2).tolist() == [0, 2]
    assert distinct_pairs(PairSplit("test", torch.zeros(4, 1), torch.zeros(4, 1)), 3).tolist() == [0, 1, 2]


def small_corrnet() -> CorrNet:
    torch.manual_seed(0)
    return CorrNet(nn.Linear(12, 4), nn.Linear(9, 4), nn.Linear(4, 12), nn.Linear(4, 9), nn.Tanh())


def test_errors_are_those_of_a_loop_over_pairs(captioned_pictures):
    model, split = small_corrnet(), captioned_pictures.test
    sums: dict[str, list[float]] = {}
    with torch.no_grad():
        for one, two in split.pairs.tolist():
            x, y = split.view1[one:one + 1], split.view2[two:two + 1]
            for source, given in (("view1", {"x": x}), ("view2", {"y": y}), ("both", {"x": x, "y": y})):
                for view, (item, made) in enumerate(zip((x, y), model.reconstruct(**given), strict=True), start=1):
                    sums.setdefault(f"view{view}_from_{source}", []).append(float((item - made).square().mean()))
    errors = restoring_errors(model, captioned_pictures)
    assert errors == pytest.approx({name: sum(values) / len(values) for name, values in sums.items()}, rel=1e-5)
    block = restoring_block(errors)
    assert max(map(len, block.splitlines())) <= 80 and f"{errors['view2_from_view1']:.3g}" in block


# -- the command -------------------------------------------------------------------------------------------------

@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """A CorrNet and a TwoTower, each trained for an epoch; the options that name the first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    Path("small.py").write_text(CORRNET)
    Path("folder.png").mkdir()
    for model in ("small.py", TWO_TOWER):
        assert run_train.main(["--model", model, "--data", "digits", "--set", "max_epochs=1"]) == 0
    capsys.readouterr()
    return ["--model", "small.py", "--data", "digits"]


def test_both_pictures_are_written_and_errors_kept(trained, capsys):
    assert run_eval.main([*trained, "--reconstruct", "5", "--walk", "3", "7"]) == 0
    out = capsys.readouterr().out
    run = RunFolder("runs/small")
    kept = json.loads(run.file("metrics.json").read_text())
    data = load_data("digits")
    model, _, _ = load_model(run, data, RunFolder.WEIGHTS, torch.device("cpu"))
    assert kept["reconstruction"] == pytest.approx(restoring_errors(model, data))
    assert restoring_block(kept["reconstruction"]) in out and max(map(len, out.splitlines())) <= 80
    for name in ("reconstructions.png", "walk_3_7.png"):
        assert f"wrote {run.file(name)}" in out
        assert 100 < matplotlib.image.imread(run.file(name)).shape[1] < 1100


def test_the_pictures_hold_what_the_model_makes(trained, monkeypatch):
    drawn = []
    monkeypatch.setattr("xmodal.cli.drawing.reconstruction_sheet",
                        lambda *a: drawn.append(a) or reconstruction_sheet(*a))
    monkeypatch.setattr("xmodal.cli.drawing.walk_strip", lambda *a: drawn.append(a) or walk_strip(*a))
    assert run_eval.main([*trained, "--reconstruct", "4", "--walk", "3", "7"]) == 0
    data = load_data("digits")
    model, _, _ = load_model(RunFolder("runs/small"), data, RunFolder.WEIGHTS, torch.device("cpu"))
    (view1, view2, styles, _), (above, below, steps, _) = drawn
    x, y = data.test.view1[:4], data.test.view2[:4]
    with torch.no_grad():
        made = model.restorings(x, y)
        ends = model.code(y=data.test.view2[[3, 7]])
        path = torch.stack([(1 - t) * ends[0] + t * ends[1] for t in np.linspace(0, 1, 11)]).float()
        decoded = model.decode(path)
    for items, given, view in ((view1, x, 1), (view2, y, 2)):
        expected = [given, *(made[f"view{view}_from_{source}"] for source in ("view1", "view2", "both"))]
        for shown, value in zip(items, expected, strict=True):
            torch.testing.assert_close(shown, value)
    torch.testing.assert_close((above, below), decoded)
    assert steps == pytest.approx([i / 10 for i in range(11)]) and styles[0] == ViewStyle(0.0, 1.0, (8, 4))


@pytest.mark.parametrize(("name", "text"), [("auto", AUTOENCODERS), ("vae", VARIATIONAL)])
def test_autoencoders_show_what_they_restore_make_up_and_look_for(tmp_path, monkeypatch, capsys, name, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    Path(f"{name}.py").write_text(text)
    options, drawn = ["--model", f"{name}.py", "--data", "digits"], {}
    assert run_train.main(options) == 0 and "best validation loss" in capsys.readouterr().out
    for kind in ("reconstruction_sheet", "walk_strip", "pair_sheet", "filter_sheet"):
        make = getattr(pictures, kind)
        monkeypatch.setattr(f"xmodal.cli.drawing.{kind}", lambda *a, kind=kind, make=make:
                            drawn.setdefault(kind, []).append(a) or make(*a))
    assert run_eval.main([*options, "--reconstruct", "3", "--walk", "3", "7", "--filters", "4",
                          *(["--samples", "5"] if name == "vae" else [])]) == 0
    data = load_data("digits")
    model, _, _ = load_model(RunFolder(f"runs/{name}"), data, RunFolder.WEIGHTS, torch.device("cpu"))
    x, y = data.test.view1, data.test.view2
    with torch.no_grad():
        (columns1, columns2, _, sources), = drawn["reconstruction_sheet"]
        made = model.restorings(x[:3], y[:3])
        every = ["view 1 alone", "view 2 alone", "both"]
        assert list(sources) == ([every[:1], every[1:2]] if name == "auto" else [every, every])
        torch.testing.assert_close(columns1[1], made["view1_from_view1"])
        torch.testing.assert_close(columns2[-1], made["view2_from_view2" if name == "auto" else "view2_from_both"])
        (above, below, _, _), = drawn["walk_strip"]
        ends = model.code(x[[3, 7]], y[[3, 7]]) if name == "auto" else model.code(y=y[[3, 7]])
        torch.testing.assert_close((above[0], below[-1]), (model.decode(ends)[0][0], model.decode(ends)[1][1]))
        if name == "vae":
            torch.testing.assert_close(drawn["pair_sheet"][0][:2], model.sample(5, 23))
    layers = [model.tower1, model.tower2] if name == "auto" else [model.encoder1, model.encoder2]
    for (filters, picture), layer in zip(drawn["filter_sheet"], layers, strict=True):
        longest = layer.weight.norm(dim=1).argsort(descending=True)[:4]
        assert torch.equal(filters, layer.weight.detach()[longest]) and picture == (8, 4)
    written = {path.name for path in Path(f"runs/{name}").glob("*.png")}
    assert written == {"reconstructions.png", "walk_3_7.png", "filters1.png", "filters2.png",
                       *(["samples.png"] if name == "vae" else [])}
    block = restoring_block(restoring_errors(model, data))
    assert block in capsys.readouterr().out and ("from both" in block) == (name == "vae")
    if name == "auto":
        assert run_eval.main([*options, "--samples", "3"]) == 2
        assert "--samples needs a model that has a prior of codes, such as VariationalAutoencoder" in \
            capsys.readouterr().err


def test_walks_and_filters_where_there_is_nothing_to_draw_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    arrays = {f"{split}_{view}": torch.randn(12, 6, generator=draw).numpy() for split in ("train", "valid", "test")
              for view in ("view1", "view2")}
    arrays |= {f"{split}_pairs": np.array([[i, i] for i in range(11)]) for split in ("train", "valid", "test")}
    np.savez("some.npz", **arrays)
    Path("auto.py").write_text(AUTOENCODERS.replace("nn.Linear(*view1_shape, 6), nn.Linear(*view2_shape, 6),",
                                                    "nn.Sequential(Half(), nn.Linear(3, 6)), nn.Linear(6, 6),")
                               .replace("CONFIG =", "class Half(nn.Module):\n    def forward(self, x):\n"
                                                    "        return x[:, ::2]\n\nCONFIG ="))
    options = ["--model", "auto.py", "--data", "some.npz"]
    assert run_train.main(options) == 0
    capsys.readouterr()
    assert run_eval.main([*options, "--walk", "3", "11"]) == 2
    assert "view-2 item 11 of the test split has no partner in view 1" in capsys.readouterr().err
    assert run_eval.main([*options, "--filters", "2"]) == 0      # weights of half an item: bars


def test_filters_are_each_on_a_scale_of_their_own():
    filters = torch.tensor([[0.1, -0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, -1.5]])
    drawn = images_of(filter_sheet(filters, (2, 2), across=2))
    np.testing.assert_allclose(drawn, [[[0.5, -1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, -0.5]]])


@pytest.mark.parametrize("direction", ["V1_to_V2", "V2_to_V1"])
def test_neighbours_are_the_nearest_by_cosine_and_partners_are_framed(trained, monkeypatch, capsys, direction):
    drawn = []
    monkeypatch.setattr("xmodal.cli.drawing.neighbour_sheet", lambda *a: drawn.append(a) or neighbour_sheet(*a))
    options = ["--V2_to_V1"] if direction == "V2_to_V1" else []
    assert run_eval.main(["--model", TWO_TOWER, "--data", "digits", "--neighbours", "3", *options]) == 0
    assert f"neighbours_{direction}.png" in capsys.readouterr().out
    assert Path(f"runs/digits_ccal_tno/neighbours_{direction}.png").is_file()
    data = load_data("digits")
    model, _, _ = load_model(RunFolder("runs/digits_ccal_tno"), data, RunFolder.WEIGHTS, torch.device("cpu"))
    (queries, partners, neighbours, found, ranks, styles), = drawn
    items = [data.test.view1, data.test.view2] if not options else [data.test.view2, data.test.view1]
    z = [z.double() / z.double().norm(dim=1, keepdim=True) for z in embed(model, data.test)]
    scores = (z[0] @ z[1].T if not options else z[1] @ z[0].T)[[0, 199, 399]]
    order = scores.argsort(dim=1, descending=True)
    torch.testing.assert_close(queries, items[0][[0, 199, 399]])
    torch.testing.assert_close(partners, items[1][[0, 199, 399]])
    torch.testing.assert_close(torch.stack(neighbours), items[1][order[:, :5]])
    assert ranks == [1.0 + order[i].tolist().index(row) for i, row in enumerate((0, 199, 399))]
    assert found.tolist() == [[item == row for item in order[i, :5].tolist()] for i, row in enumerate((0, 199, 399))]
    assert [style.picture for style in styles] == [(8, 4), (8, 4)]


def test_a_sheet_of_neighbours_frames_what_was_found():
    found = torch.tensor([[False, True], [False, False]])
    figure = neighbour_sheet(torch.rand(2, 3, 3), torch.rand(2, 2, 2), torch.rand(2, 2, 2, 2), found, [2.0, 7.5],
                             [ViewStyle(0.0, 1.0), ViewStyle(0.0, 1.0, rising=True)])
    framed = [axes.axison for axes in figure.axes]
    assert framed == [False, False, False, True, False, False, False, False]
    assert [axes.images[0].origin for axes in figure.axes] == ["upper", "lower", "lower", "lower"] * 2
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["rank 2", "rank 7.5", "query", "its partner", "1.", "2."]
    written = neighbour_sheet(torch.rand(2, 3, 3), ["a", "b"], [["c", "d"], ["e", "f"]], found, [2.0, 7.5],
                              [ViewStyle(0.0, 1.0)] * 2)
    assert written.axes[3].axison and not any(axes.get_xticks().size or axes.get_yticks().size
                                              for axes in written.axes)


def test_a_sheet_of_pairs_has_each_beside_its_partner():
    view1, view2 = torch.rand(8, 3, 3), torch.rand(8, 2, 2)
    drawn = images_of(pair_sheet(view1, view2, [ViewStyle(0.0, 1.0)] * 2))
    assert len(drawn) == 16
    for i in range(8):
        np.testing.assert_allclose(drawn[2 * i], view1[i])
        np.testing.assert_allclose(drawn[2 * i + 1], view2[i])


def test_json_keeps_stdout_to_itself_and_other_splits_have_their_own_names(trained, capsys):
    assert run_eval.main([*trained, "--reconstruct", "2", "--json", "--split", "valid", "--n_test", "20"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["reconstruction"]["view1_from_both"] > 0
    assert "reconstructions_valid_n20.png" in captured.err
    assert run_eval.main([*trained, "--walk", "0", "1", "--out", "here.png"]) == 0
    assert Path("here.png").is_file() and not Path("runs/small/walk_0_1.png").exists()


@pytest.mark.parametrize(("options", "message"), [
    (["--reconstruct", "0"], "--reconstruct must be from 1 to 50, got 0"),
    (["--reconstruct", "51"], "--reconstruct must be from 1 to 50, got 51"),
    (["--reconstruct", "9", "--n_test", "7"], "must be from 1 to 7 (the test pairs that share no item"),
    (["--neighbours", "0"], "--neighbours must be from 1 to 50, got 0"),
    (["--neighbours", "8", "--n_test", "7"], "--neighbours must be from 1 to 7, got 8"),
    (["--filters", "0"], "--filters must be from 1 to 50, got 0"),
    (["--filters", "3", "--out", "a.png"], "--out names one picture"),
    (["--walk", "0", "400"], "--walk: view-2 items of the test split are 0 to 399, got 0 and 400"),
    (["--walk", "-1", "3"], "got -1 and 3"),
    (["--walk", "0", "3", "--reconstruct", "2", "--out", "a.png"], "give it with either --reconstruct"),
    (["--neighbours", "3", "--reconstruct", "2", "--out", "a.png"], "give it with either --reconstruct"),
    (["--out", "a.png"], "give it with either --reconstruct, --walk"),
    (["--reconstruct", "2", "--out", "a.pdf"], "expected a file that ends in .png, got .pdf"),
    (["--reconstruct", "2", "--out", "a\0.png"], "--out can't hold a NUL character"),
    (["--reconstruct", "2", "--out", "nowhere/a.png"], "there is no folder nowhere"),
    (["--reconstruct", "2", "--out", "folder.png"], "--out folder.png is a folder"),
])
def test_refused_in_one_line(trained, capsys, options, message):
    assert run_eval.main([*trained, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out
    assert list(Path().glob("**/*.png")) == [Path("folder.png")]


@pytest.mark.parametrize("option", [["--reconstruct", "2"], ["--walk", "0", "1"]])
def test_a_model_that_restores_nothing_is_told_so(trained, capsys, option):
    assert run_eval.main(["--model", TWO_TOWER, "--data", "digits", *option]) == 2
    assert (f"{option[0]} needs a model that restores its views, such as CorrNet; TwoTower does not"
            in capsys.readouterr().err)
