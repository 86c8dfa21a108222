"""The steps of schema version 0002, by what they are for. The version's own file says in which order they run."""
