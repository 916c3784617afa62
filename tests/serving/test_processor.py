"""Which type of numbers an engine takes on which processor."""

import pytest

from serving.app import engine_dtype
from serving.config import Config
from serving.processor import cpu_dtype, multiplies_bfloat16

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu fma avx avx2 f16c", False),
        ("fpu avx2 avx512f avx512_bf16", True),
        ("avx512f amx_bf16 amx_tile", True),
        ("avx512f avx512bw", False),
    ],
)
def test_flags_tell_whether_products_of_bfloat16_are_computed_in_hardware(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: avx512_bf16\n")
    assert multiplies_bfloat16(cpuinfo) is expected


def test_a_machine_that_says_nothing_gets_float32(tmp_path):
    assert not multiplies_bfloat16(tmp_path / "absent")


def test_the_engine_takes_what_the_configuration_says_and_else_what_is_fast():
    assert engine_dtype(Config.model_validate({"engine": {"dtype": "float16"}})) == "float16"
    assert engine_dtype(Config()) == cpu_dtype()
    assert engine_dtype(Config.model_validate({"engine": {"device": "cuda"}})) == "bfloat16"
