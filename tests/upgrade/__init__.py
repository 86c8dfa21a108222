"""Two releases side by side on one database and one namespace; `python -m tests.upgrade` runs a long version."""
