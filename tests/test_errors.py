"""Errors name the model, file and tensor that each layer filled in."""

import pickle

import pytest

from huref.errors import CheckpointError, HurefError, WeightsError, locating


def test_each_layer_fills_in_what_it_knows() -> None:
    with (
        pytest.raises(WeightsError) as caught,
        locating(model="org/name"),
        locating(file="model.safetensors", tensor="lm_head.weight"),
    ):
        raise WeightsError("it holds NaN", advice="convert it again")
    error = caught.value
    place = "org/name: model.safetensors: tensor 'lm_head.weight'"
    assert str(error) == f"{place}: it holds NaN; convert it again"
    assert (error.model, error.file, error.advice) == (
        "org/name", "model.safetensors", "convert it again",
    )  # fmt: skip


def test_the_innermost_place_is_kept() -> None:
    with pytest.raises(CheckpointError) as caught, locating(file="outer.json"):
        raise CheckpointError("it is empty", file="inner.json")
    assert str(caught.value) == "inner.json: it is empty"


def test_a_file_of_the_model_is_not_named_twice() -> None:
    error = CheckpointError("it is empty", model="models/a", file="models/a/config.json")
    assert str(error) == "models/a/config.json: it is empty"


def test_a_file_whose_name_begins_like_the_model_is_not_inside_it() -> None:
    error = CheckpointError("it is empty", model="model", file="model.safetensors")
    assert str(error) == "model: model.safetensors: it is empty"


def test_a_model_that_is_a_file_is_not_named_twice() -> None:
    for file in ("a.gguf", "models/a.gguf"):
        error = CheckpointError("it is empty", model="models/a.gguf", file=file)
        assert str(error) == "models/a.gguf: it is empty"
    error = CheckpointError("it is empty", model="models/a.gguf", file="config.json")
    assert str(error) == "models/a.gguf: config.json: it is empty"


def test_advice_is_filled_in_like_a_place() -> None:
    with pytest.raises(CheckpointError) as caught, locating(advice="give another base"):
        raise CheckpointError("it is empty", file="a")
    assert str(caught.value) == "a: it is empty; give another base"


def test_errors_travel_between_processes() -> None:
    error = CheckpointError(
        "it is empty", model="org/name", file="config.json", advice="put it there"
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is CheckpointError
    assert (str(again), again.__dict__) == (str(error), error.__dict__)


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(OSError, match="gone"), locating(model="a"):
        raise OSError("gone")
    assert not issubclass(OSError, HurefError)
