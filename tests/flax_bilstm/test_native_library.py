"""The C++ library is there where it can be built; without it, its other tests are skipped."""

import os
import shutil

import pytest

import flax_bilstm as fb
from flax_bilstm.recurrence.native import library


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, so nothing to build with")
@pytest.mark.skipif(os.environ.get(library.VARIABLE) == "off", reason="it is switched off")
def test_the_library_is_available_where_a_compiler_is():
    assert fb.native_available(), fb.native_available().reason
