from __future__ import annotations

import numpy as np
import pytest

from visuomotor.codecs.base import DecodeFailure
from visuomotor.codecs.bins import UniformBins
from visuomotor.testing import check_codec


def test_uniform_bins_keep_the_contract() -> None:
    check_codec(UniformBins(horizon=5, action=3), horizon=5, action=3)
    check_codec(UniformBins(7, horizon=1, action=1), horizon=1, action=1)


class Broken(UniformBins):
    """Uniform bins with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__(16, horizon=4, action=2)
        self.fault = fault
        self.calls = 0
        if fault == "bound":
            self.error_bound = 0.01

    def encode(self, actions):
        if self.fault == "writes":
            actions[:] = 0
        tokens = super().encode(actions)
        self.calls += 1
        if self.fault == "vocabulary":
            tokens = tokens + 16
        if self.fault == "type":
            tokens = tokens.astype(np.int32)
        if self.fault == "random":
            tokens = (tokens + self.calls) % 16
        return tokens

    def decode(self, tokens):
        answer = super().decode(tokens)
        if isinstance(answer, DecodeFailure):
            if self.fault == "zeros":
                return np.zeros((4, 2), np.float32)
            return DecodeFailure(reason="" if self.fault == "silent" else answer.reason, tokens=answer.tokens)
        if self.fault == "fails":
            return DecodeFailure(reason="no idea", tokens=())
        return answer.astype(np.float64) if self.fault == "double" else answer


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("bound", "stated bound is 0.01"),
        ("writes", "writes into the actions"),
        ("vocabulary", r"tokens \[\d+, \d+, \d+\], its vocabulary is 16"),
        ("type", "gives int32"),
        ("random", "two results"),
        ("zeros", "expected a DecodeFailure"),
        ("silent", "without a reason"),
        ("fails", "cannot decode its own tokens: no idea"),
        ("double", "gives float64"),
    ],
)
def test_each_fault_is_found(fault: str, message: str, unchecked: None) -> None:
    with pytest.raises(AssertionError, match=message):
        check_codec(Broken(fault), horizon=4, action=2)
