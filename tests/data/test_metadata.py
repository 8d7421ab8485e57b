import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt_pipeline.data.config import BenchmarkConfig, SourceConfig
from lt_pipeline.data.manifest import Split
from lt_pipeline.data.metadata import (
    encode_metadata,
    fit_metadata,
    join_table,
    kept_numbers,
    metadata_digest,
    no_metadata,
    values_to_report,
)
from lt_pipeline.data.metadata_config import MetadataConfig, MetadataGroup
from lt_pipeline.data.sources import ingest
from lt_pipeline.data.split import image_set, make_split, split_hash
from lt_pipeline.errors import LongTailError
from lt_pipeline.methods.facts import DataFacts

DATE = {"kind": "time", "name": "date"}
PLACE = {"kind": "location", "name": "location"}


def frame(**columns: object) -> pd.DataFrame:
    values = {f"meta.{name}": cells for name, cells in columns.items()}
    rows = len(next(iter(values.values())))
    return pd.DataFrame({"sample_id": [f"picture {row}" for row in range(rows)], "split": "train", **values})


def config(*groups: dict[str, object], **rest: object) -> MetadataConfig:
    return MetadataConfig.model_validate({"groups": groups, **rest})


def encoded(table: pd.DataFrame, *groups: dict[str, object], **rest: object) -> np.ndarray:
    return encode_metadata(table, fit_metadata(table, config(*groups, **rest)))


# ---- location and time


@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=8))
@settings(max_examples=30)
def test_places_lie_on_the_unit_sphere_and_the_date_line_is_no_border(places: list[tuple[float, float]]) -> None:
    latitude, longitude = map(list, zip(*places, strict=True))
    points = encoded(frame(latitude=latitude, longitude=longitude), PLACE)
    assert np.allclose((points**2).sum(1), 1, atol=1e-6)
    turned = encoded(frame(latitude=latitude, longitude=[value + 360 if value < 0 else value for value in longitude]), PLACE)
    assert np.allclose(points, turned, atol=1e-5)


def test_a_place_without_one_coordinate_is_missing_and_zero_is_a_place() -> None:
    table = frame(latitude=[0.0, np.nan, 10.0, 0.0], longitude=[0.0, 5.0, np.nan, 90.0])
    points = encoded(table, PLACE)
    assert np.isnan(points[[1, 2]]).all()
    assert np.allclose(points[[0, 3]], [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    origin = table.assign(**{"meta.latitude": [0.0, 1.0, 2.0, 3.0], "meta.longitude": 1.0})
    assert np.isnan(encoded(origin, {**PLACE, "zero_is_missing": True})).all(1).tolist() == [True, False, False, False]


def test_months_and_hours_are_circles() -> None:
    months = encoded(frame(date=[f"2020-{month:02d}-03" for month in range(1, 13)]), {**DATE, "periods": ["month"]})
    steps = np.linalg.norm(months - np.roll(months, 1, axis=0), axis=1)
    assert np.allclose(steps, steps[0], atol=1e-6)  # December is as near to January as January to February
    hours = encoded(frame(date=["2020-05-03 00:10:00", "2020-05-03T06:59:59Z", "2020-05-03"]), {**DATE, "periods": ["hour"]})
    assert np.allclose(hours[:2], [[0, 1], [1, 0]], atol=1e-6)
    assert np.isnan(hours[2]).all()  # the hour of a mere date is not midnight


def test_further_periods_and_the_order_of_the_published_vector() -> None:
    table = frame(date=["2024-01-01 06:00:00"], latitude=[0.0], longitude=[90.0])
    assert np.allclose(encoded(table, DATE, PLACE), [[0.5, np.sqrt(3) / 2, 1, 0, 0, 1, 0]], atol=1e-6)
    day = 2 * np.pi / 365.2425
    expected = [[np.sin(day), np.cos(day), 0, 1]]  # a Monday
    assert np.allclose(encoded(table, {**DATE, "periods": ["day_of_year", "weekday"]}), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["datetime", "date", "format"])
def test_dates_of_every_kind_are_read(kind: str) -> None:
    days = pd.to_datetime(pd.Series(["2020-03-01 12:00", None, "2021-09-30 18:00"]))
    cells = {"datetime": days, "date": days.dt.date, "format": days.dt.strftime("%d.%m.%Y")}[kind]
    vectors = encoded(frame(date=cells), {**DATE, **({"format": "%d.%m.%Y"} if kind == "format" else {})})
    assert np.isnan(vectors[1]).all()
    assert np.allclose(vectors[[0, 2], :2], [[1, 0], [-1, 0]], atol=1e-6)
    assert np.isnan(vectors[0, 2:]).all() == (kind != "datetime")


def test_the_published_reading_takes_what_starts_like_a_date() -> None:
    cells = ["2020-99-99 77:00:00 whatever", "2020-01-01", " 2020-03-01 12:00:00+02:00", "soon", None]
    published = encoded(frame(date=cells), {**DATE, "reading": "published"})
    assert np.isnan(published).all(1).tolist() == [False, True, False, True, True]
    days = encoded(frame(date=cells), {**DATE, "reading": "published_days"})
    assert np.isnan(days[:, :2]).all(1).tolist() == [False, False, False, True, True]
    assert np.isnan(days[:, 2:]).all()


# ---- numbers, words, vectors, texts


def test_numbers_are_standardised_on_the_training_part_alone() -> None:
    train, later = frame(age=[20.0, 40.0, np.nan, 60.0], width=[1, 1, 1, 1]), frame(age=[40.0, 80.0], width=[3, 1])
    groups = fit_metadata(train, config({"kind": "numeric", "name": "body", "columns": ["age", "width"]}))
    vectors = encode_metadata(train, groups)
    assert np.nanmean(vectors[:, 0]) == pytest.approx(0, abs=1e-6)
    assert np.nanstd(vectors[:, 0]) == pytest.approx(1, abs=1e-6)
    assert np.isnan(vectors[2, 0]) and not np.isnan(vectors[2, 1])
    assert np.allclose(
        encode_metadata(later, groups), [[0, 2], [40 / np.std([20, 40, 60]), 0]], atol=1e-6
    )  # a constant column is only centred


def test_words_are_one_hot_and_new_or_missing_ones_are_missing(caplog: pytest.LogCaptureFixture) -> None:
    train = frame(sex=["male", "female", "Unknown", None], room=[1, 2, 2, np.nan])
    groups = fit_metadata(train, config({"kind": "categorical", "name": "who", "columns": ["sex", "room"]}))
    assert groups[0].categories == (("female", "male"), ("1", "2"))
    vectors = encode_metadata(train, groups)
    assert np.array_equal(vectors[:2], [[0, 1, 1, 0], [1, 0, 0, 1]])
    assert np.isnan(vectors[2, :2]).all() and np.isnan(vectors[3]).all()
    other = encode_metadata(frame(sex=["diverse", "male"], room=["1", "2"]), groups)  # a column without gaps reads the same
    assert np.isnan(other[0, :2]).all() and np.array_equal(other[1], [0, 1, 0, 1])
    assert "'diverse'" in caplog.text


def test_attributes_come_from_columns_by_pattern_or_from_lists() -> None:
    table = frame(has_bill=[1, 0], has_tail=[0, np.nan], colour=["red", "blue"], bits=[[1, 0, 1], None])
    by_name = encoded(table, {"kind": "attributes", "columns": ["has_*"]})
    assert np.array_equal(by_name, [[1, 0], [0, np.nan]], equal_nan=True)
    lists = encoded(table, {"kind": "attributes", "columns": ["bits"]})
    assert np.array_equal(lists[0], [1, 0, 1]) and np.isnan(lists[1]).all()


@pytest.mark.parametrize(("shape", "tokens"), [((3, 4), 1), ((3, 2, 4), 2), ((3, 5, 2, 4), 2)])
def test_texts_are_rows_of_a_file(tmp_path: Path, shape: tuple[int, ...], tokens: int) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    np.save(tmp_path / "texts.npy", array)
    (tmp_path / "ids.txt").write_text("picture 1\nelsewhere\npicture 0\n")
    group = {"kind": "text", "file": str(tmp_path / "texts.npy"), "ids": str(tmp_path / "ids.txt")}
    table = frame(unused=[0, 0, 0])
    groups = fit_metadata(table, config(group))
    vectors = encode_metadata(table, groups)
    assert (groups[0].width, groups[0].tokens) == (4, tokens)
    chosen = array[:, 0] if len(shape) == 4 else array
    assert np.array_equal(vectors[:2], chosen[[2, 0]].astype(np.float32))
    assert np.isnan(vectors[2]).all()
    assert no_metadata(3, groups).shape == vectors.shape
    if tokens > 1:
        with pytest.raises(LongTailError, match="'text' has 2 tokens an image and must be the only group"):
            fit_metadata(frame(age=[1, 2, 3]), config(group, {"kind": "numeric", "name": "age", "columns": ["age"]}))


def test_groups_travel_as_json() -> None:
    table = frame(age=[20.0, 40.0], sex=["f", "m"], date=["2020-01-01", None], latitude=[1.0, 2.0], longitude=[3.0, 4.0])
    declared = config(
        DATE, PLACE, {"kind": "numeric", "name": "age", "columns": ["age"]}, {"kind": "categorical", "name": "sex", "columns": ["sex"]}
    )
    groups = fit_metadata(table, declared)
    facts = DataFacts(class_names=("a",), train_counts=(2,), image_shape=None, mean=(0, 0, 0), std=(1, 1, 1), metadata=groups)
    again = DataFacts.model_validate(json.loads(json.dumps(facts.model_dump(mode="json")))).metadata
    assert np.array_equal(encode_metadata(table, again), encode_metadata(table, groups), equal_nan=True)
    assert [group.width for group in again] == [4, 3, 1, 2]


# ---- part of the metadata, groups of images


def test_the_ways_to_hide_part_of_it() -> None:
    declared = config(*({"kind": "numeric", "name": name, "columns": [name]} for name in "abc")).groups
    groups = tuple(MetadataGroup(declared=one, width=width) for one, width in zip(declared, (1, 2, 1), strict=True))
    kept = kept_numbers(groups)
    assert list(kept) == ["none", "only a", "only b", "only c", "without a", "without b", "without c"]
    assert kept["only b"].tolist() == [False, True, True, False]
    assert kept["without b"].tolist() == [True, False, False, True]
    assert list(kept_numbers(groups[:2])) == ["none", "only a", "only b"]
    assert list(kept_numbers(groups[:1])) == ["none"]
    assert kept_numbers(()) == {}


def test_report_words_cut_many_numbers_at_the_quartiles_of_training() -> None:
    table = frame(age=[*range(10, 50), np.nan], sex=["f", "m"] * 20 + ["unknown"])
    table["split"] = ["train"] * 20 + ["test"] * 21
    words = values_to_report(table, config(report_by=["age", "sex"]))
    assert set(words["sex"]) == {"f", "m", "missing"}
    assert set(words["age"]) == {">= 24.25", "missing"} and len(words["age"]) == 21
    assert set(values_to_report(table, config(report_by=["age"]), "train")["age"]) == {
        "< 14.75",
        "14.75 to 19.5",
        "19.5 to 24.25",
        ">= 24.25",
    }
    assert words["age"][-1] == "missing"
    with pytest.raises(LongTailError, match=r"metadata\.report_by wants the column 'seks'.*Did you mean 'sex'"):
        values_to_report(table, config(report_by=["seks"]))


def test_a_table_is_joined_by_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pd.DataFrame({"image": ["picture 1", "picture 0", "x"], "age": [1.5, 2.5, 3.5]}).to_csv(tmp_path / "known.csv", index=False)
    joined = join_table(frame(age=[0, 0, 0]), tmp_path / "known.csv", "image")
    assert joined["meta.age"].tolist()[:2] == [2.5, 1.5] and np.isnan(joined["meta.age"].iloc[2])
    assert "1 of 3 images are not in" in caplog.text
    for key, message in (("imge", "no column 'imge'.*Did you mean 'image'"), ("age", "knows none of the images, such as 'picture 0'")):
        with pytest.raises(LongTailError, match=message):
            join_table(frame(age=[0]), tmp_path / "known.csv", key)
    pd.DataFrame({"image": ["picture 0"] * 2}).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(LongTailError, match="'picture 0' twice"):
        join_table(frame(age=[0]), tmp_path / "twice.csv", "image")


# ---- bad input

NUMERIC = {"kind": "numeric", "name": "age", "columns": ["age"]}
WORDS = {"kind": "categorical", "name": "sex", "columns": ["sex"], "max_categories": 2}
BAD = [
    (
        PLACE,
        {"latitude": [10.0, 91.0], "longitude": [1.0, 2.0]},
        "'latitude' holds '91.0' in the row of 'picture 1'; .* from -90 to 90",
    ),
    (PLACE, {"latitude": [10.0, 1.0], "longitude": [1.0, -200.0]}, "'longitude' holds '-200.0'.*from -180 to 360"),
    (PLACE, {"latitude": ["1", "north"], "longitude": [1.0, 2.0]}, "'latitude' holds 'north'"),
    (
        DATE,
        {"date": ["2020-01-01", "2020-02-30"]},
        "'date' holds '2020-02-30' in the row of 'picture 1'; allowed is a date like 2024-05-31",
    ),
    (DATE, {"date": ["2020-01-01", "31.05.2020"]}, "'date' holds '31.05.2020'"),
    (DATE, {"date": ["2020-01-01", "2020-01-01 24:30:00"]}, "24:30:00"),
    ({**DATE, "format": "%d.%m.%Y"}, {"date": ["01.02.2020", "2020-01-01"]}, "holds '2020-01-01'.*a date like %d.%m.%Y"),
    (NUMERIC, {"age": [3, "old"]}, "'age' holds 'old' in the row of 'picture 1'; allowed is a number, or nothing"),
    (NUMERIC, {"age": [3.0, np.inf]}, "'age' holds 'inf'"),
]


@pytest.mark.parametrize(("group", "columns", "message"), BAD)
def test_a_bad_value_is_named_with_its_row_or_counts_as_missing(group: dict[str, object], columns: dict[str, object], message: str) -> None:
    table = frame(**columns)
    with pytest.raises(LongTailError, match=message):
        encoded(table, group)
    lenient = encoded(table, group, on_bad_value="missing")
    assert np.isnan(lenient[1]).all() and not np.isnan(lenient[0]).all()


@pytest.mark.parametrize(
    ("group", "columns", "message"),
    [
        (NUMERIC, {"aeg": [1, 2]}, "group 'age' wants the column 'age'.*they have aeg. Did you mean 'aeg'"),
        (NUMERIC, {"age": [np.nan, np.nan]}, "no training image has a value in column 'age'"),
        ({"kind": "attributes", "columns": ["has_*"]}, {"age": [1, 2]}, "no column is called like 'has_\\*'; there are age"),
        ({"kind": "attributes"}, {"attributes": [[1, 2], [1, 2, 3]]}, "holds 3 numbers in the row of 'picture 1'.*have 2"),
        (WORDS, {"sex": ["a", "b", "c"]}, "'sex' has 3 different values, more than max_categories = 2"),
        (PLACE, {"latitude": [np.nan], "longitude": [1.0]}, "'location' has no value for any training image"),
        ({"kind": "text", "file": "none.npy", "ids": "none.txt"}, {"age": [1]}, "embeddings of the metadata group 'text' cannot be read"),
    ],
)
def test_a_group_that_the_images_do_not_have(group: dict[str, object], columns: dict[str, object], message: str) -> None:
    with pytest.raises(LongTailError, match=message):
        encoded(frame(**columns), group)


def test_prediction_with_other_columns_or_lengths_than_training(tmp_path: Path) -> None:
    groups = fit_metadata(frame(bits=[[1, 0], [0, 1]]), config({"kind": "attributes", "columns": ["bits"]}))
    with pytest.raises(LongTailError, match="holds 3 numbers in the row of 'picture 0'; the others, or training, have 2"):
        encode_metadata(frame(bits=[[1, 2, 3]]), groups)
    with pytest.raises(LongTailError, match="wants the column 'bits'"):
        encode_metadata(frame(other=[1]), groups)
    (tmp_path / "ids.txt").write_text("picture 0\n")
    np.save(tmp_path / "four.npy", np.zeros((1, 4), np.float32))
    np.save(tmp_path / "five.npy", np.zeros((1, 5), np.float32))
    text = {"kind": "text", "file": str(tmp_path / "four.npy"), "ids": str(tmp_path / "ids.txt")}
    fitted = fit_metadata(frame(age=[1]), config(text))[0]
    other = fitted.model_copy(update={"declared": fitted.declared.model_copy(update={"file": str(tmp_path / "five.npy")})})
    with pytest.raises(LongTailError, match="shape \\(5,\\); training had \\(4,\\)"):
        encode_metadata(frame(age=[1]), [other])


# ---- splits


def test_metadata_ride_along_and_the_hash_does_not_see_them() -> None:
    manifest = pd.DataFrame(
        {
            "sample_id": list("abcdef"),
            "split": ["train"] * 4 + ["test"] * 2,
            "label": [0, 0, 1, 1, 0, 1],
            "class_name": [*"xxyyxy"],
            "digest": [f"{row:016x}" for row in range(6)],
        }
    )
    plain = make_split(manifest, BenchmarkConfig(), 0)
    split = make_split(manifest.assign(**{"meta.age": [10.0, 20, 30, np.nan, 50, 60]}), BenchmarkConfig(), 0)
    assert split_hash(split) == split_hash(plain)
    assert "meta.age" in Split.validate(split) and list(plain) == [name for name in split if name != "meta.age"]
    groups = fit_metadata(split[split["split"] == "train"], config({"kind": "numeric", "name": "age", "columns": ["age"]}))
    test = image_set(None, split, "test", groups)
    assert np.allclose(test.metadata[:, 0], (np.array([50, 60]) - 20) / np.std([10, 20, 30]), atol=1e-6)
    assert image_set(None, split, "test").metadata is None


def test_corrected_metadata_change_the_digest_that_decides_about_training_again() -> None:
    table = frame(latitude=[1.0, np.nan], longitude=[2.0, 3.0])
    moved = table.assign(**{"meta.latitude": [1.5, np.nan]})
    assert fit_metadata(table, config(PLACE)) == fit_metadata(moved, config(PLACE))  # nothing that travels with the checkpoint tells
    assert metadata_digest(encoded(table, PLACE)) == metadata_digest(encoded(table.copy(), PLACE)) != metadata_digest(encoded(moved, PLACE))


def test_benchmarks_without_metadata_have_the_split_that_they_had(shared_data: Path) -> None:
    source = SourceConfig(kind="digits", image_size=16, test_fraction=0.3)
    digits = make_split(ingest(source)[0], BenchmarkConfig(profile="exp", imbalance_factor=20), 0)
    assert split_hash(digits) == "6d06a003265dbb25"
    manifest, _ = ingest(SourceConfig(kind="cifar100", root=str(shared_data)))
    assert split_hash(make_split(manifest, BenchmarkConfig(profile="exp", imbalance_factor=100), 0)) == "a2f9f572e3dde29c"


@pytest.mark.parametrize(("environment", "width"), [("ham10000", 1 + 2 + 14), ("plants", 4)])
def test_the_shared_sets_are_read_by_parameters_alone(shared_data: Path, project_root: Path, environment: str, width: int) -> None:
    import yaml

    parameters = yaml.safe_load((project_root / f"conf/{environment}/parameters/data.yml").read_text())
    columns = pd.read_parquet(shared_data / parameters["source"]["files"][0]).drop(columns="image")
    identity = columns[parameters["source"]["id_column"]].astype(str)
    table = columns.add_prefix("meta.").assign(sample_id=identity, split=columns["split"])
    declared = MetadataConfig.model_validate(parameters["metadata"])
    groups = fit_metadata(table[table["split"] == "train"], declared)
    vectors = encode_metadata(table, groups)
    assert vectors.shape == (len(table), width) and not np.isnan(vectors).all(0).any()
    if environment == "ham10000":
        assert int(np.isnan(vectors[:, 0]).sum()) == 57 and int(np.isnan(vectors[:, 3]).sum()) == 234
        assert set(values_to_report(table, declared)["sex"]) == {"female", "male", "missing"}
