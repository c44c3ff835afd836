"""Records in git follow from their predictions, on whole test sides; what does not is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from iqa_lib.data.splits import by_reference
from iqa_lib.lab import kept, plan, records, tables
from iqa_lib.lab.parameters import read_parameters, validate
from iqa_lib.metrics import AGREEMENT

RUN = "04_ahiq/table2_tid2013"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty repository for runs and records."""
    for module in (records, kept):
        monkeypatch.setattr(f"{module.__name__}.repo_root", lambda: tmp_path)
    return tmp_path


def write_run(root, run=RUN, seed=0, noise=0.5, references=25, change=lambda table: table, **changes):
    """A finished run on TID2013's test fifth, as its notebook writes it; `changes` of its record."""
    ids = by_reference((f"I{n:02}" for n in range(1, 1 + references)), {"train": 0.6, "val": 0.2, "test": 0.2})["test"]
    draws, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    rows = [
        (i, f"{i}.BMP", f"{i}_{kind:02}_{level}.bmp") for i in ids for kind in range(1, 25) for level in range(1, 6)
    ]
    table = pd.DataFrame(rows, columns=["reference_id", "reference", "distorted"])
    table = table.assign(side="test", target=draws.uniform(0, 9, len(table)))
    table["prediction"] = table.target + noise * own.normal(size=len(table))
    table["gmsd"] = draws.uniform(0, 9, len(table)) - table.target
    found = {}
    for method, scores in {"AHIQ": table.prediction, "GMSD": -table.gmsd}.items():
        for name, compute in AGREEMENT.items():
            found[f"{name} {method}"] = compute(scores, table.target, table.reference_id, resamples=2).as_dict()
    table = change(table)
    notebook, row = run.split("/")
    given = validate(notebook, read_parameters(*plan.parameter_files(RUN, "paper"))) | {"seed": seed, "row": row}
    seen = {"name": "tid2013", "split": "test", "records": len(table), "label": "MOS", "references": len(ids)}
    seen["fingerprint"] = kept.fingerprint(table, "tid2013", "test")
    record = {"notebook": notebook, "parameters": given, "metrics": found, "data": {"test": seen}, "seconds": 1.0}
    record |= {"weights": {"network": "r50", "source": "hub", "sha256": "89ab"}, "device": "NVIDIA H100"}
    record |= {"peak_memory_bytes": 10**9, "commit": "0123456789", "dirty": False} | changes
    folder = root / records.folder("paper", run, seed)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / records.PREDICTIONS, index=False)
    (folder / records.RECORD).write_text(json.dumps(record))
    (folder / records.WEIGHTS).write_bytes(b"large")
    return folder


def test_every_kept_record_of_the_repository_follows_from_its_predictions():
    for place in kept.folders():
        kept.verify(place)


def test_a_run_is_kept_without_weights_and_verified_again(root, capsys):
    folder = write_run(root)
    assert kept.main(["add", str(folder)]) == 0
    assert "commit it" in capsys.readouterr().out
    (place,) = kept.folders()
    assert sorted(file.name for file in place.iterdir()) == [kept.PREDICTIONS, records.RECORD]
    assert place.parent == root / "outputs/records" / RUN
    kept.verify(place)
    record, before = kept.read(place), records.read(folder)
    for name, recorded in before["metrics"].items():
        assert record["metrics"][name]["value"] == pytest.approx(recorded["value"], abs=1e-9)
    assert len(record["date"]) == len("2026-01-01")
    assert kept.add(folder) == place
    assert records.finished() == [folder]


def better(record):
    record["metrics"]["srocc AHIQ"]["value"] += 0.01


def another(record):
    record["data"]["test"]["fingerprint"] = "0" * 64


def demo(record):
    record["data"]["test"]["name"] = "demo"


def shorter(record):
    record["parameters"]["epochs"] = 1


def smaller(record):
    record["parameters"]["scale"] = "trial"


def unknown(record):
    record["parameters"]["row"] = "mine"


def outside(record):
    record |= {"commit": "unknown: no checkout", "dirty": None}


def changed(record):
    record["dirty"] = True


FORGED = {
    better: "srocc AHIQ: got .* expected .* by the predictions",
    another: "test: the predictions are not of the records whose fingerprint",
    demo: "or the demo set, expected 'paper'",
    shorter: "epochs: got 1, expected 200",
    smaller: "scale: got 'trial'",
    unknown: "row: got 04_ahiq/mine, expected one that params/tables.yaml has",
    outside: "commit: got 'unknown: no checkout', expected",
    changed: "commit: got a run of changed files, expected",
}


@pytest.mark.parametrize("forge", FORGED)
def test_a_forged_record_is_refused(root, forge, capsys):
    folder = write_run(root)
    record = json.loads((folder / records.RECORD).read_text())
    forge(record)
    (folder / records.RECORD).write_text(json.dumps(record))
    with pytest.raises(kept.RecordError, match=FORGED[forge]):
        kept.add(folder)
    assert kept.main(["add", str(folder)]) == 1
    assert "is not kept" in capsys.readouterr().err
    assert not kept.folders()


def test_predictions_that_are_not_those_of_the_record_are_refused_by_name(root, capsys):
    folder = write_run(root, files={records.PREDICTIONS: "0" * 64})
    assert kept.main(["add", str(folder)]) == 1
    assert "predictions.csv is damaged, or not of the run that its record is about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda table: table.iloc[:-1], "got 599 records of tid2013, test, expected 600"),
        (lambda table: table[table.reference_id != table.reference_id[0]], "got 4 references"),
        (lambda table: table.assign(prediction=table.target), "srocc AHIQ: got"),
        (lambda table: table.assign(gmsd=-table.gmsd), "srocc GMSD: got"),
    ],
)
def test_predictions_of_a_part_or_of_others_are_refused(root, change, error):
    with pytest.raises(kept.RecordError, match=error):
        kept.add(write_run(root, change=change))


def test_a_record_changed_after_it_was_kept_is_found(root):
    place = kept.add(write_run(root))
    record = kept.read(place)
    better(record)
    (place / records.RECORD).write_text(json.dumps(record))
    with pytest.raises(kept.RecordError, match="srocc AHIQ: got"):
        kept.verify(place)
    record["metrics"] |= {"srocc magic": record["metrics"].pop("srocc AHIQ")}
    (place / records.RECORD).write_text(json.dumps(record))
    with pytest.raises(kept.RecordError, match="srocc magic: got a number, expected none"):
        kept.verify(place)


def test_tables_show_kept_records_and_compare_two_of_one_test_set_paired(root):
    first, second = (kept.add(write_run(root, seed=seed, noise=noise)) for seed, noise in ((0, 0.5), (1, 2.5)))
    table = plan.specifications()["ahiq_table2"]
    lines = kept.shown(table, "paper")
    lines = lines[(lines.column == "SROCC TID2013") & (lines.row == "AHIQ (ViT-B/16), test fifth")]
    assert set(lines.record) == {first.name, second.name}
    for line in lines.itertuples():
        assert line.paper == 0.962
        assert line.device == "NVIDIA H100"
        assert line.commit == "01234567"
    base, other = sorted(lines.itertuples(), key=lambda line: bool(line.minus))
    assert not base.minus
    difference, low, high = map(float, other.minus.replace("[", "").replace("]", "").replace(",", "").split()[:3])
    alone = [float(line.kept.split()[0]) for line in (other, base)]
    assert difference == pytest.approx(alone[0] - alone[1], abs=0.002)
    assert low <= difference <= high
    assert base.record in other.minus
    assert kept.shown(table, "demo").empty
    assert kept.NOTE in tables.text("ahiq_table2", "paper")
