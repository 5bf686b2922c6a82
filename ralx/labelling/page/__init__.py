"""The page that people label on: a small local server and one page of plain modules.

Needs the extra `label`: `pip install 'ralx[label]'`.
"""

from ralx.labelling.page.background import Background
from ralx.labelling.page.server import page_app, serve

__all__ = ["Background", "page_app", "serve"]
