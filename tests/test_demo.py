"""The demo's pieces; `.ci/run` runs the demo itself."""

from __future__ import annotations

from infoplane import demo


def test_a_second_demo_gets_a_folder_of_its_own(tmp_path):
    wanted = tmp_path / "twelve-bit"
    assert demo.free_folder(wanted) == wanted
    wanted.mkdir()
    assert demo.free_folder(wanted) == tmp_path / "twelve-bit-2"
    (tmp_path / "twelve-bit-2").mkdir()
    assert demo.free_folder(wanted) == tmp_path / "twelve-bit-3"


def test_a_short_demo_writes_its_figures_and_says_what_to_doubt(tmp_path):
    said = []
    demo.show("digits", tmp_path / "out", epochs=2, seed=0, progress=False, echo=said.append)
    assert {p.name for p in (tmp_path / "out").glob("*.p*")} == {"plane.png", "plane.pdf", "curves.png", "curves.pdf"}
    text = "\n".join(said)
    assert "within chance" in text
    assert "relu1" in text
    assert "Saturated" in text
