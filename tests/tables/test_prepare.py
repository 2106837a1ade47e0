import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.tables.recipe import CategoryColumn, NumberColumn, Preprocessing
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.data import check_rows
from cloudlinkup.training.evaluate import score
from cloudlinkup.types import parse_job


def recipe_of(data: Prepared) -> Preprocessing:
    assert isinstance(data.preprocessing, Preprocessing)
    return data.preprocessing


def same(one: Prepared, two: Prepared) -> bool:
    return one.hash == two.hash


def test_binary_labels_in_words(cancer, make_job):
    data = prepare(cancer, make_job())
    assert data.classes == ("benign", "malignant") and data.spec.outputs == 2 and data.spec.inputs == 30
    assert len(data.features) + len(data.holdout_features) == len(cancer)
    assert len(data.holdout_features) == pytest.approx(0.2 * len(cancer), abs=1)
    # the same share of each class is held out
    assert data.targets.mean() == pytest.approx(data.holdout_targets.mean(), abs=0.01)
    np.testing.assert_allclose(data.features.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.features.std(axis=0), 1, atol=1e-4)
    alone = train_alone(data.spec, data.features, data.targets, 20_000)
    metric, value = score(data.spec, alone.weights, data.holdout_features, data.holdout_targets)
    assert metric == "accuracy" and value > 0.93


def test_regression_in_its_own_unit(diabetes, make_job):
    data = prepare(diabetes, make_job(label="progression", task="regression"))
    assert data.targets.shape == (len(data.features), 1) and data.targets.dtype == np.float32
    assert data.classes == () and data.spec.outputs == 1
    np.testing.assert_allclose([data.targets.mean(), data.targets.std()], [0, 1], atol=1e-5)
    back = recipe_of(data).predictions(data.targets)
    assert set(np.round(back)) <= set(diabetes["progression"])
    alone = train_alone(data.spec, data.features, data.targets, 10_000)
    metric, value = score(data.spec, alone.weights, data.holdout_features, data.holdout_targets)
    assert metric == "r2" and value > 0.25


def test_words_gaps_and_booleans(shop, make_job):
    data = prepare(shop, make_job(label="outcome"))
    columns = {column.name: column for column in recipe_of(data).columns}
    kind = columns["kind"]
    assert isinstance(kind, CategoryColumn) and kind.words == ("\x00missing", "books", "shoes", "toys")
    assert set(columns) == {"kind", "price", "member"}  # `shop` never varies
    assert data.spec.inputs == 6
    alone = train_alone(data.spec, data.features, data.targets, 30_000)
    assert score(data.spec, alone.weights, data.holdout_features, data.holdout_targets)[1] > 0.75


def test_the_recipe_knows_the_training_rows_alone(shop, make_job):
    job = make_job(label="outcome")
    data = prepare(shop, job)
    held = prepare(shop.assign(row=np.arange(len(shop))), job)
    row = next(c for c in recipe_of(held).columns if c.name == "row")
    assert isinstance(row, NumberColumn)
    numbers = np.round(held.holdout_features[:, -1].astype(float) * row.scale + row.mean).astype(int)
    changed = shop.copy()
    changed.loc[numbers, "price"] = 1e6
    changed.loc[numbers, "kind"] = "cars"
    assert recipe_of(prepare(changed, job)) == recipe_of(data)
    # the unseen word is all zeros
    assert (prepare(changed, job).holdout_features[:, :4] == 0).all()


def test_same_table_and_job_same_bytes(shop, make_job, tmp_path):
    one = prepare(shop, make_job(label="outcome"))
    assert same(one, prepare(shop.copy(), make_job(label="outcome")))
    kept = one.save(tmp_path / "rows")
    assert same(one, kept) and same(one, Prepared.load(tmp_path / "rows")) and type(kept.features) is np.ndarray
    assert not same(one, prepare(shop, make_job(label="outcome", seed=1)))
    recipe = recipe_of(one)
    assert Preprocessing.model_validate_json(recipe.model_dump_json()) == recipe
    place = tmp_path / "rows" / "prepared.json"
    for text in ("", "[]", "{}", place.read_text().replace('\\"seed\\":0', '\\"seed\\": 0'), place.read_text()[:-9]):
        place.write_text(text)
        with pytest.raises(ValueError):
            Prepared.load(tmp_path / "rows")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 2], (0, 1, 2)),
        ([True, False], (False, True)),
        ([3.0, 5.0], (3.0, 5.0)),
        (["b", "a"], ("a", "b")),
    ],
)
def test_labels_come_back_in_their_own_words(labels, words, make_job):
    frame = pd.DataFrame({"x": np.arange(60.0), "label": np.resize(labels, 60)})
    recipe = recipe_of(prepare(frame, make_job()))
    assert recipe.classes == words and [type(w) for w in recipe.classes or ()] == [type(w) for w in words]
    back = Preprocessing.model_validate_json(recipe.model_dump_json()).predictions(np.eye(len(words)))
    assert back.tolist() == list(words) and [type(w) for w in back.tolist()] == [type(w) for w in words]
    category = recipe_of(prepare(frame.assign(label=frame["label"].astype("category")), make_job()))
    assert category.classes == words


def table(**columns):
    frame = pd.DataFrame({"x": np.arange(60.0), "label": ["a", "b", "c"] * 20})
    return frame.assign(**columns)


REFUSED = {
    "label absent": (table(), {"label": "nope"}, "data.label", "columns"),
    "label missing": (table(label=[None, *["a", "b"] * 29, "a"]), {}, "data.label", "no label"),
    "label constant": (table(label="a"), {}, "data.label", "same label"),
    "label too many": (
        pd.DataFrame({"x": np.arange(3000.0), "label": np.arange(3000)}),
        {},
        "data.label",
        "more than 1000",
    ),
    "label fractions": (table(label=np.linspace(0, 1, 60)), {}, "data.label", "not classes"),
    "label dates": (table(label=pd.date_range("2020-01-01", periods=60)), {}, "data.label", "text, whole"),
    "label words": (table(), {"task": "regression"}, "data.label", "numeric"),
    "target constant": (table(label=2.5), {"task": "regression"}, "data.label", "vary"),
    "target infinite": (table(label=[np.inf, *range(59)]), {"task": "regression"}, "data.label", "infinite"),
    "few rows": (table().head(19), {}, "data.uri", "at least 20"),
    "no features": (table()[["label"]], {}, "data.uri", "no column but"),
    "nothing varies": (table(x=1.0), {}, "data.uri", "varies"),
    "empty column": (table(gone=np.nan), {}, "gone", "no value"),
    "dates": (table(day=pd.date_range("2020-01-01", periods=60)), {}, "day", "dates"),
    "date objects": (table(day=[datetime.date(2020, 1, 1)] * 60), {}, "day", "neither"),
    "lists": (table(nested=[[1, 2]] * 60), {}, "nested", "neither"),
    "infinite": (table(y=[np.inf] * 30 + [1.0] * 30), {}, "y", "finite"),
    "identifiers": (
        pd.concat([table()] * 3, ignore_index=True).assign(id=range(180)).astype({"id": str}),
        {},
        "id",
        "100",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_field_value_and_fix(name, make_job):
    frame, changes, field, problem = REFUSED[name]
    with pytest.raises(BadInput, match=problem) as caught:
        prepare(frame, make_job(**changes))
    assert caught.value.field == field and caught.value.fix


def test_a_refusal_shows_no_cell(make_job):
    canary = "canary-5871"
    frame = pd.concat([table()] * 4, ignore_index=True).assign(secret=[f"{canary}-{k}" for k in range(240)])
    with pytest.raises(BadInput) as caught:
        prepare(frame, make_job())
    assert canary not in str(caught.value) and caught.value.field == "secret"


def test_two_columns_of_one_name_are_refused(make_job):
    frame = table()
    frame.columns = ["label", "label"]
    with pytest.raises(BadInput, match="twice"):
        prepare(frame, make_job())


def test_decimals_and_nullable_integers_are_numbers(make_job):
    frame = table(
        price=[Decimal(k) / 4 for k in range(60)],
        count=pd.array([None, *range(59)], dtype="Int64"),
        flag=pd.array([None, True] * 30, dtype="boolean"),
        odd=[True, None, False] * 20,
    )
    data = prepare(frame, make_job())
    # `flag` is True wherever it is known
    assert [c.name for c in recipe_of(data).columns] == ["x", "price", "count", "odd"]
    assert all(c.kind == "number" for c in recipe_of(data).columns)


def test_rare_classes_stay_in_training(make_job):
    frame = table(label=["a"] * 58 + ["b", "c"])
    data = prepare(frame, make_job())
    assert set(data.targets) == {0, 1, 2} and len(data.holdout_targets) == 12
    singles = pd.DataFrame({"x": np.arange(30.0), "label": [f"class {k}" for k in range(30)]})
    data = prepare(singles, make_job())
    assert len(data.holdout_targets) == 1
    weights = prepare(singles, make_job(class_weights="balanced")).spec.class_weights
    assert weights is not None and set(weights) == {29 / 30}  # its only row is held out, and it weighs all the same


def test_raw_rows_later(shop, make_job):
    data = prepare(shop, make_job(label="outcome"))
    recipe = recipe_of(data)
    some = shop.head(50)
    expected = recipe.features(some)
    np.testing.assert_array_equal(recipe.features(some[some.columns[::-1]]), expected)
    np.testing.assert_array_equal(recipe.features(some.astype({"kind": "category"})), expected)
    with pytest.raises(BadInput, match="needed") as caught:
        recipe.features(some.drop(columns="price"))
    assert caught.value.field == "price"
    with pytest.raises(BadInput, match="numbers") as caught:
        recipe.features(some.assign(price="dear"))
    assert "dear" not in str(caught.value)
    assert recipe.features(some.assign(price=None)).shape == (50, 6)
    assert np.abs(recipe.features(some.assign(price=1e300))).max() == 1e6


cells = st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(-1000, 1000), st.booleans(), st.text(max_size=4))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(20, 40).flatmap(
        lambda rows: st.lists(st.lists(cells, min_size=rows, max_size=rows), min_size=1, max_size=3)
    ),
    st.integers(0, 5),
)
def test_any_table_is_prepared_soundly_or_refused(tmp_path_factory, columns, seed):
    rows = len(columns[0])
    frame = pd.DataFrame({f"c{k}": pd.Series(values, dtype=object) for k, values in enumerate(columns)})
    frame = frame.assign(label=["a", "b"] * (rows // 2) + ["a"] * (rows % 2))
    job = make_plain(seed)
    try:
        data = prepare(frame, job)
    except BadInput:
        return
    check_rows(data.features, data.targets, data.spec)
    check_rows(data.holdout_features, data.holdout_targets, data.spec)
    assert len(data.features) + len(data.holdout_features) == rows
    assert same(data.save(tmp_path_factory.mktemp("rows") / "kept"), data)
    again = recipe_of(data).features(frame)
    assert sorted(map(bytes, again)) == sorted(map(bytes, np.concatenate([data.features, data.holdout_features])))


def make_plain(seed):
    from cloudlinkup.types import parse_job

    return parse_job(
        {
            "version": 1,
            "data": {"uri": "t.csv", "format": "csv", "label": "label", "holdout": 0.25},
            "task": "classification",
            "model": {"kind": "mlp", "hidden": [4]},
            "train": {"samples": 100, "seed": seed},
            "budget": "1",
            "deadline": "2035-01-01T00:00:00Z",
        }
    )


def test_class_weights(shop, diabetes, make_job):
    balanced = prepare(shop, make_job(label="outcome", class_weights="balanced"))
    weights = balanced.spec.class_weights
    assert weights is not None
    counts = np.bincount(balanced.targets)
    np.testing.assert_allclose(np.array(weights) * counts, len(balanced.targets) / 2)
    assert prepare(shop, make_job(label="outcome", class_weights=[1, 2.5])).spec.class_weights == (1.0, 2.5)
    assert prepare(shop, make_job(label="outcome")).spec.class_weights is None
    with pytest.raises(BadInput, match="the label has 2 classes"):
        prepare(shop, make_job(label="outcome", class_weights=[1, 2, 3]))
    with pytest.raises(BadInput, match="has no classes"):
        prepare(diabetes, make_job(label="progression", task="regression", class_weights="balanced"))


def test_how_rounds_are_made_is_chosen_given_or_refused(shop, make_job):
    rows = len(prepare(shop, make_job(label="outcome")).targets)
    for samples, found in ((2 * rows, "kept"), (20 * rows, "stateless")):
        assert prepare(shop, make_job(label="outcome", samples=samples)).spec.rounds == found
    for wanted in ("kept", "stateless"):
        assert prepare(shop, make_job(label="outcome", rounds=wanted)).spec.rounds == wanted
    search = {"kind": "ensemble", "members": 2}
    job = make_job(label="outcome", samples=2 * rows)
    with_search = {**job.model_dump(mode="json"), "search": search}
    assert prepare(shop, parse_job(with_search)).spec.rounds == "stateless"
    with_search["train"]["rounds"] = "kept"
    with pytest.raises(BadInput, match="change hands"):
        parse_job(with_search)


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool", "float64", "Int64"])
def test_an_encoded_column_with_gaps_is_as_one_that_was_not_encoded(kind: str, make_job):
    rng = np.random.default_rng(0)
    values = pd.Series(rng.integers(0, 2 if kind == "bool" else 5, 60)).astype(kind)
    coded = pd.Series(values.astype("category")).where(rng.random(60) > 0.2)
    usual = pd.Series([None if gone else value for value, gone in zip(values, coded.isna(), strict=True)])
    label = ["yes", "no"] * 30
    made = [prepare(pd.DataFrame({"x": x, "label": label}), make_job()) for x in (usual, coded)]
    assert made[0].hash == made[1].hash
    recipe = recipe_of(made[0])
    one, other = (recipe.features(pd.DataFrame({"x": x})) for x in (usual, coded))
    np.testing.assert_array_equal(one, other)
