"""Patches of TFDS for data sets that exist on this machine only."""

import shutil
from pathlib import Path

import tensorflow_datasets as tfds

from mprnet_jax.compat import warn_once


class _LocalInfo(tfds.core.DatasetInfo):
    """Information on a data set that is not in TFDS's bucket."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


def local_info(
    builder: tfds.core.DatasetBuilder, features: tfds.features.FeaturesDict
) -> tfds.core.DatasetInfo:
    """Returns the information on a data set without looking it up in TFDS's bucket.

    Reason: builders look the data set up in a bucket, which needs a connection or takes until a
        timeout, and leaves a temporary folder behind each time.
    Tried with: tensorflow-datasets 4.9.10.
    Upstream: tensorflow/datasets#5719, open.
    Remove when: builders have an option against the lookup.
    """
    if not hasattr(tfds.core.DatasetInfo, "initialize_from_bucket"):
        warn_once(
            "tensorflow-datasets",
            "it may look for prepared sets online and leave empty temporary folders behind",
        )
        return tfds.core.DatasetInfo(builder=builder, features=features)
    return _LocalInfo(builder=builder, features=features)


def remove_incomplete(folder: Path) -> None:
    """Removes what a killed preparation left in the folder of a data set.

    Reason: TFDS writes to a folder `incomplete.*` and renames it, but never removes old ones.
    Tried with: tensorflow-datasets 4.9.10. If the name has changed, they stay and do no harm.
    Upstream: none known.
    Remove when: TFDS removes them.
    """
    for incomplete in folder.glob("incomplete.*"):
        shutil.rmtree(incomplete)
