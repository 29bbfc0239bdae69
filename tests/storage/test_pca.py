"""The painted principal components are scikit-learn's, and the pictures are stable and bounded."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from storage.pca import fit_basis, pca_rgb


def feature_maps(channels: int = 24, outlier: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((channels, 5)) * [9, 5, 3, 1, 0.5]
    maps = []
    for height, width in [(7, 9), (12, 5), (8, 8)]:
        maps.append(np.einsum("ck,khw->chw", mixing, rng.standard_normal((5, height, width))) + 3)
        maps[-1][4] *= outlier
    return maps


def test_coordinates_are_those_of_scikit_learn():
    maps = feature_maps()
    tokens = np.concatenate([m.reshape(24, -1).T for m in maps])
    theirs = PCA(3, svd_solver="full").fit_transform(StandardScaler().fit_transform(tokens))
    basis = fit_basis(maps)
    ours = np.concatenate([basis.project(m).reshape(-1, 3) for m in maps])
    signs = np.sign((ours * theirs).sum(0))
    assert np.allclose(ours, theirs * signs, atol=1e-9)


def test_an_outlier_channel_does_not_paint_itself():
    usual, loud = pca_rgb(feature_maps()), pca_rgb(feature_maps(outlier=50.0))
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(usual, loud, strict=True))


def test_pictures_have_a_fixed_sign_and_use_the_range():
    first, again = pca_rgb(feature_maps()), pca_rgb([m.copy() for m in feature_maps()])
    assert all(a.dtype == np.uint8 and np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [p.shape for p in first] == [(7, 9, 3), (12, 5, 3), (8, 8, 3)]
    everything = np.concatenate([p.reshape(-1, 3) for p in first])
    assert (everything.min(0) == 0).all() and (everything.max(0) == 255).all()


def test_a_given_basis_paints_equal_features_equally():
    maps = feature_maps()
    basis = fit_basis(maps)
    assert np.array_equal(pca_rgb([maps[1].astype(np.float32)], basis=basis)[0], basis.paint(maps[1]))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_what_does_not_vary_is_mid_grey(channels):
    constant = np.full((channels, 3, 4), 40.1)
    assert (pca_rgb([constant])[0] == 128).all()
    one = constant.copy()
    one[0, :2] = 41
    painted = pca_rgb([one])[0]
    assert set(painted[..., 0].ravel()) == {0, 255} and (painted[..., 1:] == 128).all()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "no maps"),
        ([np.zeros((3, 4))], "expected"),
        ([np.zeros((3, 4, 4)), np.zeros((5, 4, 4))], "one teacher"),
        ([np.full((3, 4, 4), np.nan)], "NaN"),
    ],
)
def test_refuses_what_it_cannot_paint(maps, message):
    with pytest.raises(ValueError, match=message):
        fit_basis(maps)
