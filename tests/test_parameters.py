"""Parameters: what the notebooks declare, what the files set, and what is refused."""

import math

import pytest

from iqa_lib import data, training, views
from iqa_lib.data import protocols
from iqa_lib.files import repo_root
from iqa_lib.lab.parameters import ParameterError, crops_of_test, declarations, declared, read_parameters, validate
from iqa_lib.models import ahiq, fr_nr, iqa_tmfm, lpips_plus, prfnet, topiq

ROOT = repo_root()
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("0[1-6]*.ipynb"))
ROWS = sorted(path for path in (ROOT / "params").glob("*/*.yaml"))
AT_A_SCALE = sorted(path for path in (ROOT / "params").glob("*/*/*.yaml"))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_parameter_has_a_default_of_its_type_and_a_help_text_or_choices(notebook):
    for parameter in declared(notebook).values():
        assert type(parameter.default) is parameter.type, parameter.name
        assert len(parameter.help) > 5 or parameter.choices, parameter.name


@pytest.mark.parametrize("file", AT_A_SCALE, ids=lambda path: f"{path.parent.parent.name}/{path.stem}")
def test_what_a_row_has_of_its_own_at_a_scale_goes_with_a_row(file):
    values, row = read_parameters(file), file.parents[1] / file.name
    validate(file.parents[1].name, read_parameters(row, file))
    assert file.parent.name in ("demo", "paper")
    assert values["row"] == file.stem


@pytest.mark.parametrize("file", ROWS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_parameter_file_is_valid_and_names_its_command(file):
    values = read_parameters(file)
    validate(file.parent.name, values)
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any("Command:" in line for line in header)
    assert values["row"] == file.stem


@pytest.mark.parametrize("notebook", [*NOTEBOOKS, "08_playground"])
def test_no_smoke_or_demo_row_stands_on_random_weights(notebook):
    """Neither by the notebook's defaults nor by any file of a row on top of the demo profile."""
    folder = ROOT / "params" / notebook
    profile, rows = folder / "demo.yaml", [file.name for file in folder.glob("*.yaml") if file.stem != "paper"]
    given = [[], *([file for file in (profile, folder / row, folder / "demo" / row) if file.exists()] for row in rows)]
    for files in given:
        resolved = validate(notebook, read_parameters(*files))
        stands_on = {name: value for name, value in resolved.items() if name.endswith("weights")}
        assert resolved["scale"] == "paper" or "random" not in stands_on.values(), (files, stands_on)
    for name in stands_on:
        with pytest.raises(ParameterError, match=f"{name}: got 'random' at demo scale, expected real weights: give"):
            validate(notebook, {"scale": "demo", name: "random"})
        validate(notebook, {"scale": "trial", name: "random"})


def test_rows_hold_only_what_differs_from_the_notebook():
    for file in ROWS:
        values = read_parameters(file)
        if "scale" not in values and file.stem != "official_code":
            assert len(values) <= 5, file


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stgae": 2}, "stgae: unknown, did you mean stage?"),
        ({"lr_1": "fast"}, "lr_1: got 'fast' (str), expected float"),
        ({"lr_1": "1e-4"}, "in YAML write 1.0e-4"),
        ({"epochs_1": 2.5}, "epochs_1: got 2.5 (float), expected int"),
        ({"se": 1}, "se: got 1 (int), expected bool"),
        ({"seed": True}, "seed: got True (bool), expected int"),
        ({"batch_size": 0}, "batch_size: got 0, expected above 0"),
        ({"seed": -1}, "seed: got -1, expected at least 0"),
        ({"lr_1": float("nan")}, "lr_1: got nan, expected a finite number above 0"),
        ({"lr_1": float("inf")}, "lr_1: got inf, expected a finite number above 0"),
        ({"momentum": float("nan")}, "momentum: got nan, expected 0 to 0.999"),
        ({"stage": 3}, "stage: got '3', expected one of '1', '2', 'all'"),
        ({"dropout": 1.5}, "dropout: got 1.5, expected 0 to 0.99"),
        ({"crop": 31}, "crop: got 31, expected 32 to 8192"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_expected(values, message):
    with pytest.raises(ParameterError, match="parameters of 03_prfnet") as caught:
        validate("03_prfnet", values)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["row", "scale"])
@pytest.mark.parametrize(
    "value", ["../../../../escape", "", "a/b", ".", "..", "steps", "Steps", "/tmp/x", "a\n", "ü", 7]
)
def test_a_name_that_becomes_a_folder_stays_in_its_place(name, value):
    with pytest.raises(ParameterError, match=rf"{name}: got .*, expected a name that begins with a letter"):
        validate("03_prfnet", {name: value})
    assert validate("03_prfnet", {name: "mine_2.a-b"})[name] == "mine_2.a-b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 9_300_000_000_000}, "seed: got 9300000000000, expected at most 4294967295"),
        ({"split": 2**32}, "split: got 4294967296, expected at most 4294967295"),
        ({"lr_1": math.inf}, "lr_1: got inf, expected a finite number above 0"),
        ({"lr_2": math.nan}, "lr_2: got nan, expected a finite number above 0"),
        ({"lr_1": 1e10}, "lr_1: got 10000000000.0, expected at most 10"),
        ({"batch_size": 16, "accumulate": 3}, r"accumulate: got 3, expected a divisor of batch_size \(16\)"),
        ({"crop": 8000, "max_batch": 999, "crop_count": 999}, r"crop: got 999 crops of 8000 px at once, about \d+ GB"),
        ({"test_crop": 8000, "max_batch": 999, "test_crop_count": 999}, r"test_crop: got 999 crops .* lower test_crop"),
    ],
)
def test_what_would_fail_later_stops_before_any_work(values, message):
    with pytest.raises(ParameterError, match=message):
        validate("03_prfnet", values)


def test_all_wrong_parameters_are_listed_at_once():
    with pytest.raises(ParameterError) as caught:
        validate("03_prfnet", {"stgae": 2, "lr_1": "fast", "crop": -1})
    assert all(name in str(caught.value) for name in ("stgae", "lr_1", "crop"))


def test_numbers_become_the_declared_type():
    resolved = validate("03_prfnet", {"stage": 2, "lr_1": 1})
    assert resolved["stage"] == "2"
    assert resolved["lr_1"] == 1.0
    assert isinstance(resolved["lr_1"], float)
    assert list(resolved) == list(declared("03_prfnet"))


@pytest.mark.parametrize(
    ("line", "right", "wrong"),
    [
        ("x: str = ''  # {'' | a b | c+d} help", ["", "a b", "c+d"], ["a", "''"]),
        ("x: str = 'any'  # text; {not a mark}", ["", "all"], [1.5]),
        ("x: float = 0.5  # [0, 0.99] help", [0.0, 0.99, 0], [-0.1, 1.0]),
        ("x: int = 3  # [0, inf) help", [0, 10**30], [-1, True]),
        ("x: int = -2  # [-5, -1] help", [-5, -1], [0]),
        ("x: float = 0.1  # help; 0: none", [1e-9, 7], [0.0, float("inf"), "1"]),
        ("x: bool = True  # help", [False], [0]),
    ],
)
def test_a_mark_closes_what_is_allowed(line, right, wrong):
    parameter = declarations(line)["x"]
    assert parameter.help == line.partition("# ")[2].split("} " if "{'' |" in line else "] ")[-1].split("inf) ")[-1]
    assert not any(parameter.problem(parameter.converted(value)) for value in right)
    assert all(parameter.problem(parameter.converted(value)) for value in wrong)


@pytest.mark.parametrize(
    "line",
    [
        "x: str = 'a'  # {a | b",
        "x: str = 'a'  # [0, 1] help",
        "x: int = 1  # {1 | 2} help",
        "x: int = 1  # [0, 1) help",
        "x: int = 1  # [0, inf] help",
        "x: int = 1  # [low, high] help",
        "x: bool = True  # [0, 1] help",
        "x: str = 'c'  # {a | b} help",
        "x: int = 7  # [0, 5] help",
        "x: int = 0  # help",
    ],
)
def test_a_mark_that_cannot_be_read_or_that_excludes_the_default_is_refused(line):
    with pytest.raises(ParameterError, match="x: "):
        declarations(line)


PROTOCOLS, JUDGED = set(views.PROTOCOLS), (*protocols.PAIR_SETS, "bapps", "pieapp")
CONSTRUCTORS = {
    "02_iqa_tmfm": dict(
        preset=iqa_tmfm.PRESETS,
        dataset=protocols.TRIPLET_SETS,
        residual=iqa_tmfm.RESIDUALS,
        metric_input=iqa_tmfm.METRIC_INPUTS,
        activation=iqa_tmfm.ACTIVATIONS,
        crops=PROTOCOLS - {"whole"},
    ),
    "03_prfnet": dict(dataset=protocols.TRIPLET_SETS, fusion=prfnet.FUSIONS, gate_conv=prfnet.GATE_CONVS),
    "04_ahiq": dict(
        preset=ahiq.PRESETS,
        dataset=protocols.PAIR_SETS,
        cross=("", *protocols.PAIR_SETS),
        cnn=ahiq.CNNS,
        vit=ahiq.VITS,
        fusion=ahiq.FUSIONS,
        pooling=ahiq.POOLINGS,
        crops=PROTOCOLS - {"whole"},
        flip=views.FLIPS,
    ),
    "05_fr_nr": dict(
        dataset=protocols.PAIR_SETS, cross=("", *protocols.PAIR_SETS), vgg_taps=fr_nr.VGG_TAPS, flip=views.FLIPS
    ),
    "06_lpips_plus": dict(dataset=JUDGED, net=lpips_plus.NETS),
    "06_topiq": dict(
        dataset=JUDGED,
        cross=("", *protocols.PAIR_SETS),
        glp=topiq.GLPS,
        cross_scale=topiq.CROSS_SCALES,
        crops=PROTOCOLS - {"whole"},
        test_crops=PROTOCOLS,
    ),
    "01_baselines": dict(dataset=data.NAMES),
}
EVERYWHERE = dict(precision=training.PRECISIONS, crops=PROTOCOLS, test_crops=PROTOCOLS)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebooks_choices_are_those_that_the_code_knows(notebook):
    known = EVERYWHERE | {"test_crops": CONSTRUCTORS[notebook].get("crops", PROTOCOLS)} | CONSTRUCTORS[notebook]
    found = declared(notebook)
    assert set(CONSTRUCTORS[notebook]) <= set(found)
    for name in known.keys() & found.keys():
        assert set(found[name].choices) == set(known[name]), name
    for name, known in dict(schedule=training.SCHEDULES, optimizer=training.OPTIMIZERS).items():
        assert name not in found or {*found[name].choices} <= {*known}, name


@pytest.mark.parametrize(
    "line", ["x: str = 'a' # {a | b} help", "x: str = 'a'  #{a | b} help", "x: str = 'a'  # {a | b} # 2"]
)
def test_a_mark_is_found_however_the_comment_is_written(line):
    assert declarations(line)["x"].choices == ("a", "b")


def test_a_mark_of_another_form_is_an_error():
    with pytest.raises(ParameterError, match="got the mark"):
        declarations("x: int = 1  # (0, 5] help")


def test_a_run_without_test_crops_is_tested_on_whole_images_whatever_it_was_trained_on():
    assert crops_of_test({"crop": 64}) == {"protocol": "whole"}
    assert crops_of_test({"crop": 64, "test_crops": "corners"}) == {"protocol": "corners", "size": 64, "count": 1}
    assert crops_of_test({"crop": 64, "test_crops": "grid", "test_crop": 96, "test_crop_count": 4})["size"] == 96
