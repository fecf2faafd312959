"""Predictors of all labels, and of fewer, to which tests add the others."""

import dataclasses

import jax
import numpy as np
import pytest
from living import BASE, SLOW, L, by_parts, first
from raw_folders import colour
from scipy import sparse
from small import new_model, pictures
from test_predictor import build

from mufin_jax.model import label_table
from mufin_jax.prediction import pictures as pictures_file


@pytest.fixture(scope="session")
def fewer(dataset):
    """The data set without the last three labels."""
    sides = {name: first(getattr(dataset, name), BASE) for name in ("train", "test")}
    return dataclasses.replace(dataset, **sides, labels=first(dataset.labels, BASE, labels=True))


@pytest.fixture(scope="session")
def untrained(dataset):
    """The data set with all labels, the last three of which have no training point."""
    some = sparse.csr_matrix(dataset.train.pairs.multiply(np.arange(L) < BASE))
    some.eliminate_zeros()
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, relevance=some))


@pytest.fixture(scope="module")
def exact_pixels(dataset):
    """The pictures of labels are the prepared ones, which JPEG has changed slightly."""
    by_colour = {
        colour(number): dataset.images[np.array([row])][0]
        for i in range(L)
        for number, row in zip(pictures("label", i), dataset.labels.images_of(i), strict=True)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pictures_file, "read_image", lambda image, *_, **__: by_colour[image.getpixel((0, 0))]
        )
        yield


@pytest.fixture(scope="session", params=["eta", pytest.param("none", marks=SLOW)])
def both(request, tmp_path_factory, one_device, fewer, untrained):
    """A predictor that training knew all labels of, alpha = 1 for the last, and one of fewer."""
    model, rows = new_model(fewer, one_device), None
    if request.param == "eta":
        drawn = label_table.initialize(jax.random.key(0), L, 6, one_device).rows
        last = (np.arange(len(drawn.alpha)) >= BASE).astype(np.float32)
        rows = dataclasses.replace(drawn, alpha=np.maximum(np.asarray(drawn.alpha), last))
    folders = [tmp_path_factory.mktemp(name) for name in ("whole", "fewer")]
    sides = zip(folders, (untrained, fewer), strict=True)
    return [build(folder, model, rows, data, shortlist=9) for folder, data in sides], folders


@pytest.fixture(scope="module", params=["mix", "parts"])
def whole_and_fewer(request, both):
    """The two predictors, by the paper's mix or by parts."""
    if request.param == "mix":
        return both[0]
    return [by_parts(one, folder) for one, folder in zip(*both, strict=True)]


@pytest.fixture
def predictor(whole_and_fewer):
    """The predictor of fewer labels; its changes end with the test."""
    one = whole_and_fewer[1]
    yield one
    one.change_to(type(one.catalogue).of(one.dataset.labels, 6))
