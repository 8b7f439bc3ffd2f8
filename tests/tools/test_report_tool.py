"""tools/report.py on a run that tools/train.py made, and on its users' mistakes."""

import subprocess
import sys

import pytest
from tooling import TOOLS, tool


def test_one_run_into_its_own_folder(tiny_run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert tool("report")([str(tiny_run), "--out", str(page)]) == 0
    assert f"{page}: 1 run" in capsys.readouterr().out
    html = page.read_text(encoding="utf-8")
    assert "Best 1: " in html
    assert html.count("<img ") == 3 * 4  # three validation images
    assert "iou_disc" not in html


def test_a_page_of_results(tiny_run, tmp_path):
    page = tmp_path / "RESULTS.md"
    (tmp_path / "notes.md").write_text("What did not help: nothing.")
    arguments = [tiny_run, tiny_run, "--markdown", page, "--notes", tmp_path / "notes.md"]
    assert tool("report")([str(a) for a in arguments]) == 0
    text = page.read_text(encoding="utf-8")
    assert "What did not help" in text
    assert "--markdown RESULTS.md --notes notes.md" in text
    assert str(tmp_path) not in text


def test_mistakes_are_one_line(fails, tiny_run, tmp_path):
    assert "no such folder" in fails("report", tmp_path / "missing")
    assert "no run: it holds neither recipe.json" in fails("report", tmp_path)
    assert "its folder does not exist" in fails("report", tiny_run, "--out", tmp_path / "no" / "page.html")
    assert "no run is of the data" in fails("report", tiny_run, "--markdown", tmp_path / "R.md", "--pictures", "pets")
    assert "no such file" in fails("report", tiny_run, "--markdown", tmp_path / "R.md", "--notes", tmp_path / "n.md")
    assert "two pages" in fails("report", tiny_run, "--markdown", tmp_path / "R.md", "--out", tmp_path / "R.html")


def test_it_needs_neither_keras_nor_tensorflow(tiny_run, tmp_path):
    code = f"""
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None
sys.path.insert(0, {str(TOOLS)!r})
import report
sys.exit(report.main([{str(tiny_run)!r}, "--out", {str(tmp_path / "page.html")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        tool("report")(["--help"])
    assert stop.value.code == 0
    assert "python tools/report.py" in capsys.readouterr().out
