"""The demo set: its simulated scores and votes, its images, and that these are made once, whole and repeatably."""

import json
import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from iqa_lib.data import DataError, demo, load
from iqa_lib.data.distortions import DISTORTIONS, distort
from iqa_lib.files import sha256
from iqa_lib.images import read_image

load = partial(load, "demo")
NOISE = 0.7 / math.sqrt(30)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setenv("IQA_LIB_CACHE", str(cache))


@pytest.fixture
def unmade(monkeypatch):
    """Records without their images."""
    monkeypatch.setattr(demo, "make", lambda *_: None)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Photographs as users have them: of odd sizes, upright, grey, in several formats, beside other files."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, (width, height) in {"wide.png": (401, 131), "tall.JPG": (90, 233), "tiny.bmp": (5, 3)}.items():
        coarse = Image.fromarray(rng.integers(256, size=(4, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
    Image.linear_gradient("L").save(folder / "grey.webp", lossless=True)
    (folder / "notes.txt").write_text("no photograph")
    return folder


@pytest.fixture
def small(photos):
    """A function that loads the photographs' set: four references, at most twelve images."""
    return partial(load, split="all", photos=photos, scenes=0, triplets=1)


def cell(path) -> tuple[int, int]:
    number, level = path.stem.split("_")
    return int(number), int(level)


def manifest(root) -> dict[str, str]:
    return json.loads((root / "manifest.json").read_text())


def assert_whole(root, dataset) -> None:
    """Every image is there as the manifest says, and nothing else."""
    known = manifest(root)
    assert {name: sha256(root / name) for name in known} == known
    assert {str(path.relative_to(root)) for path in root.glob("*/*")} == set(known)
    assert {path.relative_to(root).as_posix() for path in dataset.paths()} <= set(known)


# --- Scores and votes


def test_level_means_are_kadids():
    table = pd.read_csv(files("iqa_lib.data") / "kadid10k_level_means.csv", comment="#")
    assert len(table) == 125
    assert set(table.n) == {81}
    assert demo.level_means() == {(row.type, row.level): row.mean_score for row in table.itertuples()}
    assert set(demo.level_means()) == {(number, level) for number in range(1, 26) for level in range(1, 6)}
    for known, score in {(1, 1): 4.6122, (1, 4): 1.8730, (10, 5): 1.3502, (18, 3): 4.6030, (25, 5): 3.3238}.items():
        assert demo.level_means()[known] == score


def test_level_means_fit_the_levels_parameters():
    """Where a type's parameter is 0 nothing is done to the image, and people saw that."""
    for distortion in DISTORTIONS:
        means = [demo.level_means()[distortion.number, level] for level in range(1, 6)]
        if distortion.name in ("mean shift", "contrast change"):
            assert np.argmax(means) == distortion.levels.index(0)
        elif distortion.name in ("Gaussian blur", "lens blur", "motion blur", "JPEG", "JPEG2000", "white noise"):
            assert means == sorted(means, reverse=True)


def test_scores_are_the_level_means_and_the_error_of_thirty_ratings():
    assert demo.scores("astronaut") == demo.scores("astronaut")
    errors = np.array(
        [
            [score - demo.level_means()[cell] for cell, score in demo.scores(f"image {number}").items()]
            for number in range(400)
        ]
    )
    means = np.array(list(demo.level_means().values()))
    inner = errors[:, (means > 1 + 4 * NOISE) & (means < 5 - 4 * NOISE)]  # where no score is clipped
    assert inner.size > 30_000
    assert abs(inner.mean()) < 4 * NOISE / math.sqrt(inner.size)
    assert inner.std() == pytest.approx(NOISE, rel=0.02)
    assert np.abs(inner.mean(axis=0)).max() < 4.5 * NOISE / math.sqrt(400)
    assert abs(np.corrcoef(errors)[np.triu_indices(400, 1)].mean()) < 0.005


def test_scores_stay_on_the_scale():
    every = np.array([list(demo.scores(f"image {number}").values()) for number in range(200)])
    assert every.min() == 1
    assert 4.8 < every.max() <= 5


def test_preference_by_hand():
    assert demo.probability_b_closer(3, 3) == 0.5
    assert demo.probability_b_closer(2, 2 + math.sqrt(2) * 0.5) == pytest.approx(0.8413447, abs=1e-6)
    assert demo.probability_b_closer(2 + math.sqrt(2) * 0.5, 2) == pytest.approx(1 - 0.8413447, abs=1e-6)
    assert demo.probability_b_closer(np.array([1, 5]), np.array([5, 1])) == pytest.approx([1, 0], abs=1e-6)


@pytest.mark.parametrize("votes", [1, 5])
def test_votes_follow_the_preference(unmade, votes):
    records = load(split="all", scenes=2, triplets=600, votes=votes).records
    p_b = np.array([record.p_b for record in records])
    assert set((p_b * votes).round(9)) == set(range(votes + 1))
    score = {reference: demo.scores(reference) for reference in {record.reference_id for record in records}}
    score_a, score_b = np.array([[score[r.reference_id][cell(path)] for path in (r.a, r.b)] for r in records]).T
    expected = demo.probability_b_closer(score_a, score_b)
    edges = np.linspace(0, 1, 11)
    for low, high in pairwise(edges):
        inside = (expected >= low) & (expected <= high)
        error = math.sqrt((expected[inside] * (1 - expected[inside])).sum() / votes)
        assert inside.sum() > 100
        assert abs((p_b - expected)[inside].sum()) < 4 * error
    variance = (expected * (1 - expected)).mean() / votes
    assert np.square(p_b - expected).mean() == pytest.approx(variance, rel=0.05)


def test_triplets_are_pairs_of_distinct_images_drawn_evenly(unmade):
    dataset = load(split="all", triplets=250)
    assert len(dataset) == 5_000
    assert all(record.a != record.b for record in dataset.records)
    assert set(pd.Series(dataset.reference_ids).value_counts()) == {250}
    drawn = pd.Series([cell(path) for record in dataset.records for path in (record.a, record.b)]).value_counts()
    assert len(drawn) == 125
    assert drawn.to_numpy() == pytest.approx(np.full(125, 80), abs=5 * math.sqrt(80))
    for record in dataset.records[:50]:
        assert [record.kind_a, record.kind_b] == [DISTORTIONS[cell(path)[0] - 1].name for path in (record.a, record.b)]


def test_another_number_of_votes_has_other_triplets(unmade):
    hard, soft = (load(split="all", votes=votes).records for votes in (1, 5))
    same = sum(one.images == other.images for one, other in zip(hard, soft, strict=True))
    assert same < 0.01 * len(hard)


def test_more_triplets_begin_with_the_fewer(unmade):
    few, many = (load(split="all", scenes=0, triplets=number) for number in (3, 9))
    for reference in set(few.reference_ids):
        of_few, of_many = ([r for r in d.records if r.reference_id == reference] for d in (few, many))
        assert of_few == of_many[:3]


def test_pairs_are_all_125_of_each_reference(unmade):
    dataset = load(split="all", task="pairs", scenes=1)
    assert len(dataset) == 9 * 125
    assert (dataset.label.low, dataset.label.high, dataset.label.higher_is_better) == (1, 5, True)
    for reference in set(dataset.reference_ids):
        pairs = [pair for pair in dataset.records if pair.reference_id == reference]
        assert {cell(pair.distorted): pair.score for pair in pairs} == demo.scores(reference)
        assert {(pair.distorted.parent.name, pair.reference.parent.name) for pair in pairs} == {(reference, reference)}
        assert all(pair.kind == DISTORTIONS[cell(pair.distorted)[0] - 1].name for pair in pairs)
        assert all(pair.original == pair.score for pair in pairs)


def test_fewer_images_of_a_reference_serve_both_tasks(unmade):
    """`pairs` on all sides, `tested` on those that are not trained on: the same images for pairs and triplets."""

    def used(**options) -> dict[str, set]:
        found: dict[str, set] = {}
        for record in load(scenes=1, **options).records:
            found.setdefault(record.reference_id, set()).update(record.images[1:])
        return found

    tested = used(split="test", task="pairs", tested=30)
    assert {len(images) for images in tested.values()} == {30}
    of_triplets = used(split="test", triplets=400, tested=30)
    assert of_triplets == tested, "400 triplets of 30 images use each"
    assert {len(images) for images in used(split="train", task="pairs", tested=30).values()} == {125}
    some = used(split="test", task="pairs", tested=30, types=range(1, 19))
    assert all(images < tested[reference] for reference, images in some.items()), "whatever the types: shared"
    fewer = used(split="test", task="pairs", pairs=12, tested=30)
    assert {len(images) for images in fewer.values()} == {12}
    assert {len(images) for images in used(split="train", triplets=200, pairs=12).values()} == {12}
    counts = {split: len(load(split=split, scenes=1, triplets=9, tested_triplets=4)) for split in ("train", "test")}
    assert counts == {"train": 6 * 9, "test": 3 * 4}


@pytest.mark.parametrize("options", [{"task": "pairs"}, {"triplets": 300}], ids=str)
def test_a_split_by_row_is_thinned_after_it_is_dealt(unmade, options):
    """References leak, as they should; a record that is tested is trained on in no case."""
    train, whole, thinned = (
        load(split=split, scenes=1, by="row", tested=tested, **options).records
        for split, tested in (("train", 40), ("test", 0), ("test", 40))
    )
    if "task" in options:  # a triplet can be drawn twice
        assert not {record.images for record in train} & {record.images for record in whole}
    assert set(thinned) < set(whole)
    allowed = {path for pair in load(split="all", task="pairs", scenes=1, tested=40).records for path in pair.images}
    assert set(thinned) == {record for record in whole if set(record.images) <= allowed}
    assert len(train) > len(whole) > len(thinned) > 0


# --- Splits and errors


def test_splits_share_no_reference_and_the_seed_deals_them(unmade):
    few = partial(load, triplets=3)
    everything = few(split="all")
    tests = []
    for seed in range(6):
        train, test = (few(split=split, seed=seed) for split in ("train", "test"))
        assert len(set(train.reference_ids)) == 14
        assert set(train.reference_ids) | set(test.reference_ids) == set(everything.reference_ids)
        assert not set(train.reference_ids) & set(test.reference_ids)
        assert set(train.records) | set(test.records) == set(everything.records)
        tests.append(frozenset(test.reference_ids))
    assert len(set(tests)) == 6
    assert few(split="all", seed=5).records == everything.records


def test_references_are_eight_colour_photographs_and_scenes():
    names = [source.name for source in demo.references(scenes=2)]
    photographs = ["astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "china", "flower", "grace_hopper"]
    assert [name.split("-")[0] for name in names] == [*photographs, "leaves00", "leaves01"]
    for path in demo.packaged_photos():
        red, green, _ = read_image(path)
        assert (red != green).any()


def test_errors(unmade, tmp_path):
    with pytest.raises(DataError, match="split: got 'val', expected one of 'train', 'test', 'all'"):
        load(split="val")
    with pytest.raises(DataError, match="task: got 'scores', expected one of 'pairs', 'triplets'"):
        load(task="scores")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"photos: got no photograph in {folder}, expected four or more"):
            load(photos=folder)
    with pytest.raises(DataError, match="no record in split 'train'"):
        load(triplets=0)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png: cannot be decoded"):
        demo.references(tmp_path, scenes=0)[0].render()


# --- Images


def test_a_folder_of_photographs(cache, small, photos):
    dataset = small()
    assert sorted(name.split("-")[0] for name in dataset.reference_ids) == ["grey", "tall", "tiny", "wide"]
    assert {read_image(path).shape for path in dataset.paths()} == {(3, 384, 512)}
    for image, *_ in (dataset.read(index) for index in range(4)):
        assert image.float().std() > 10
    grey = read_image(next(path for path in dataset.paths() if "grey" in str(path)))
    assert (grey[0] == grey[1]).all()
    root = cache / "demo" / "v1"
    assert {path.parent.parent for path in dataset.paths()} == {root}
    assert_whole(root, dataset)
    *images, p_b = dataset[0]
    assert p_b in (0, 1)
    assert all(0 <= image.min() < image.max() <= 1 for image in images)


def test_photographs_are_known_by_their_content(photos, tmp_path):
    (tmp_path / "wide.png").write_bytes((photos / "tiny.bmp").read_bytes())
    (before,), (after,) = (
        [source.name for source in demo.references(folder, scenes=0) if source.name.startswith("wide")]
        for folder in (photos, tmp_path)
    )
    assert before != after


def test_the_images_are_the_distortions_of_the_reference(small):
    dataset = small(triplets=2, votes=3)
    checked = 0
    for record in dataset.records:
        reference = read_image(record.reference).permute(1, 2, 0).numpy()
        for path in (record.a, record.b):
            number, level = cell(path)
            if not DISTORTIONS[number - 1].random:
                checked += 1
                assert (read_image(path).permute(1, 2, 0).numpy() == distort(reference, number, level)).all()
    assert checked > 5


def test_images_are_made_once(cache, small):
    first = small()
    before = {path: path.stat().st_mtime_ns for path in (cache / "demo").rglob("*.*")}
    again = small()
    assert again.records == first.records
    assert again.fingerprint() == first.fingerprint()
    assert {path: path.stat().st_mtime_ns for path in (cache / "demo").rglob("*.*")} == before


def test_a_missing_image_is_made_again_just_the_same(cache, small):
    dataset = small()
    record = dataset.records[0]
    before = {path: path.read_bytes() for path in record.images}
    random = next(path for path in dataset.paths() if path.stem[:2].isdigit() and DISTORTIONS[cell(path)[0] - 1].random)
    before[random] = random.read_bytes()
    for path in before:
        path.unlink()
    small()
    assert {path: path.read_bytes() for path in before} == before
    assert_whole(cache / "demo" / "v1", dataset)


def test_an_image_replaced_by_a_black_one_is_made_again_and_said(cache, small, capsys):
    dataset = small()
    path = dataset.records[0].a
    before = path.read_bytes()
    Image.new("RGB", demo.SIZE).save(path)
    capsys.readouterr()
    small()
    assert capsys.readouterr().out == f"{path} is damaged, or another image: it is made anew\n"
    assert path.read_bytes() == before
    assert_whole(cache / "demo" / "v1", dataset)


@pytest.mark.parametrize("text", ["{", "[]]", '["a"]', "", '{"a": 1}'])
def test_a_damaged_manifest_is_made_again(small, tmp_path, text):
    dataset = small(root=tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    small(root=tmp_path)
    known = manifest(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in dataset.paths()} <= set(known)
    assert {name: sha256(tmp_path / name) for name in known if name != "a"}.items() <= known.items()


def test_what_is_complete_is_read_without_a_lock(small, monkeypatch):
    records = small().records
    monkeypatch.setattr("iqa_lib.data.demo.locked", lambda path: pytest.fail("locked"))
    assert small().records == records


def test_one_photograph_under_two_names_is_refused(photos, tmp_path):
    for name in ("a.png", "b.png", "c.PNG"):
        (tmp_path / name).write_bytes((photos / ("wide.png" if name != "b.png" else "tiny.bmp")).read_bytes())
    with pytest.raises(DataError, match=r"got a.png and c.PNG, one photograph under two names.*: remove one"):
        load(photos=tmp_path, scenes=0)


def test_another_root_has_the_same_images(cache, small, tmp_path):
    here, there = small(), small(root=tmp_path)
    assert there.fingerprint() == here.fingerprint()
    assert all(path.is_relative_to(tmp_path) for path in there.paths())
    assert_whole(tmp_path, there)
    assert manifest(tmp_path).items() <= manifest(cache / "demo" / "v1").items()


def test_an_interrupted_making_is_taken_up_again(small, tmp_path, monkeypatch):
    made = []

    def failing(image, *arguments):
        made.append(arguments)
        if len(made) > 3:
            raise KeyboardInterrupt
        return distort(image, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(demo, "distort", failing)
        with pytest.raises(KeyboardInterrupt):
            small(root=tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    assert_whole(tmp_path, small(root=tmp_path))


def test_two_loads_at_once(small, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        datasets = list(pool.map(lambda votes: small(root=tmp_path, votes=votes), (1, 5)))
    for votes, dataset in zip((1, 5), datasets, strict=True):
        assert_whole(tmp_path, dataset)
        assert dataset.fingerprint() == small(votes=votes).fingerprint()


# --- Dead leaves


def test_dead_leaves_fill_the_frame_and_follow_the_seed():
    def scene(seed):
        return demo.dead_leaves(np.random.default_rng(seed), (64, 48))

    for seed in (1, 3, 4):  # of bright colours: black would be a gap
        image = scene(seed)
        assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)
        assert not (image == 0).all(axis=-1).any()
        assert (scene(seed) == image).all()
        assert image.std() > 15
    assert (scene(1) != scene(3)).any()
    assert zlib.crc32(scene(1).tobytes()) == 2893384625  # caches outlive the code: see `demo.VERSION`


def test_scenes_are_references_like_the_others(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "dead_leaves", partial(demo.dead_leaves, size=(96, 72)))
    dataset = load(tmp_path, split="all", photos=photos, scenes=1, triplets=1)
    leaves = next(record.reference for record in dataset.records if record.reference_id == "leaves00")
    assert (read_image(leaves).permute(1, 2, 0).numpy() == demo.dead_leaves(np.random.default_rng((7, 0)))).all()
