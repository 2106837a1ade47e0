import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_breast_cancer, load_diabetes

from cloudlinkup import load_model, predict
from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.delivered import Blend, write_blend, write_delivery
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.types import parse_job


def job(label, task):
    return parse_job(
        {
            "version": 1,
            "data": {"uri": "t.csv", "format": "csv", "label": label},
            "task": task,
            "model": {"kind": "mlp", "hidden": [16], "activation": "gelu"},
            "train": {"samples": 10_000},
            "budget": "1",
            "deadline": "2035-01-01T00:00:00Z",
        }
    )


@pytest.fixture(scope="module")
def cancer():
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    return pd.DataFrame(x).assign(finding=np.where(np.asarray(y) == 0, "malignant", "benign"))


@pytest.fixture(scope="module")
def trained(cancer):
    data = prepare(cancer, job("finding", "classification"))
    weights = train_alone(data.spec, data.features, data.targets, 10_000).weights
    return data, weights, evaluate(data.spec, weights, data.holdout_features, data.holdout_targets)


@pytest.fixture
def folder(tmp_path, trained):
    data, weights, found = trained
    metrics = {"metric": found.metric, "score": found.value, "curve": [(100, 0.5), (312, found.value)]}
    write_delivery(tmp_path / "delivered", data.spec, weights, data.preprocessing, metrics, {"settled": True})
    return tmp_path / "delivered"


def test_a_person_predicts_on_raw_rows(folder, cancer, trained):
    data, weights, found = trained
    model = load_model(folder)
    answers = model.predict(cancer.drop(columns="finding"))
    assert set(answers) == {"malignant", "benign"}
    assert (answers == cancer["finding"]).mean() > 0.93
    np.testing.assert_array_equal(predict(folder, cancer), answers)
    odds = model.predict_proba(cancer)
    np.testing.assert_allclose(odds.sum(axis=1), 1)
    np.testing.assert_array_equal(np.array(["benign", "malignant"])[odds.argmax(axis=1)], answers)
    # the module is a torch network on prepared features, with the trained weights bit for bit
    with torch.inference_mode():
        logits = model.module(torch.from_numpy(data.holdout_features))
    assert (logits.argmax(1).numpy() == data.holdout_targets).mean() == found.value
    np.testing.assert_array_equal(model.weights, weights)
    assert model.metrics["score"] == found.value
    assert {p.name for p in folder.iterdir()} == {
        "weights.safetensors",
        "spec.json",
        "preprocessing.json",
        "metrics.json",
        "curve.png",
        "receipt.json",
        "README.md",
    }
    assert f"{found.value:.4f}" in (folder / "README.md").read_text()


def test_the_model_is_a_torch_module_on_raw_rows(folder, cancer, trained):
    data, _, _ = trained
    model = load_model(folder)
    assert issubclass(type(model), torch.nn.Module) and not model.training
    np.testing.assert_array_equal(model(cancer), model.predict(cancer))
    features = torch.from_numpy(data.holdout_features)
    assert torch.equal(model(features), model.module(features))
    assert sum(p.numel() for p in model.parameters()) == len(model.weights)
    before = model.predict_proba(cancer)
    with torch.no_grad():
        list(model.parameters())[-1].add_(torch.tensor([100.0, 0.0]))
    assert set(model.predict(cancer)) == {"benign"}, "what is trained on changes what is predicted"
    assert not np.array_equal(before, model.predict_proba(cancer))
    with pytest.raises(BadInput, match="mean radius"):
        model(cancer.drop(columns="mean radius"))
    assert len(model(cancer.head(0))) == 0


def test_a_blend_answers_with_the_mean_of_its_members(tmp_path, trained, cancer):
    data, weights, _ = trained
    rng = np.random.default_rng(0)
    for k in range(3):
        one = (weights + rng.normal(0, 0.3, len(weights))).astype(np.float32)
        write_delivery(tmp_path / f"trials/{k:02}", data.spec, one, data.preprocessing, {"metric": "accuracy"})
    names = ["trials/00", "trials/02"]
    write_blend(tmp_path, names, data.spec, data.preprocessing, {"metric": "accuracy", "score": 0.5})
    model = load_model(tmp_path)
    members = [load_model(tmp_path / name).predict_proba(cancer) for name in names]
    np.testing.assert_allclose(model.predict_proba(cancer), np.mean(members, axis=0), atol=1e-6)
    assert "2 of them" in (tmp_path / "README.md").read_text()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    shown = metrics["blend"]
    other = {"trials/01": shown["trials/00"]}  # another member's weights under this one's hash
    for bad in ({}, {"../elsewhere": "00"}, other, [], {"trials/00/../01": shown["trials/00"]}):
        (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "blend": bad}))
        with pytest.raises(BadInput):
            load_model(tmp_path)


def test_a_blend_of_regressions_is_the_mean_of_their_answers():
    members = [torch.nn.Linear(3, 1) for _ in range(3)]
    rows = torch.arange(12.0).reshape(4, 3)
    expected = torch.stack([member(rows) for member in members]).mean(0)
    assert torch.equal(Blend(members, classes=False)(rows), expected)


def test_regression_answers_in_the_labels_unit(tmp_path):
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    frame = pd.DataFrame(x).assign(progression=np.asarray(y))
    data = prepare(frame, job("progression", "regression"))
    weights = train_alone(data.spec, data.features, data.targets, 10_000).weights
    write_delivery(tmp_path, data.spec, weights, data.preprocessing, {"metric": "r2", "score": 0.4})
    answers = predict(tmp_path, frame)
    assert answers.dtype == np.float64 and 100 < answers.mean() < 200
    assert np.corrcoef(answers, frame["progression"])[0, 1] > 0.6
    assert not (tmp_path / "receipt.json").exists()
    with pytest.raises(BadInput, match="regression"):
        load_model(tmp_path).predict_proba(frame)


def test_it_loads_in_a_fresh_process_without_the_stack(folder, cancer, tmp_path):
    cancer.head(5).to_csv(tmp_path / "rows.csv", index=False)
    script = (
        "import sys, pandas as pd\nfrom cloudlinkup import predict\n"
        "print(','.join(predict(sys.argv[1], pd.read_csv(sys.argv[2]))))\n"
        "print([m for m in ('prefect', 'xgboost', 'pandera', 'distributed', 'anchorpy') if m in sys.modules])"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "rows.csv")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert child.stdout.splitlines() == [",".join(predict(folder, cancer.head(5))), "[]"]


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "preprocessing.json", "metrics.json"])
@pytest.mark.parametrize("change", ["missing", "cut", "changed"])
def test_an_altered_folder_is_refused(folder, name, change):
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if change == "cut":
        path.write_bytes(data[:-20])
    elif change == "changed":
        path.write_bytes(data.replace(b"64", b"63").replace(b'"', b"'", 1) if data[:1] == b"{" else b"x" + data[1:])
    with pytest.raises(BadInput) as caught:
        load_model(folder)
    assert caught.value.field == "folder"


def test_tensors_that_do_not_fit_are_refused_even_with_their_own_hash(folder):
    import hashlib

    tensors = load_file(folder / "weights.safetensors")
    for change in (
        {"0.weight": tensors["0.weight"].T.copy()},
        {"0.bias": tensors["0.bias"].astype(np.float64)},
        {"extra": tensors["0.bias"]},
        {"0.bias": np.full_like(tensors["0.bias"], np.nan)},
    ):
        save_file({**tensors, **change}, folder / "weights.safetensors")
        metrics = json.loads((folder / "metrics.json").read_text())
        digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
        (folder / "metrics.json").write_text(json.dumps({**metrics, "weights_sha256": digest}))
        with pytest.raises(BadInput):
            load_model(folder)


def test_a_pickle_in_the_weights_place_is_not_opened(folder, tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    (folder / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput):
        load_model(folder)
    assert not (tmp_path / "opened").exists()


def test_parts_that_do_not_fit_are_not_written(tmp_path, trained):
    data, weights, _ = trained
    recipe = data.preprocessing.model_copy(update={"columns": data.preprocessing.columns[:-1]})
    with pytest.raises(ValueError):
        write_delivery(tmp_path / "no", data.spec, weights, recipe, {})
    with pytest.raises(ValueError):
        write_delivery(tmp_path / "no", data.spec, weights[:-1], data.preprocessing, {})
    assert not (tmp_path / "no").exists()
