import numpy as np

from mprnet_jax.data import degradations, sample
from mprnet_jax.data.pairs import DegradedPhotos


def rms(a, b):
    return np.sqrt(np.mean((a.astype(float) - b) ** 2))


def test_photos_are_colour_and_held_out_ones_are_others():
    for source in (sample.Photos(sample.TRAINING_PHOTOS), sample.Photos(sample.HELD_OUT_PHOTOS)):
        for i in range(len(source)):
            image = source[i]["target"]
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
            assert min(image.shape[:2]) >= 296  # the sample's validation crop
            assert (image[..., 0] != image[..., 2]).any()
    assert not set(sample.TRAINING_PHOTOS) & set(sample.HELD_OUT_PHOTOS)


def test_held_out_pairs_are_the_same_each_time():
    once = DegradedPhotos(sample.Photos(sample.HELD_OUT_PHOTOS), degradations.add_rain)
    again = DegradedPhotos(sample.Photos(sample.HELD_OUT_PHOTOS), degradations.add_rain)
    assert once.names == ["astronaut", "chelsea"]
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first["degraded"], second["degraded"])
        assert rms(first["degraded"], first["target"]) > 10
