import re

from alexnet_dali.pipeline.system import progress as module
from alexnet_dali.pipeline.system.progress import progress


def test_off_a_terminal_a_line_tells_how_far_it_is_and_how_long_the_rest_takes(monkeypatch, capsys):
    """50 were done before; 100 in 40 s leave 60 s for the other 150."""
    clock = iter([1000.0, 1020.0, 1040.0, 1045.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress(300, "val", "images", done=50) as advance:
        advance(40)  # after 20 s: too early for a line
        advance(60)
        advance(10)  # 5 s after the last line
    line = r"\d\d:\d\d:\d\d  val: 150 of 300 images, 0:01:00 left\n"
    assert re.fullmatch(line, capsys.readouterr().err)


def test_what_is_not_shown_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_EVERY", 0.0)
    for shown in (False, True):
        with progress(2, "x", "files", shown=shown) as advance:
            advance(1)
        assert bool(capsys.readouterr().err) == shown
