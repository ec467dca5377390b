"""The file form of a model: exact, versioned, checksummed."""

import math

import pytest

from core.record import replace
from hmm_regime_detector import ModelError, decode, encode
from tests.hmm_world import hand_made, trained


def test_a_model_survives_its_file_form_exactly() -> None:
    """Encoded and decoded it is equal, number for number."""
    assert decode(encode(trained())) == trained()


def test_a_model_that_cannot_be_used_says_why() -> None:
    """Another version, a flipped bit, half a file, another file: plain words."""
    data = encode(hand_made())
    with pytest.raises(ModelError, match="version 2, this program reads 1"):
        decode(encode(hand_made(version=2)))
    with pytest.raises(ModelError, match="checksum"):
        decode(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match="checksum"):
        decode(data[:-10])
    with pytest.raises(ModelError, match="cut short"):
        decode(data[:20])
    with pytest.raises(ModelError, match="not a regime model"):
        decode(b"{}")
    with pytest.raises(ModelError, match="not a regime model"):
        decode(b"")


@pytest.mark.parametrize(
    "changes",
    [
        {"means": ((0.0,) * 4,) * 2},
        {"labels": (0, 1, 3)},
        {"deviation": (1.0, 0.0, 1.0, 1.0)},
        {"transmat": ((0.9, 0.2, 0.0), (0.05, 0.9, 0.05), (0.0, 0.1, 0.9))},
        {"mean": (math.nan, 0.0, 0.0, 0.0)},
    ],
)
def test_a_model_of_other_shapes_or_numbers_is_refused(changes: dict[str, object]) -> None:
    """A checksum does not make nonsense a model."""
    with pytest.raises(ModelError, match="corrupted"):
        decode(encode(replace(hand_made(), **changes)))
