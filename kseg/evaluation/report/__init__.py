"""Folders of runs -> a page that shows and compares them: HTML to look at, Markdown to keep beside the code.

Reads only what the runs wrote, so it needs neither Keras nor TensorFlow: runs.py reads, published.py holds what others
reached, tables.py and charts.py say what to show, page.py and markdown.py write it.
"""

from kseg.evaluation.report.markdown import write_markdown
from kseg.evaluation.report.page import write_html
from kseg.evaluation.report.runs import read_entries

__all__ = ["read_entries", "write_html", "write_markdown"]
