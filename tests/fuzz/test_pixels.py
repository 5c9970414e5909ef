"""What is accepted has the pixels of a strict decoder, and what is not stops nothing."""

import pytest

from tests.fuzz.harness import NUM_EXAMPLES
from tests.fuzz.pixels import examine


@pytest.mark.slow
def test_accepted_files_have_the_shape_and_pixels_of_a_strict_decoder(tmp_path):
    """350 files, or 10,000 in the long form, in place and stored."""
    rows, wrong = examine(tmp_path, 350 if NUM_EXAMPLES < 64 else 10_000)
    assert not wrong, wrong
    for row in rows:  # none is all accepted, or all rejected
        assert 0 < row["accepted"] <= row["with --resize"] < row["files"], rows
