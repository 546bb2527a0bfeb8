from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from parfocal.models import precision


@pytest.fixture(params=[True, False], ids=["bfloat16 in hardware", "emulated"])
def hardware(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    def said() -> Mapping[str, bool]:
        return {"avx2": True, "avx512_bf16": bool(request.param)}

    monkeypatch.setattr(torch.cpu, "get_capabilities", said, raising=False)
    return bool(request.param)


def test_auto_is_bfloat16_where_the_processor_multiplies_in_it(hardware: bool) -> None:
    assert precision.has_bfloat16() is hardware
    assert precision.settled("auto", "cpu") == ("bfloat16" if hardware else "float32")
    assert precision.settled("auto", "cuda") == "bfloat16"


def test_what_is_asked_for_is_taken(hardware: bool) -> None:
    assert precision.settled("float32", "cuda") == "float32"
    assert precision.settled("bfloat16", "cpu") == "bfloat16"


@pytest.mark.usefixtures("hardware")
def test_what_is_no_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of auto, bfloat16, float32"):
        precision.settled("int8", "cpu")


def test_a_training_step_computes_in_it(hardware: bool) -> None:
    layer, image = torch.nn.Linear(3, 2), torch.ones(1, 3)
    for asked in ("auto", "float32"):
        with precision.training_autocast(asked, "cpu"):
            found = layer(image).dtype
        assert found == (torch.bfloat16 if hardware and asked == "auto" else torch.float32)
