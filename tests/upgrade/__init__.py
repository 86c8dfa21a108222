"""Two releases side by side on one database and one namespace; `python -m tests.upgrade` tries it at length."""
