"""The pipeline in a browser: `studio.py` generates and writes files, `views.py` draws, `page.py` is the page."""
