import pytest

from alexnet_dali.tools import tables


def test_columns_are_as_wide_as_their_longest_cell():
    rows = [["a", "1.0%", "yy"], ["long", "100", ""]]
    assert tables.plain(rows, ["n", "share", "q"], right={1}).splitlines() == [
        "n     share  q",
        "----  -----  --",
        "a      1.0%  yy",
        "long    100",
    ]
    assert tables.markdown(rows, ["n", "share", "q"], right={1}).splitlines() == [
        "| n    | share | q  |",
        "|------|-------|----|",
        "| a    |  1.0% | yy |",
        "| long |   100 |    |",
    ]
    assert tables.plain([["a"]], ["n", "q"]).splitlines() == ["n  q", "-  -", "a"]
    with pytest.raises(ValueError):
        tables.plain([["a", "b"]], ["n"])
    assert tables.markdown([], ["n"]).splitlines() == ["| n |", "|---|"]


def test_records_have_headings_of_all_rows_and_end_numbers_flush():
    rows = [{"name": "x", "ms": 2.34567}, {"name": "y", "ms": 10, "why": "slow"}]
    assert tables.records(rows, ".3g").splitlines() == [
        "| name |   ms | why  |",
        "|------|------|------|",
        "| x    | 2.35 |      |",
        "| y    |   10 | slow |",
    ]
