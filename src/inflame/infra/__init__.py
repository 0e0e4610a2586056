"""Where training runs. Of a model this room knows one thing: its folder has an `app.py`."""
